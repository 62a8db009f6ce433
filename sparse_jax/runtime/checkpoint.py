"""Checkpoints of any state pytree through Orbax: whole, or as if never begun.

A checkpoint is a directory ``000012_step_3400`` that Orbax writes under a temporary name and
renames when it is complete, so that a process killed at any moment leaves the one before. Arrays
are stored under their path in the tree, PRNG keys as their data; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.runtime.trees import owned

_NAME = re.compile(r"(\d+)_step_(\d+)")
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of what Orbax hasn't renamed yet
_BLOCK = 1 << 27  # bytes of an array that are written and read at once
_AT_LEAST = 64  # rows of a block
_SLACK = 1 << 20  # bytes that a checkpoint may take beyond its arrays
_SHOWN = 60  # characters of an option's value that an error repeats


def save(
    directory: str | Path, state: Any, *, step: int, extra: dict[str, Any], keep: int = 2
) -> Path:
    """Writes a checkpoint; it is complete on return. One process may write to a directory.

    The last one saved is the one restored, whatever its step, so a run started anew in a directory
    takes it over.

    Args:
      directory: of all checkpoints of a run; made if missing.
      state: a pytree of arrays and PRNG keys; None holds its place.
      step: number for the name, for people to read.
      extra: what else a resumed run needs, as JSON knows it: tuples come back as lists.
      keep: checkpoints to leave, this one included.

    Returns:
      Where it was written.

    Raises:
      ImportError: if Orbax is missing.
      TypeError: if a leaf is not an array, or extra is not JSON.
      ValueError: if keep or step is out of range.
      OSError: if it can't be written; the checkpoints before stay.

    Example:
      >>> import tempfile
      >>> state = {"w": jnp.ones(3), "key": jax.random.key(0)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = save(folder, state, step=7, extra={"epoch": 1})
      ...     restored, extra = restore(folder, state)
      >>> path.name, restored["w"].tolist(), extra
      ('000001_step_7', [1.0, 1.0, 1.0], {'epoch': 1})
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: must be at least 1")
    if step < 0:
        raise ValueError(f"step = {step}: must be at least 0")
    leaves = _leaves(state)
    about: dict[str, Any] = {
        "step": int(step),
        "leaves": {k: _describe(x) for k, x in leaves.items()},
        "generators": {k: str(jax.random.key_impl(x)) for k, x in leaves.items() if _is_key(x)},
    }
    try:
        about["extra"] = json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"extra is not JSON: {error}; give it str, int, float, list, dict"
        ) from None
    # Orbax refuses arrays without elements; `restore` makes them from their shape.
    blocks = {k: _blocks(_data(x)) for k, x in leaves.items() if x.size}
    about["blocks"] = {k: len(of) for k, of in blocks.items() if len(of) > 1}
    arrays = {
        name: block
        for k, of in blocks.items()
        for name, block in zip(_block_names(k, len(of)), of, strict=True)
    }

    root = Path(directory).resolve()
    root.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(root)
    done = _finished(root)
    serial = 1 + max((number for number, _ in done), default=0)
    path = root / f"{serial:06d}_step_{int(step)}"
    ocp = _orbax()
    _check_room(root, sum(x.nbytes for x in arrays.values()))
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), about=ocp.args.JsonSave(about))
    try:
        with _unlogged(), _checkpointer(ocp) as writer:
            writer.save(path, args=args)
    except Exception as error:  # whatever its threads met, in as many lines
        _remove_unfinished(root)
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(
            f"{path} can't be written ({told[-1][:300]}): make room, or name another directory; "
            "what was saved before stays"
        ) from error
    for _, old in done[: max(0, len(done) + 1 - keep)]:
        shutil.rmtree(old)
    return path


def restore(directory: str | Path, like_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """Reads the last checkpoint.

    Args:
      directory: as given to `save`.
      like_state: a state of the same structure, shapes and dtypes, such as a freshly initialised
        one; only these are read, so donated arrays and `jax.ShapeDtypeStruct` will do.

    Returns:
      (state, extra), bit for bit as saved; or None if there is no checkpoint.

    Raises:
      ImportError: if Orbax is missing.
      TypeError: if a leaf of like_state is not an array.
      ValueError: if the checkpoint doesn't fit like_state, naming what differs, or is damaged.

    Example:
      >>> restore("no/such/directory", {"w": jnp.ones(3)}) is None
      True
    """
    root = Path(directory).resolve()
    done = _finished(root)
    if not done:
        return None
    path = done[-1][1]
    ocp = _orbax()
    wanted = _leaves(like_state)
    with _checkpointer(ocp) as reader:
        about = _read(reader, path, about=ocp.args.JsonRestore())["about"]
        _check_fit(path, about["leaves"], wanted)
        in_blocks: dict[str, int] = about.get("blocks", {})
        whole = [k for k, x in wanted.items() if x.size and k not in in_blocks]
        arrays = _read_arrays(reader, path, whole)

        def value(name: str, like: Any) -> jax.Array:
            if name in in_blocks:
                blocks = (
                    _read_arrays(reader, path, [block])[block]
                    for block in _block_names(name, in_blocks[name])
                )
                return _filled(like, blocks)
            if name not in arrays:
                return jnp.zeros(like.shape, like.dtype)
            data = owned(arrays.pop(name))
            if _is_key(like):
                return jax.random.wrap_key_data(data, impl=about["generators"][name])
            return data

        restored = [value(name, like) for name, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like_state), restored), about["extra"]


def read_extra(directory: str | Path) -> dict[str, Any] | None:
    """What `save` was given as `extra`, of the last checkpoint; None if there is none.

    To be asked before `restore`: it says of which run the arrays are, whatever their shapes.

    Raises:
      ImportError: if Orbax is missing.
      ValueError: if the checkpoint is damaged.

    Example:
      >>> read_extra("no/such/directory") is None
      True
    """
    done = _finished(Path(directory).resolve())
    if not done:
        return None
    ocp = _orbax()
    with _checkpointer(ocp) as reader:
        about: dict[str, Any] = _read(reader, done[-1][1], about=ocp.args.JsonRestore())["about"]
    return about["extra"]


def _blocks(array: Any) -> list[Any]:
    """The rows of an array in blocks of some _BLOCK bytes.

    On the CPU they share its memory: JAX takes NumPy's where it is aligned, as 64 rows are, and
    Orbax copies arrays of NumPy's alone.
    """
    if array.nbytes <= _BLOCK or len(array) <= _AT_LEAST:
        return [array]
    rows = np.asarray(array)
    size = max(1, _BLOCK * len(rows) // rows.nbytes // _AT_LEAST) * _AT_LEAST
    return [jax.device_put(rows[start : start + size]) for start in range(0, len(rows), size)]


def _block_names(name: str, count: int) -> list[str]:
    """What an array's blocks are called; one that is whole has its own name."""
    return [name] if count == 1 else [f"{name} block {i + 1} of {count}" for i in range(count)]


def _read_arrays(reader: Any, path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Some of a checkpoint's arrays."""
    if not names:
        return {}
    ocp = _orbax()
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    args = ocp.args.PyTreeRestore(
        item=dict.fromkeys(names, 0), restore_args=as_numpy, partial_restore=True
    )
    arrays: dict[str, np.ndarray] = _read(reader, path, state=args)["state"]
    return arrays


def _filled(like: Any, blocks: Iterator[np.ndarray]) -> jax.Array:
    """An array of JAX's own with these rows. Beside it there is never more than a block.

    On the CPU they are written into its buffer, which nobody else knows of yet: XLA would convert
    all of a bfloat16 array for each block, and `jnp.array` needs all of the rows in NumPy's memory.
    """
    if jax.default_backend() != "cpu":
        return jnp.array(np.concatenate(list(blocks)))
    array = jax.block_until_ready(jnp.zeros(like.shape, like.dtype))
    memory = (ctypes.c_uint8 * array.nbytes).from_address(array.unsafe_buffer_pointer())
    target = np.frombuffer(memory, np.uint8)
    start = 0
    for block in blocks:
        words = np.ascontiguousarray(block).view(np.uint8).reshape(-1)
        target[start : start + words.size] = words
        start += words.size
    return array


def _check_room(root: Path, size: int) -> None:
    """Refuses what can't fit, before Orbax's threads meet the end of the disk one by one."""
    needed, free = size + _SLACK, shutil.disk_usage(root).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: a checkpoint needs {needed / 1e6:,.1f} MB, of which "
            f"{free / 1e6:,.1f} MB are free; make room, or name another directory",
            str(root),
        )


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Orbax logs tracebacks of what its threads met, and then raises it."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _remove_unfinished(root: Path) -> None:
    """Removes what a save that was cut short left, as far as it can be."""
    for path in root.iterdir():
        if _UNFINISHED in path.name:
            shutil.rmtree(path, ignore_errors=True)


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            "checkpoints need Orbax: pip install 'sparse_jax[examples]'", name="orbax"
        ) from error
    return ocp


def _checkpointer(ocp: Any) -> Any:
    # Weights don't compress, and trying takes most of the time.
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(
            state=ocp.PyTreeCheckpointHandler(use_compression=False),
            about=ocp.JsonCheckpointHandler(),
        )
    )


def _read(reader: Any, path: Path, **items: Any) -> Any:
    ocp = _orbax()
    try:
        return reader.restore(path, args=ocp.args.Composite(**items))
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}): "
            "delete it to go on from the checkpoint before"
        ) from error


def _finished(root: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, in the order they were saved."""
    if not root.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in root.iterdir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def _leaves(state: Any) -> dict[str, Any]:
    """Leaves by their path in the tree, in the tree's order."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path) or "state"
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"state{name} is a {type(leaf).__name__}: must be an array; put what is no array "
                "into extra"
            )
        leaves[name] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf: Any) -> str:
    """For example float32[60000,128]."""
    return f"{leaf.dtype}[{','.join(str(size) for size in leaf.shape)}]"


def _check_fit(path: Path, saved: dict[str, str], wanted: dict[str, Any]) -> None:
    found = [
        f"{name}: {saved[name]} saved, {_describe(leaf)} here"
        for name, leaf in wanted.items()
        if name in saved and saved[name] != _describe(leaf)
    ]
    found += [f"{name}: not in the checkpoint" for name in wanted if name not in saved]
    found += [f"{name}: only in the checkpoint" for name in saved if name not in wanted]
    if found:
        more = f", and {len(found) - 1} more differ" if len(found) > 1 else ""
        raise ValueError(
            f"{path} doesn't fit the state: {found[0]}{more}; resume with the options and data it "
            "was saved under, or start in a new directory"
        )


def check_same_run(directory: str | Path, saved: Any, here: Mapping[str, Any]) -> None:
    """Refuses to go on from what another run saved, and says on one line why.

    Args:
      directory: of the checkpoints.
      saved: what is known of the run that saved: its options by name, and under "data" a
        fingerprint of its data. Something else than a dictionary is of another program.
      here: the same of this run, as JSON knows it.

    Raises:
      ValueError: if they differ: it names the options with both values.

    Example:
      >>> check_same_run("DIR", {"seed": 0, "hidden": 64}, {"seed": 1, "hidden": 64})
      Traceback (most recent call last):
      ValueError: DIR was saved with other options (seed was 0, is 1): resume with the same ones...
    """
    cure = "start in a new directory"
    if not isinstance(saved, dict):
        raise ValueError(f"{directory} doesn't fit: another program saved it; {cure}")
    if saved.get("data") != here.get("data"):
        raise ValueError(
            f"{directory} was saved with other data: resume with the same data, or {cure}"
        )

    def shown(options: Mapping[str, Any], name: str) -> str:
        text = str(options.get(name, "not there"))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

    differ = "; ".join(
        f"{name} was {shown(saved, name)}, is {shown(here, name)}"
        for name in sorted((saved.keys() | here.keys()) - {"data"})
        if (name in saved) != (name in here) or saved.get(name) != here.get(name)
    )
    if differ:
        raise ValueError(
            f"{directory} was saved with other options ({differ}): resume with the same ones, or "
            f"{cure}"
        )
