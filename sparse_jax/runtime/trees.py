"""Pytrees as arrays by name, for files that hold named arrays, and back."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LARGE = 1 << 24  # bytes of an array for which a second copy would be dear
_ALIGNED = 64  # bytes, of the memory that XLA shares on the CPU

__all__ = ["from_arrays", "to_arrays"]


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their path in it; PRNG keys as their data.

    Example:
      >>> sorted(to_arrays({"w": jnp.ones(2), "b": {"c": jnp.zeros(1)}}))
      ["['b']['c']", "['w']"]
    """
    return {name: np.asarray(_data(leaf)) for name, leaf in _leaves(tree)}


def from_arrays(arrays: dict[str, np.ndarray], like: Any, *, share: bool = False) -> Any:
    """The tree that `to_arrays` was given.

    Args:
      arrays: of `to_arrays`; names that `like` doesn't have are left alone.
      like: a tree of the same structure, shapes and dtypes; `jax.ShapeDtypeStruct` will do.
      share: uses the memory of the arrays where JAX can, instead of copying them: they must not
        change, and can't be donated.

    Raises:
      ValueError: if an array is missing or has another shape or dtype.
    """
    leaves = []
    for name, leaf in _leaves(like):
        wanted = jax.eval_shape(_data, leaf)
        if name not in arrays:
            raise ValueError(f"array {name} is missing: save the model anew")
        given = arrays[name]
        if given.shape != wanted.shape or given.dtype != wanted.dtype:
            raise ValueError(
                f"array {name} is {given.dtype} {given.shape}: must be {wanted.dtype} "
                f"{wanted.shape}; save the model anew"
            )
        data = jax.device_put(given) if share else owned(given)
        leaves.append(jax.random.wrap_key_data(data) if _is_key(leaf) else data)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `np.empty`, of memory that `jax.device_put` shares on a CPU where it would copy other.

    Args:
      shape: of the array.
      dtype: that JAX has.

    Example:
      >>> aligned_empty((2, 3), np.float32).ctypes.data % 64
      0
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)


def owned(array: Any) -> jax.Array:
    """A copy of an array of NumPy's that JAX owns: one that shares its memory can't be donated.

    As `jnp.array`, which compiles a program for each new shape; this does so for large arrays only.

    Args:
      array: of numbers that JAX has; outside of `jax.jit`.

    Example:
      >>> owned(np.arange(3, dtype=np.int32)).tolist()
      [0, 1, 2]
    """
    array = np.asarray(array)
    if array.nbytes > _LARGE:
        return jnp.array(array)
    # `device_put` shares memory that is aligned, whatever `may_alias` says, and copies other.
    memory = np.empty(array.nbytes + 2 * _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED + _ALIGNED // 4
    source = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    source[...] = array
    return jax.device_put(source)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "tree", leaf) for path, leaf in found]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
