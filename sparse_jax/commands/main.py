"""`sparse-jax`: every command of the library under one name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from sparse_jax.runtime import compiled


class Command(NamedTuple):
    """Where a command's `main` is."""

    module: str  # below sparse_jax.commands
    about: str
    needs: str = "examples"  # the extra that it takes
    shares: bool = False  # its work with other processes


COMMANDS = {
    "xmc train": Command(
        "xmc.train", "train a classifier over many labels, and keep it", shares=True
    ),
    "xmc train-sharded": Command(
        "xmc.train_sharded", "a network, its rows dealt to processes or machines", shares=True
    ),
    "xmc predict": Command("xmc.predict", "the best labels of new points or texts"),
    "xmc evaluate": Command("xmc.evaluate", "a kept classifier on a test file"),
    "xmc update": Command("xmc.update", "teach a kept classifier new points and new labels"),
    "xmc inspect": Command("xmc.inspect", "what a kept classifier is"),
    "convert": Command("convert", "points from one kind of file into another", "tables"),
    "lm train": Command("lm.train", "train a language model on text files", "lm"),
    "lm evaluate": Command("lm.evaluate", "perplexity of a text under a kept model", "lm"),
    "lm score": Command("lm.score", "the log probability of each line", "lm"),
    "lm perplexity": Command("lm.perplexity", "of lines that are sentences", "lm"),
    "lm filter": Command("lm.filter", "keep the lines that a kept model finds likely", "lm"),
    "lm arpa": Command("lm.arpa", "keep an n-gram model so that it opens at once", "lm"),
    "lm generate": Command("lm.generate", "write on from a prompt", "lm"),
    "lm preference": Command("preference", "tune a language model by preferences", "lm"),
    "recommend train": Command("recommend.train", "train a recommender on histories of users"),
    "recommend predict": Command("recommend.predict", "the next items of users"),
    "recommend evaluate": Command("recommend.evaluate", "a kept recommender on held-out items"),
    "recommend related": Command("recommend.related", "what goes with an item"),
    "recommend compare": Command("recommend.compare", "it and its peers on the same histories"),
    "recommend update": Command("recommend.update", "teach it new events, users and items"),
    "search": Command("search", "an index of your documents that learns from you", "search"),
    "summarize": Command("summarize", "summaries of texts, extracted or written", "summarize"),
    "dedupe": Command("dedupe", "drop near-duplicates among texts"),
    "launch": Command("launch", "processes of one run on this machine, ended together"),
    "serve": Command("serve", "a kept model or index as a page or JSON service", "search"),
}
GROUPS = sorted({name.split()[0] for name in COMMANDS if " " in name})


def program() -> int:
    """Runs the command of the process, with what earlier ones compiled; returns its status."""
    status = compiled.run(main)
    if status == 130:
        # Of Ctrl-C: a computation may still run, and would crash where the interpreter takes its
        # libraries down beneath it. All that `with` opened is closed by now.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        return _flushed(lambda: _show(_usage(None)))
    if given[0] == "--version":
        return _flushed(lambda: _show(f"sparse-jax {_version()}"))
    if given[0] in GROUPS:
        if len(given) < 2 or given[1] in ("-h", "--help"):
            return _flushed(lambda: _show(_usage(given[0]), 0 if len(given) > 1 else 2))
        name, rest = " ".join(given[:2]), given[2:]
    else:
        name, rest = given[0], given[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean `sparse-jax {near[0]}`?" if near else ""
        print(f"sparse-jax: no command {name!r}{hint}\n\n{_usage(None)}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _version() -> str:
    try:
        return metadata.version("sparse_jax")
    except metadata.PackageNotFoundError:
        return "0, a source tree that is not installed"


def _run(name: str, rest: list[str]) -> int:
    command = COMMANDS[name]
    sys.argv[0] = f"sparse-jax {name}"  # what its --help and errors call it
    # While libraries load, Ctrl-C ends the process at once: some of them swallow the exception.
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if main_thread else None
    try:
        module = importlib.import_module(f"sparse_jax.commands.{command.module}")
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "sparse_jax"):
            raise
        print(
            f"sparse-jax {name} needs {missing}: pip install 'sparse_jax[{command.needs}]'",
            file=sys.stderr,
        )
        return 2
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
    return _flushed(lambda: module.main(rest))


def _flushed(run: Callable[[], int]) -> int:
    """Runs what writes to standard output, until all is written; returns its status."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # of a full disk behind standard output, which buffers
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return status


def _show(text: str, status: int = 0) -> int:
    print(text)
    return status


def _usage(group: str | None) -> str:
    shown = {n: c for n, c in COMMANDS.items() if group is None or n.split()[0] == group}
    lines = [f"usage: sparse-jax {group or 'COMMAND'} ... [--help]", ""]
    lines += [f"  sparse-jax {name:<18} {command.about}" for name, command in shown.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(program())
