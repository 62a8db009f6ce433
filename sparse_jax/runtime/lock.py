"""One writer at a time in a directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from sparse_jax.runtime.files import make_directory

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["LockError", "in_turn", "locked"]

_NAME = ".lock"


class LockError(OSError):
    """Another process writes to the directory."""


@contextlib.contextmanager
def locked(directory: str | os.PathLike[str] | None) -> Iterator[None]:
    """Holds a directory against other writers; the system frees it when the process ends.

    Where the system has no locks for files, as Windows, nothing is held.

    Args:
      directory: made if missing; None holds nothing.

    Raises:
      LockError: if another process holds it; it names the process.
      OSError: if the directory can't be made or written to.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, locked(folder):
      ...     with locked(folder):
      ...         pass
      Traceback (most recent call last):
      sparse_jax.runtime.lock.LockError: ... is in use by process ...
    """
    if directory is None:
        yield
        return
    root = make_directory(directory)
    if fcntl is None:
        yield
        return
    handle = os.open(root / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise LockError(
                f"{root} is in use by process {holder}: wait until it ends, or name another "
                "directory"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk it is held without a name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextlib.contextmanager
def in_turn(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process is in here with this directory: for a moment of work.

    Beside `locked`, which a process may hold for hours and which refuses; where the system has no
    locks for files, nothing is waited for.

    Args:
      directory: one that is there.

    Raises:
      OSError: if it can't be opened.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
