"""An append-only log on disk, and directories that change as a whole.

A line is `CRC32 JSON`. `append` returns once the line is on the disk, so whatever it acknowledged
survives a kill and a power cut; a line torn by one is the last, fails its check, and is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from sparse_jax.runtime.files import naming, sync_directory

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["Journal", "LockError", "read_journal", "take_lock"]


class LockError(OSError):
    """An index can't be written: another process writes to it, or the system has no locks."""


class Journal:
    """A log open for writing.

    Args:
      path: the file; made if absent.

    Raises:
      ValueError: if a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        good = read_journal(path)[1] if path.exists() else 0
        # Without a buffer, which would keep a refused record and write it before the next one.
        self.file = open(path, "ab", buffering=0)
        self.path, self.size = path, good
        try:
            # Cuts off a torn line, to which the next one would be appended otherwise.
            self.file.truncate(good)
            sync_directory(path.parent)
        except BaseException:
            self.file.close()
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Writes a record; returns when it is on the disk.

        Raises:
          OSError: if it can't be written; the log is then as it was.
        """
        if os.fstat(self.file.fileno()).st_size != self.size:  # what couldn't be cut off before
            self.file.truncate(self.size)
        line = _line(record)
        rest = memoryview(line)
        try:
            with naming(self.path):
                while rest:
                    rest = rest[self.file.write(rest) :]
                os.fsync(self.file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self.file.truncate(self.size)
            raise
        self.size += len(line)

    def close(self) -> None:
        self.file.close()


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a log, and how many bytes of it are whole.

    Raises:
      ValueError: if a line before the last is damaged: that is no torn write.
    """
    data = path.read_bytes()
    records, start = [], 0
    while start < len(data):
        stop = data.find(b"\n", start)
        line = data[start : stop if stop >= 0 else len(data)]
        if stop < 0 or not _whole(line):
            # A torn write may lack bytes or hold zeros, with or without its newline.
            if stop >= 0 and data.find(b"\n", stop + 1) >= 0:
                raise ValueError(
                    f"{path}: byte {start}: the line fails its checksum and is not the last one; "
                    f"the file was damaged after it was written: restore it from a backup"
                )
            break
        records.append(json.loads(line[9:]))
        start = stop + 1
    return records, start


def _whole(line: bytes) -> bool:
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:])


def take_lock(directory: Path) -> int:
    """Takes the right to write to a directory, held until the descriptor is closed.

    Raises:
      LockError: if another process has it, or this system has no `fcntl`, without which two
        processes could write at once.
    """
    if fcntl is None:
        raise LockError(
            f"{directory} can't be written: this system has no fcntl to lock it with; open it with "
            "read_only=True, or keep the index in memory"
        )
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise LockError(
            f"{directory} is being written by process {holder}: stop it, or open with "
            "read_only=True"
        ) from error
    with contextlib.suppress(OSError):  # a disk that is full
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
