"""What XLA compiled for one command, kept for the next: JAX's own cache, in a folder of the user.

JAX writes its entries in place, and never again: one that a killed process cut short would stay,
and be complained of at each start. So a process has a folder of its own, with links to the entries
there are, and hands on what it added once it has ended well.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import stat
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from sparse_jax.runtime.files import is_running

__all__ = ["cores", "kind_of_machine", "run"]

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    # JAX keeps what took a second: most of ours takes a tenth, and there are dozens.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # It would make the folder's path, which each process has its own, a part of every entry's key.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}
_MOST_BYTES = 256_000_000
_ENTRIES = "*-cache"
_KEPT = "*-cache.*"  # behind the name stands a checksum: a power cut may cut an entry short, too
_OWN = "run"


def run(command: Callable[[], int]) -> int:
    """Runs a program with JAX's compilation cache in the user's cache folder.

    That is `sparse_jax/compiled` in `$XDG_CACHE_HOME`, or `~/.cache`. A folder in the variable
    JAX_COMPILATION_CACHE_DIR is taken instead, and JAX_ENABLE_COMPILATION_CACHE=0 does without.
    Where nothing can be written, or others could write too, nothing is kept. What was compiled is
    the same program, so its results have the same bits.

    Args:
      command: returns the exit status. It, or what it starts, imports JAX: it is too late where
        that is imported already.

    Returns:
      The status.
    """
    given = os.environ.get(_FOLDER)
    if given is not None and not _is_own(Path(given)):
        return command()
    before: dict[str, str | None] = {n: os.environ.get(n) for n in (_FOLDER, *_SETTINGS)}
    kept = _folder()
    own = None if kept is None else _own_folder(kept)
    if kept is None or own is None:
        return command()
    try:
        os.environ[_FOLDER] = str(own)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        status = command()
        if status == 0:  # not after Ctrl-C, which may have come while an entry was written
            _hand_on(own, kept)
        return status
    finally:
        for variable, old in before.items():
            os.environ.pop(variable, None)
            if old is not None:
                os.environ[variable] = old
        shutil.rmtree(own, ignore_errors=True)


def cores() -> int:
    """The cores that this process may use, not those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kind_of_machine() -> str:
    """What a compiled program depends on and JAX doesn't ask for, as the name of a folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not on Linux
        flags = platform.processor()
    variables = [os.environ.get(name) for name in ("NPROC", "XLA_FLAGS")]
    return f"{cores()}-{zlib.crc32(repr((platform.machine(), flags, variables)).encode()):08x}"


def _folder() -> Path | None:
    """Where the user's entries lie; None where there is no place that is theirs alone."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    kept = Path(cache) / "sparse_jax" / "compiled" / kind_of_machine()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.mkdir(mode=0o700, exist_ok=True)
        about = kept.stat()
        # What lies there is run: nobody else may put it there.
        if hasattr(os, "getuid") and about.st_uid != os.getuid():
            return None
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        if sum(entry.stat().st_size for entry in kept.glob(_KEPT)) > _MOST_BYTES:
            for entry in kept.glob(_KEPT):
                entry.unlink(missing_ok=True)
    except OSError:
        return None
    return kept


def _own_folder(kept: Path) -> Path | None:
    """A folder of this process beside the entries, with links to them."""
    own = None
    try:
        _remove_dead(kept)
        prefix = f"{_OWN}-{socket.gethostname()}-{os.getpid()}-"
        own = Path(tempfile.mkdtemp(prefix=prefix, dir=kept))
        for entry in kept.glob(_KEPT):
            with contextlib.suppress(FileNotFoundError):  # another process tidied up
                if entry.suffix == _checksum(entry):
                    os.link(entry, own / entry.stem)
                else:
                    entry.unlink()
    except OSError:  # a full disk, or a file system without links
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
        return None
    return own


def _is_own(folder: Path) -> bool:
    """Whether a folder is one of `_own_folder`: of the process that started this one."""
    return folder.name.startswith(f"{_OWN}-") and folder.parent.parent.name == "compiled"


def _hand_on(own: Path, kept: Path) -> None:
    for entry in own.glob(_ENTRIES):
        with contextlib.suppress(OSError):  # it is there already, or the disk is full
            os.link(entry, kept / f"{entry.name}{_checksum(entry)}")


def _checksum(entry: Path) -> str:
    return f".{zlib.crc32(entry.read_bytes()):08x}"


def _remove_dead(kept: Path) -> None:
    """Removes the folders of this machine's processes that were killed."""
    for folder in kept.glob(f"{_OWN}-{socket.gethostname()}-*"):
        found = re.fullmatch(r".*-(\d+)-[^-]+", folder.name)
        if found and not is_running(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)
