"""Start processes of one run on this machine, and end them together.

    sparse-jax launch -n 2 -- xmc train train.txt --model MODEL
    sparse-jax launch -n 2 -- xmc train-sharded train.txt --model MODEL
    sparse-jax launch -n 2 -- python my_training.py

Each process finds in its environment where the others are; a command of sparse-jax needs no more,
a script of yours calls sparse_jax.sharding.initialize(). If one of them fails, or is killed, the
others are stopped, and what it was is said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from sparse_jax.commands.parsing import Parser

_GRACE = 3.0  # seconds between asking to end and ending
# How a process ends because another one did: `sharding.processes.LOST`, and JAX where a heartbeat
# is missing.
_BY_OTHERS = (75, -signal.SIGABRT)
_SETTLE = 0.5  # seconds
_LOOK = 0.05  # seconds between looks at the processes
_FRAME = re.compile(r"\*\*\* Check failure stack trace|\s+@\s+0x[0-9a-f]+\s")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("-n", "--processes", type=int, required=True, metavar="N", help="how many to start")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens (default: 127.0.0.1 and a free port)",
    )
    add(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="a command of sparse-jax with its options, or a program",
    )
    args = parser.parse_args(argv)
    if args.command[:1] == ["--"]:
        del args.command[0]
    if not args.command:
        parser.error(
            "COMMAND is missing: give it behind --, as: launch -n 2 -- xmc train-sharded …"
        )
    if args.processes < 1:
        parser.error(f"--processes {args.processes}: must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the status of the first process that failed, or 0."""
    args = parse_args(argv)
    coordinator = args.coordinator or f"127.0.0.1:{free_port()}"
    try:
        return launch(_program(args.command), args.processes, coordinator)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {args.command[0]} can't be started: {error}", file=sys.stderr)
        return 2


def _program(command: list[str]) -> list[str]:
    """Ours by the interpreter that runs this; others as they are.

    Raises:
      ValueError: if it is one of ours that does not share its work.
    """
    from sparse_jax.commands import main as ours

    known = {name.split()[0] for name in ours.COMMANDS}
    if command[0] in known:
        name = " ".join(command[:2]) if command[0] in ours.GROUPS else command[0]
        sharing = [name for name, each in ours.COMMANDS.items() if each.shares]
        if name not in sharing:
            raise ValueError(
                f"{name}: must be a command that shares its work, {' or '.join(sharing)}; run it "
                "without launch"
            )
        return [sys.executable, "-m", "sparse_jax.commands.main", *command]
    return command


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(program: list[str], count: int, coordinator: str) -> int:
    """Starts processes, passes on what they print, and watches them.

    Args:
      program: the command line of each.
      count: how many.
      coordinator: "HOST:PORT" of process 0.

    Returns:
      0 once all have ended well; else the status of the first that failed, 128 + the signal of one
      that was killed. The others are then gone.

    Raises:
      OSError: if the program can't be started.
    """
    running: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    with _stopping(running):
        for number in range(count):
            running.append(_start(program, number, count, coordinator))
            readers += _pass_on(running[-1], number)
        status, failed = _watch(running)
    for reader in readers:
        reader.join(timeout=_GRACE)
    if failed:  # the last line, whatever the others had to say
        print(f"error: {failed}", file=sys.stderr, flush=True)
    return status


def _start(program: list[str], number: int, count: int, coordinator: str) -> subprocess.Popen[str]:
    given = {
        "SPARSE_JAX_COORDINATOR": coordinator,
        "SPARSE_JAX_PROCESSES": str(count),
        "SPARSE_JAX_PROCESS": str(number),
    }
    pipes: dict[str, Any] = {}
    if number:  # process 0 writes to the terminal itself, as its progress bar asks for
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        program,
        env=os.environ | given,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        **pipes,
    )


def _pass_on(process: subprocess.Popen[str], number: int) -> list[threading.Thread]:
    """What another process than 0 prints, with its number before each line.

    Frames of the stack that JAX shows where the first process is gone would hide why it is.
    """

    def copy(source: IO[str], target: Any) -> None:
        with source:
            for line in source:
                if not _FRAME.match(line):
                    target.write(f"[{number}] {line}")
                    target.flush()

    pairs = [(process.stderr, sys.stderr), (process.stdout, sys.stdout)]
    started = [
        threading.Thread(target=copy, args=(source, target), daemon=True)
        for source, target in pairs
        if source is not None
    ]
    for thread in started:
        thread.start()
    return started


def _watch(running: list[subprocess.Popen[str]]) -> tuple[int, str]:
    """Waits until all have ended, or one has failed: (its status, which it is and how it ended)."""
    while True:
        ended = [process.poll() for process in running]
        if any(ended):
            if set(ended) <= {None, 0, *_BY_OTHERS}:
                time.sleep(_SETTLE)  # whoever they lost may be about to end
                ended = [process.poll() for process in running]
            number, how = _first_to_fail(ended)
            others = ended.count(None) - (ended[number] is None)
            stops = f"; {others} more stopped" if others else ""
            who = f"process {number} of {len(running)} (pid {running[number].pid})"
            status = ended[number] or next(filter(None, ended))
            return status if status > 0 else 128 - status, f"{who} {how}{stops}"
        if all(status == 0 for status in ended):
            return 0, ""
        time.sleep(_LOOK)


def _first_to_fail(ended: list[int | None]) -> tuple[int, str]:
    """The process that made the others fail, by the statuses of all, and what became of it."""
    failed = [number for number, status in enumerate(ended) if status]
    alone = [number for number in failed if ended[number] not in _BY_OTHERS]
    if alone:
        # One that was killed says no word itself: it comes first.
        number = min(alone, key=lambda number: ended[number] or 0)
        status = ended[number] or 0
        return number, f"was killed by {_signal(-status)}" if status < 0 else f"ended with {status}"
    if None in ended:
        return ended.index(None), "does not answer the others and is stopped"
    return failed[0], "lost the others"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _stopping(running: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Ends whatever still runs, whatever happened here."""

    def ask(*_: object) -> None:
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, ask) if main_thread else None
    try:
        yield
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _GRACE
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if main_thread:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
