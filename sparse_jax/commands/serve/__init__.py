"""Serve kept models to programs on this computer, and indexes as pages, too.

    sparse-jax serve MODEL             a classifier or an index, at http://127.0.0.1:8765
    sparse-jax serve A B               several, with a choice on the page
    sparse-jax serve --new DIR         an index, made empty if there is none: add files on its page
    python scripts/serve.py            a search page over a sample of packages
    python scripts/serve.py DIR        with the index in DIR; made of the sample if there is none

Programs ask in JSON, for many points at once:

    curl http://127.0.0.1:8765/health
    curl http://127.0.0.1:8765/predict -d '{"texts": ["red apples"], "top_k": 3}'
    curl http://127.0.0.1:8765/search -d '{"queries": ["red apples"], "top_k": 3}'
    curl http://127.0.0.1:8765/ask -d '{"questions": ["where do red apples grow?"]}'

With --model a language model of `sparse-jax lm train` writes answers, too, of sentences of the
documents found; the page takes thumbs on them, of which `sparse-jax search tune` learns.

Of several models each is asked by the name of its directory: /models/A/search.

The server listens on the loopback address and answers to no other host name, unless told otherwise.
It stops on Ctrl-C or SIGTERM, after the requests it has begun, within seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from sparse_jax.commands import checks
from sparse_jax.commands.serve.api import is_loopback, make_app
from sparse_jax.commands.serve.asking import MAX_PASSAGES, MAX_QUESTIONS, MAX_WORDS
from sparse_jax.commands.serve.bodies import (
    BODY_SECONDS,
    MAX_BODY,
    MAX_FILE,
    MAX_FILES_BYTES,
    STOP_SECONDS,
    Bodies,
)
from sparse_jax.commands.serve.models import open_model
from sparse_jax.commands.serve.protocols import Served
from sparse_jax.commands.serve.reading import MAX_ANSWERS, MAX_POINTS, MAX_TOP_K
from sparse_jax.commands.serve.worker import BATCH, MAX_WAITING

if TYPE_CHECKING:
    from sparse_jax.commands.serve.writer import Writer

DEFAULT = "search-index"
MAX_DRAFTS = 8
GRACE = 10  # seconds that requests have to finish once the server stops
LIMITS = f"""\
limits:
  a request    {MAX_BODY:,} bytes, {MAX_POINTS:,} points or queries, top_k {MAX_TOP_K:,}, and
               {MAX_ANSWERS:,} labels in its answer; all of it within {BODY_SECONDS:g} s
  to /ask      {MAX_QUESTIONS} questions, top_k {MAX_PASSAGES}, max_words {MAX_WORDS:,}
  files        that a page takes: {MAX_FILE:,} bytes each, {MAX_FILES_BYTES:,} together
  a batch      what waits is computed together, until there are {BATCH} points
  waiting      {MAX_WAITING} requests; further ones are asked to come again (503)
  stopping     requests half sent have {STOP_SECONDS:g} s, those being computed {GRACE} s
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=LIMITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help=f"directories ({DEFAULT}, made if missing)")
    add("--new", action="store_true", help="make an empty index where a directory is missing")
    add("--model", metavar="LM", dest="writer", help="let this language model write answers")
    add("--drafts", type=int, metavar="N", help="other answers of it that the page shows (2)")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=int, default=8765, help="0 for any that is free (8765)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port}: must be from 0 to 65535")
    if args.new and not args.models:
        parser.error("--new: must have a directory behind it")
    if args.writer is None:
        checks.no_effect(parser, args, ("drafts",), "without --model, which writes them")
    elif args.drafts is not None and not 0 <= args.drafts <= MAX_DRAFTS:
        parser.error(f"--drafts {args.drafts}: must be from 0 to {MAX_DRAFTS}")
    checks.fill(args, {"drafts": 2})
    return args


def main(argv: Sequence[str] | None = None, *, sample: bool = False) -> int:
    """Serves until interrupted; returns the exit status.

    Args:
      argv: the command line; None for the process's own.
      sample: makes an index of a sample where the directory is missing or empty, as always happens
        where none is named.
    """
    args = parse_args(argv)
    paths = [Path(model) for model in args.models or [DEFAULT]]
    try:
        with contextlib.ExitStack() as stack:
            writer = _writer(args)
            served: dict[str, Served] = {}
            for path in paths:
                one = _open(path, sample or not args.models, args.new, writer)
                stack.callback(_close, one)
                served[_name(path, served)] = one
            if writer is not None and all(one.kind != "search" for one in served.values()):
                raise ValueError(
                    f"--model {args.writer}: no effect without an index: it writes answers out of "
                    "one's documents; name an index, or leave it out"
                )
            return _serve(served, args.host, args.port)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the server ran
        return 130


def _writer(args: argparse.Namespace) -> Writer | None:
    """The language model, if one was named."""
    if args.writer is None:
        return None
    from sparse_jax.commands.serve.writer import Writer

    return Writer(args.writer, args.drafts)


def _open(path: Path, sample: bool, new: bool, writer: Writer | None) -> Served:
    if (sample or new) and not (path.exists() and (path.is_file() or any(path.iterdir()))):
        from sparse_jax.commands.serve import page

        (page.make_empty_index if new else page.make_sample_index)(path)
    return open_model(path, writer)


def _name(path: Path, taken: Container[str]) -> str:
    """What a model is called in addresses: as its directory, with a number if that is taken."""
    name = re.sub(r"[^\w.-]+", "-", path.resolve().name).strip("-") or "model"
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _close(served: Served) -> None:
    """Waits for what was begun; a second Ctrl-C does not: what was acknowledged is on the disk."""
    try:
        served.close()
    except KeyboardInterrupt:
        print("stopped: what was acknowledged is kept", file=sys.stderr, flush=True)
        os._exit(130)


def _serve(served: Mapping[str, Served], host: str, port: int) -> int:
    listener = _listen(host, port)
    if not is_loopback(host):
        print(
            f"warning: --host {host}: whoever reaches this machine can ask the model, teach an "
            "index and add to it; use 127.0.0.1 to keep it to yourself",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listener.getsockname()[1]}", flush=True)
    app = make_app(served, host=host)
    try:
        run(app, listener)
    finally:
        app.state.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    Raises:
      OSError: if the address is not of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        what = f"--host {host} --port {port}: can't listen there ({error}); choose another"
        raise OSError(what) from None


class Server(uvicorn.Server):
    """One that waits no longer than a few seconds for requests that are half sent.

    Args:
      config: of uvicorn.
      bodies: of the application.
    """

    def __init__(self, config: uvicorn.Config, bodies: Bodies) -> None:
        super().__init__(config)
        self.bodies = bodies

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.bodies.stop()
        await super().shutdown(sockets)


def run(app: Starlette, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what was begun."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = Server(config, app.state.bodies)
    if threading.current_thread() is not threading.main_thread():
        return server.run(sockets=[listener])
    # uvicorn passes signals on to the handlers it found once it has stopped: to itself, or they
    # would end the process before its files are closed.
    before = {s: signal.signal(s, server.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
