"""Processes meet before JAX is asked to join them: who is missing is known by number.

JAX's own service ends a process by a signal where another one doesn't come in time, and doesn't
say which. So process 0 listens at the coordinator's address first, with a socket that is closed
when all are there, before the service takes the port.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable

from sparse_jax.sharding.joining import join_address

_HELLO = re.compile(r"sparse_jax: process (\d{1,9}) of (\d{1,9})\n")
_ALL = "all\n"
_LONGEST = 1000  # characters of a line
_PAUSE = 0.2  # seconds between two looks
_ANSWER = 5.0  # seconds that a line may be on its way
_NOTICE = 5.0  # seconds of waiting before it is spoken of

_Heard = queue.SimpleQueue[tuple[socket.socket, str]]


def meet(
    where: tuple[str, int],
    processes: int,
    process: int,
    *,
    timeout: float,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Waits until all processes of a run are at the coordinator's address.

    Args:
      where: the coordinator's address and port, at which nobody listens yet.
      processes: how many there are.
      process: which one this is, from 0.
      timeout: seconds to wait for the others.
      tell: is called with a line for the user if that takes longer than 5 seconds.

    Raises:
      RuntimeError: if not all came in time: it names those that are missing.
      ValueError: if two processes have the same number, or count differently.

    Example:
      >>> meet(("127.0.0.1", 8476), 1, 0, timeout=1)
    """
    if processes == 1:
        return
    if process == 0:
        problem = _await_others(where, processes, timeout, tell)
    else:
        problem = _report(where, processes, process, timeout, tell)
    if problem:
        raise (ValueError if "must be" in problem else RuntimeError)(problem)


def _await_others(
    where: tuple[str, int],
    processes: int,
    timeout: float,
    tell: Callable[[str], None] | None,
) -> str:
    """What is wrong, which is told to all who came; nothing if all did."""
    started, at = time.monotonic(), join_address(*where)
    heard: _Heard = queue.SimpleQueue()
    present: dict[int, socket.socket] = {}
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    problem = ""
    with contextlib.ExitStack() as guests:
        with socket.create_server(where, family=family, backlog=1024) as listener:
            listener.settimeout(_PAUSE)
            while not problem:
                present = {i: guest for i, guest in present.items() if not _gone(guest)}
                missing = [i for i in range(1, processes) if i not in present]
                waited = time.monotonic() - started
                if not missing:
                    break
                if waited > timeout:
                    problem = (
                        f"process {_list(missing)} of {processes} did not come to {at} in "
                        f"{timeout:g} s: start all of them, and look at what they print"
                    )
                elif tell and waited > _NOTICE:
                    tell(f"at {at}, waiting for process {_list(missing)} of {processes}")
                    tell = None
                with contextlib.suppress(TimeoutError):
                    guest = guests.enter_context(listener.accept()[0])
                    threading.Thread(target=_hear, args=(guest, heard), daemon=True).start()
                while not (heard.empty() or problem):
                    problem = _seat(*heard.get(), present, processes)
        _answer(present.values(), problem)
    return problem


def _hear(guest: socket.socket, heard: _Heard) -> None:
    """Passes on the line that one says who came."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        guest.settimeout(_ANSWER)
        heard.put((guest, _line(guest)))


def _seat(
    guest: socket.socket, line: str, present: dict[int, socket.socket], processes: int
) -> str:
    """Counts one in who is of this run, and leaves others alone; what is wrong with it, if so."""
    hello = _HELLO.fullmatch(line)
    if hello is None:
        guest.close()
        return ""
    number, count = map(int, hello.groups())
    rule = f"must be from 0 to {processes - 1}, each once"
    if count != processes:
        problem = f"{count} on process {number}, {processes} on process 0: must be the same"
        problem = f"processes = {problem}"
    elif not 0 < number < processes:
        problem = f"process = {number}: {rule}"
    elif number in present and not _gone(present[number]):
        problem = f"process = {number}: was given twice, {rule}"
    else:
        present[number] = guest
        return ""
    _answer([guest], problem)
    return problem


def _answer(guests: Iterable[socket.socket], problem: str) -> None:
    """Tells the others, who then leave first: whose side closes first keeps the port a while."""
    guests = list(guests)
    for guest in guests:
        with contextlib.suppress(OSError):
            guest.settimeout(_ANSWER)
            guest.sendall((problem.replace("\n", " ") + "\n" if problem else _ALL).encode())
    for guest in guests:
        with contextlib.suppress(OSError):
            guest.recv(1)


def _gone(guest: socket.socket) -> bool:
    """Whether the other side has closed."""
    try:
        guest.setblocking(False)
        return guest.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _report(
    where: tuple[str, int],
    processes: int,
    process: int,
    timeout: float,
    tell: Callable[[str], None] | None,
) -> str:
    """What process 0 says is wrong; nothing if all came."""
    started, at = time.monotonic(), join_address(*where)
    while True:
        waited = time.monotonic() - started
        with contextlib.suppress(OSError, UnicodeDecodeError):
            with socket.create_connection(where, timeout=_ANSWER) as host:
                # Process 0 may have begun to wait later, and then gives up later.
                host.settimeout(timeout + _ANSWER)
                host.sendall(f"sparse_jax: process {process} of {processes}\n".encode())
                answer = _line(host)
                if answer:
                    return "" if answer == _ALL else answer.rstrip("\n")
        if waited > timeout:
            return (
                f"process 0 of {processes} was not at {at} in {timeout:g} s, or stands still: "
                f"start it, let process {process} reach that port, and look at what it prints"
            )
        if tell and waited > _NOTICE:
            tell(f"waiting for process 0 of {processes} at {at}")
            tell = None
        time.sleep(_PAUSE)


def _line(other: socket.socket) -> str:
    """What the other side says up to the end of a line; nothing if it closes instead."""
    said = b""
    while not said.endswith(b"\n") and len(said) < _LONGEST:
        got = other.recv(1)
        if not got:
            return ""
        said += got
    return said.decode()


def _list(numbers: list[int]) -> str:
    """`1, 2, 3 and 5 more`"""
    more = len(numbers) - 10
    return ", ".join(map(str, numbers[:10])) + (f" and {more} more" if more > 0 else "")
