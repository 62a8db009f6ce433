"""The one way files are written: a reader, or a crash, sees the old content or the new."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lets errors of the disk say which file it was: those of writes don't.

    Args:
      path: that is written in here.

    Raises:
      OSError: that was raised, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_stream(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Replaces a file, durably, by what `write` puts into it; its directory is made if missing.

    Behind a symbolic link it is the file that is replaced. What is no regular file, such as a pipe
    or /dev/null, is written to as it stands.

    Args:
      path: of the file; "-" is standard output, as elsewhere, and "./-" a file of that name.
      write: is given the open file, which appears under its name once all is on the disk.

    Raises:
      OSError: if it can't be written; the old file is then as it was.
    """
    if os.fspath(path) == "-":
        sys.stdout.flush()
        write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not (target.is_file() or target.is_dir()):
        with naming(target), open(target, "wb") as file:
            write(file)
        return
    if target.is_symlink():
        target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming(target), open(part, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    sync_directory(target.parent)


def remove_leftovers(directory: str | os.PathLike[str]) -> None:
    """Removes what `write_stream` left in a directory when its process was killed."""
    for part in Path(directory).glob("*.tmp"):
        found = re.search(r"\.(\d+)-[0-9a-f]{8}\.tmp$", part.name)
        if found and not is_running(int(found[1])):
            part.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there; True where that can't be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def make_directory(directory: str | os.PathLike[str]) -> Path:
    """Makes a directory, and those above it, if it is missing.

    Raises:
      OSError: if it can't be made, or a file has its name.
    """
    root = Path(directory)
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: must be a directory; name another")
    root.mkdir(parents=True, exist_ok=True)
    return root


def check_writable(directory: str | os.PathLike[str]) -> None:
    """Makes a directory if it is missing, and tries it: to know before long work, not after it.

    Raises:
      OSError: if files can't be written there.
    """
    root = make_directory(directory)
    part = root / f"try.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    part.write_bytes(b"")
    part.unlink()


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces a file by these bytes: see `write_stream`."""
    write_stream(path, lambda file: file.write(content))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """A value as JSON that every parser takes: NaN and infinities are refused.

    Raises:
      ValueError: if it holds a number that JSON hasn't.
    """
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
