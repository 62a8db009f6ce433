"""Checkpoints of a state that lies on many shards: written by all, read on any number of processes.

A save is a directory `000000120` of one file a shard, with this shard's rows of what is split and
the whole of what is not, and of `about.json`, which each process writes once all files are on the
disk: a save without it is none. Processes may share the directory, or have one each on a machine of
its own. Restored on another number of shards, rows go to where they belong there.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from sparse_jax.runtime.files import make_directory, write_json, write_stream
from sparse_jax.sharding import processes
from sparse_jax.sharding.placing import AXIS, Dealing, own_shards

_ABOUT = "about.json"
_NAME = re.compile(r"\d{9}")


class Restored(NamedTuple):
    """What `restore` found."""

    state: Any
    extra: dict[str, Any]


def save(
    directory: str | Path,
    state: Any,
    dealings: Any,
    *,
    step: int,
    extra: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Writes a checkpoint. All processes call it; it is complete when it returns.

    Checkpoints of later steps, which another run left in the directory, go once it is: they would
    be taken for this run's last ones.

    Args:
      directory: of all checkpoints of a run, made if missing.
      state: a pytree of arrays of 32 bits.
      dealings: the same tree with the `Dealing` of what is split, None of what is the same on all.
      step: its number.
      extra: what else a resumed run needs, as JSON knows it.
      keep: checkpoints to leave, this one included.

    Returns:
      Where it was written.

    Raises:
      OSError: if it can't be written; the checkpoints before stay.
      RuntimeError: if another process doesn't write its part.

    Example:
      >>> import tempfile
      >>> from sparse_jax.sharding import mesh, shard_rows
      >>> rows = shard_rows(np.ones(3, np.float32), mesh(1))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(folder, rows.array, rows.dealing, step=7, extra={}).name
      '000000007'
    """
    root = make_directory(directory)
    path = root / f"{step:09d}"
    shards = 1
    pieces: dict[int, dict[str, np.ndarray]] = {}
    about: dict[str, Any] = {"step": step, "extra": extra, "leaves": {}}
    for name, leaf, dealing in _leaves(state, dealings):
        kind = None if dealing is None else [dealing.num_rows, dealing.by]
        shape = list(leaf.shape if dealing is None else leaf.shape[1:])
        about["leaves"][name] = [kind, shape, str(leaf.dtype)]
        shards = shards if dealing is None else dealing.shards
        for piece in leaf.addressable_shards:
            shard = _shard_of(piece.device, leaf.sharding.mesh)
            pieces.setdefault(shard, {})[name] = np.asarray(piece.data)
    about["shards"] = shards
    (path / _ABOUT).unlink(missing_ok=True)  # of another run: no save of both while it is replaced
    processes.barrier(f"begun {path.name}")
    for shard, arrays in pieces.items():
        write_stream(path / _file(shard, shards), functools.partial(_write, arrays))
    processes.barrier(f"written {path.name}")
    write_json(path / _ABOUT, about)
    processes.barrier(f"saved {path.name}")
    done = _finished(root)
    kept = [number for number in done if number <= step][-keep:]
    for old in set(done) - set(kept):
        shutil.rmtree(root / f"{old:09d}", ignore_errors=True)
    return path


def _write(arrays: dict[str, np.ndarray], file: BinaryIO) -> None:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def restore(directory: str | Path, like: Any, dealings: Any, mesh: Mesh) -> Restored | None:
    """Reads the last checkpoint that all processes see. All of them call it.

    Args:
      directory: as given to `save`.
      like: a state of the same structure; its shapes and dtypes count, for this number of shards.
      dealings: of it, as in `save`: of the same rows, dealt to the shards of this mesh.
      mesh: of `sharding.mesh`.

    Returns:
      `Restored`, with the numbers that were saved; or None if there is no checkpoint.

    Raises:
      ValueError: if the checkpoint doesn't fit, or is damaged.

    Example:
      >>> import tempfile
      >>> from sparse_jax.sharding import mesh, shard_rows
      >>> rows = shard_rows(np.eye(3, dtype=np.float32), mesh(1))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = save(folder, rows.array, rows.dealing, step=7, extra={"epoch": 1})
      ...     found = restore(folder, rows.array, rows.dealing, mesh(1))
      >>> found.state[1].tolist(), found.extra
      ([0.0, 1.0, 0.0], {'epoch': 1})
    """
    step = last_step(directory)
    if step is None:
        return None
    path = Path(directory) / f"{step:09d}"
    about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
    processes.agree(f"checkpoint {path.name}", about)
    leaves = list(_leaves(like, dealings))
    wanted = {
        name: [
            None if dealing is None else [dealing.num_rows, dealing.by],
            list(leaf.shape if dealing is None else leaf.shape[1:]),
            str(leaf.dtype),
        ]
        for name, leaf, dealing in leaves
    }
    for name in sorted(about["leaves"].keys() | wanted.keys()):
        was, here = about["leaves"].get(name), wanted.get(name)
        if was != here:
            raise ValueError(
                f"{path} doesn't fit: {name} was {was}, is {here}; resume with the options and "
                "data it was saved under, or start in a new directory"
            )
    files = _Files(path, about["shards"])
    found = [files.read(name, leaf, dealing, mesh) for name, leaf, dealing in leaves]
    return Restored(jax.tree.unflatten(jax.tree.structure(like), found), about["extra"])


def last_step(directory: str | Path) -> int | None:
    """The last checkpoint that all processes see. All of them call it.

    Args:
      directory: as given to `save`.

    Returns:
      Its number; None if there is none.

    Example:
      >>> last_step("no/such/directory") is None
      True
    """
    seen = processes.collect("checkpoints", _finished(Path(directory)))
    common = set.intersection(*map(set, seen))
    return max(common, default=None)


def read_extra(directory: str | Path) -> dict[str, Any] | None:
    """What `save` was given as `extra`, of the last checkpoint. All processes call it.

    Args:
      directory: as given to `save`.

    Returns:
      JSON values; None if there is no checkpoint.

    Example:
      >>> read_extra("no/such/directory") is None
      True
    """
    step = last_step(directory)
    if step is None:
        return None
    about = json.loads((Path(directory) / f"{step:09d}" / _ABOUT).read_text(encoding="utf-8"))
    extra: dict[str, Any] = about["extra"]
    return extra


class _Files:
    """The files of a save, each opened once."""

    def __init__(self, path: Path, shards: int) -> None:
        self.path, self.shards = path, shards
        self.open: dict[int, Any] = {}

    def load(self, shard: int, name: str) -> np.ndarray:
        file = self.path / _file(shard, self.shards)
        try:
            if shard not in self.open:
                self.open[shard] = np.load(file, allow_pickle=False)
            array: np.ndarray = self.open[shard][name]
        except MemoryError:
            raise
        except Exception as error:  # zipfile and NumPy raise of many kinds at what is damaged
            raise ValueError(
                f"{file} is missing or damaged ({error}): must be there on each process that reads "
                "its rows; copy it from the machine that wrote it, or delete this checkpoint"
            ) from None
        return array

    def read(self, name: str, leaf: Any, dealing: Dealing | None, mesh: Mesh) -> jax.Array:
        if dealing is None:
            some = self.load(own_shards(mesh)[0] % self.shards, name)
            return jax.make_array_from_callback(
                some.shape, NamedSharding(mesh, jax.P()), lambda _: some
            )
        before = Dealing(dealing.num_rows, self.shards, dealing.by)
        pieces = []
        for shard in own_shards(mesh):
            rows = self._rows(name, before, dealing, shard)
            pieces.append(jax.device_put(rows, mesh.devices.flat[shard]))
        sharding = NamedSharding(mesh, jax.P(AXIS))
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)

    def _rows(self, name: str, before: Dealing, dealing: Dealing, shard: int) -> np.ndarray:
        if before == dealing:
            return self.load(shard, name)
        every = jnp.arange(dealing.per_shard, dtype=jnp.int32)
        owners, slots = map(np.asarray, before.place(dealing.ids_of(jnp.int32(shard), every)))
        rows: np.ndarray | None = None
        for owner in range(self.shards):
            old = self.load(owner, name)
            if rows is None:
                rows = np.zeros((dealing.per_shard, *old.shape[1:]), old.dtype)
            mine = owners == owner
            rows[mine] = old[slots[mine]]
        assert rows is not None
        return rows


def _shard_of(device: Any, mesh: Any) -> int:
    return list(mesh.devices.flat).index(device)


def _file(shard: int, shards: int) -> str:
    return f"shard-{shard:05d}-of-{shards:05d}.npz"


def _finished(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    names = (p.name for p in root.iterdir() if _NAME.fullmatch(p.name) and (p / _ABOUT).exists())
    return sorted(map(int, names))


def _leaves(state: Any, dealings: Any) -> list[tuple[str, Any, Dealing | None]]:
    def is_end(x: Any) -> bool:
        return x is None or isinstance(x, Dealing)

    ends = jax.tree.leaves(dealings, is_leaf=is_end)
    found = jax.tree_util.tree_leaves_with_path(state)
    return [
        (jax.tree_util.keystr(path) or "state", leaf, dealing)
        for (path, leaf), dealing in zip(found, ends, strict=True)
    ]
