"""Who waits for whom before JAX joins processes, and who is named when one doesn't come."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sparse_jax.commands import launch
from sparse_jax.sharding import meeting


def run(*given: tuple[int, int], port: int, timeout: float = 1.0) -> list[Any]:
    """What became of each (processes, process): None, or what was raised."""
    ended: list[Any] = ["still waiting"] * len(given)

    def one(index: int) -> None:
        try:
            ended[index] = meeting.meet(("127.0.0.1", port), *given[index], timeout=timeout)
        except (RuntimeError, ValueError) as error:
            ended[index] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    return ended


def test_all_meet_and_leave_the_port() -> None:
    port = launch.free_port()
    assert run((3, 2), (3, 0), (3, 1), port=port, timeout=10) == [None] * 3
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_who_is_missing_is_named_by_all() -> None:
    ended = run((4, 0), (4, 2), port=launch.free_port())
    for error in ended:
        assert isinstance(error, RuntimeError)
        assert "process 1, 3 of 4 did not come to 127.0.0.1:" in str(error)
        assert "in 1 s" in str(error)
    (error,) = run((4, 2), port=launch.free_port())
    assert isinstance(error, RuntimeError) and "process 0 of 4 was not at" in str(error)


@pytest.mark.parametrize(
    "given, said",
    [
        ([(3, 0), (3, 1), (3, 1)], "process = 1: was given twice, must be from 0 to 2"),
        ([(2, 0), (3, 1)], "processes = 3 on process 1, 2 on process 0: must be the same"),
        ([(2, 0), (2, 7)], "process = 7: must be from 0 to 1"),
    ],
)
def test_numbers_that_do_not_fit_are_told_to_all(given: Any, said: str) -> None:
    for error in run(*given, port=launch.free_port(), timeout=10):
        assert isinstance(error, ValueError) and said in str(error)


def test_strangers_and_who_left_again_are_not_counted() -> None:
    port = launch.free_port()
    ended: list[Any] = []
    host = threading.Thread(target=lambda: ended.extend(run((2, 0), port=port, timeout=15)))
    host.start()

    def connect() -> socket.socket:
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", port))
            except OSError:
                time.sleep(0.05)
        raise AssertionError("nobody listens")

    with connect() as silent, connect() as other, connect() as left:
        silent.setblocking(False)
        other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with connect() as long:
            long.sendall(b"\xff" * 5000)
        left.sendall(b"sparse_jax: process 1 of ")  # and ends there
    time.sleep(0.5)
    assert host.is_alive()
    assert run((2, 1), port=port, timeout=10) == [None]
    host.join(timeout=20)
    assert ended == [None]


def test_waiting_is_spoken_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_NOTICE", 0.1)
    port, told = launch.free_port(), []
    for process in (0, 1):
        with pytest.raises(RuntimeError):
            meeting.meet(("127.0.0.1", port), 3, process, timeout=1, tell=told.append)
    assert told == [
        f"at 127.0.0.1:{port}, waiting for process 1, 2 of 3",
        f"waiting for process 0 of 3 at 127.0.0.1:{port}",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_process_that_stands_still_before_it_joins_is_named(tmp_path: Path) -> None:
    """JAX's service would end the others by a signal, after 68 s, without a number."""
    port, children = launch.free_port(), []
    program = (
        "import os, signal, sys\n"
        "from sparse_jax import sharding\n"
        "process = int(sys.argv[1])\n"
        "if process: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "with sharding.hard_exit():\n"
        f"    sharding.initialize('127.0.0.1:{port}', 2, process, timeout=2)\n"
    )
    try:
        for process in (0, 1):
            path = os.pathsep.join(sys.path)
            child = subprocess.Popen(
                [sys.executable, "-c", program, str(process)],
                env=os.environ | {"PYTHONPATH": path},
                stderr=subprocess.PIPE,
                text=True,
            )
            children.append(child)
        _, told = children[0].communicate(timeout=100)
        assert children[0].returncode == 1, told
        assert f"process 1 of 2 did not come to 127.0.0.1:{port} in 2 s" in told
    finally:
        for child in children:
            child.kill()
            child.communicate()
