"""A disk that fails, or stops, at the n-th write: under the modules that write files.

Between Python and the system lie the calls that change what is on the disk: open, write (in two
halves), fsync, replace, mkdir, unlink, truncate. `Disk` stands in their place in the modules that
write. It counts these calls below one folder, and can

* refuse the n-th and, if asked, all later ones as a full disk does (`fail_at`);
* keep a copy of the folder as each call finds it (`copies`): what a process killed there leaves
  behind; with `power`, what is not yet synced is missing from the files of the copy.
"""

from __future__ import annotations

import errno
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

MODULES = (
    "sparse_jax.runtime.files",
    "sparse_jax.runtime.saved",
    "sparse_jax.search.arrays",
    "sparse_jax.search.journal",
    "sparse_jax.search.snapshot",
)
_OPEN = open  # what stands in the modules' place calls the real ones


class Disk:
    """Counts changes below a folder, and fails or copies at them.

    Args:
      folder: whose changes count.
      fail_at: the number, from 1, of the call that fails; 0 never.
      forever: all later calls fail, too, but for those that give space back.
      copies: where to keep a copy for each call; None keeps none.
      power: copies lack what was not synced.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fail_at: int = 0,
        forever: bool = False,
        copies: Path | None = None,
        power: bool = False,
    ) -> None:
        self.folder, self.fail_at, self.forever = folder, fail_at, forever
        self.copies, self.power = copies, power
        self.calls: list[str] = []
        self.synced: dict[int, int] = {}  # bytes that are on the disk, by inode

    def call(self, what: str, *, frees: bool = False) -> None:
        """A change is about to be made.

        Raises:
          OSError: if this one fails.
        """
        self.calls.append(what)
        number = len(self.calls)
        if self.copies is not None:
            self.keep(self.copies / f"{number:03d}")
        if number == self.fail_at or (self.forever and 0 < self.fail_at < number and not frees):
            raise OSError(errno.ENOSPC, "No space left on device", what)

    def keep(self, target: Path) -> None:
        """Copies the folder as a stopped process, or machine, leaves it."""
        shutil.copytree(self.folder, target)
        for path in self.folder.rglob("*") if self.power else ():
            number = path.stat().st_ino
            if path.is_file() and number in self.synced:
                os.truncate(target / path.relative_to(self.folder), self.synced[number])

    def is_ours(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and self.folder in [
            Path(path).absolute(),
            *Path(path).absolute().parents,
        ]


class _Raw(io.FileIO):
    """A file whose writes and truncations count, each write as two halves."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self.disk, self.is_full = disk, False
        disk.synced.setdefault(os.fstat(self.fileno()).st_ino, os.fstat(self.fileno()).st_size)

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        if self.is_full:
            self.is_full = False
            raise OSError(errno.ENOSPC, "No space left on device")
        self.disk.call(f"write {len(view)}")
        half = super().write(view[: len(view) // 2])
        if not half:
            return super().write(view)
        try:
            self.disk.call("write, half done")  # copies see it, too
        except OSError:
            self.is_full = True  # as systems do it: a short count first, the error when asked again
            return half
        return half + super().write(view[half:])

    def truncate(self, size: int | None = None) -> int:
        self.disk.call("truncate", frees=True)
        return super().truncate(size)


class _Os:
    """`os`, with the calls that change the disk counted."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        self.disk.call("fsync")
        os.fsync(handle)
        about = os.fstat(handle)
        if about.st_ino in self.disk.synced:
            self.disk.synced[about.st_ino] = about.st_size

    def replace(self, source: Any, target: Any) -> None:
        self.disk.call(f"replace {Path(target).name}")
        os.replace(source, target)

    def ftruncate(self, handle: int, size: int) -> None:
        self.disk.call("ftruncate", frees=True)
        os.ftruncate(handle, size)


@contextmanager
def disk(folder: Path, **how: Any) -> Iterator[Disk]:
    """The modules that write do so on a `Disk` inside: see there for `how`."""
    found = Disk(folder.absolute(), **how)

    def opened(path: Any, mode: str = "r", *more: Any, **given: Any) -> Any:
        if not found.is_ours(path) or not set(mode) & set("wax+"):
            return _OPEN(path, mode, *more, **given)
        found.call(f"open {Path(path).name}")
        raw = _Raw(found, path, mode.replace("b", ""))
        return raw if given.get("buffering") == 0 else io.BufferedWriter(raw)

    def counted(name: str, frees: bool) -> Any:
        real = getattr(pathlib.Path, name)

        def act(self: Path, *given: Any, **more: Any) -> Any:
            exists = name == "mkdir" and self.is_dir()
            if found.is_ours(self) and not exists:
                found.call(f"{name} {self.name}", frees=frees)
            return real(self, *given, **more)

        return act

    with ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(mock.patch(f"{module}.open", opened, create=True))
            stack.enter_context(mock.patch(f"{module}.os", _Os(found)))
        for name, frees in (("mkdir", False), ("unlink", True), ("touch", False)):
            stack.enter_context(mock.patch.object(pathlib.Path, name, counted(name, frees)))
        yield found
