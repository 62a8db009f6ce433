"""What `optax.tree` does, for gradients in which some leaves are `RowSparse`.

Optax maps over the leaves of a pytree, and the ids of a `RowSparse` are one: its own functions
raise there. These see a `RowSparse` as the table that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.ops.finite import all_finite
from sparse_jax.optim.slices import _row_grad
from sparse_jax.rows import RowSparse

__all__ = [
    "add",
    "cast",
    "clip_by_global_norm",
    "global_norm",
    "is_finite",
    "pmean",
    "scale",
    "total",
]


def _is_sparse(x: Any) -> bool:
    return isinstance(x, RowSparse)


def _map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    return jax.tree.map(f, tree, *rest, is_leaf=_is_sparse)


def _values(tree: Any) -> list[jax.Array]:
    """The entries that are not zero by construction: rows of distinct ids, padding zeroed."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_sparse)
    merged = [x.merged() if isinstance(x, RowSparse) else x for x in leaves]
    return [jnp.asarray(_row_grad(x)) for x in merged]


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all entries: `optax.global_norm` of the dense tables.

    Args:
      tree: arrays and `RowSparse`; rows of one id are summed first.

    Returns:
      float32 [].

    Example:
      >>> rows = RowSparse(jnp.asarray([1, 1, -1], jnp.int32), jnp.ones((3, 1)), num_rows=1000)
      >>> float(global_norm({"table": rows}))
      2.0
    """
    squares = [jnp.sum(jnp.square(jnp.abs(x.astype(jnp.float32)))) for x in _values(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def clip_by_global_norm(tree: Any, max_norm: float) -> Any:
    """The tree, scaled down to a norm of max_norm if it has more.

    Inside `sparse_jax.rowwise`, `optax.clip_by_global_norm` does the same.

    Args:
      tree: arrays and `RowSparse`.
      max_norm: above 0.

    Returns:
      The tree, of the same structure.

    Example:
      >>> rows = RowSparse(jnp.asarray([1], jnp.int32), jnp.ones((1, 4)), num_rows=1000)
      >>> clip_by_global_norm({"table": rows}, 1.0)["table"].rows.tolist()
      [[0.5, 0.5, 0.5, 0.5]]
    """
    limit = jnp.float32(max_norm)
    return scale(tree, jnp.minimum(jnp.float32(1), limit / jnp.maximum(global_norm(tree), limit)))


def scale(tree: Any, factor: jax.Array | float) -> Any:
    """Each entry times a scalar, in its own dtype.

    Args:
      tree: arrays and `RowSparse`.
      factor: a scalar, float [].

    Returns:
      The tree, of the same structure.

    Example:
      >>> rows = RowSparse(jnp.asarray([1], jnp.int32), jnp.ones((1, 2)), num_rows=1000)
      >>> scale({"table": rows}, 0.5)["table"].rows.tolist()
      [[0.5, 0.5]]
    """
    return _map(lambda x: x * jnp.asarray(factor).astype(x.dtype), tree)


def cast(tree: Any, dtype: Any) -> Any:
    """Each entry in a floating dtype.

    Args:
      tree: arrays and `RowSparse`.
      dtype: of the entries; ids stay as they are.

    Returns:
      The tree, of the same structure.

    Example:
      >>> rows = RowSparse(jnp.asarray([1], jnp.int32), jnp.ones((1, 2)), num_rows=1000)
      >>> cast({"table": rows}, jnp.bfloat16)["table"].dtype.name
      'bfloat16'
    """

    def one(x: Any) -> Any:
        return x.map(lambda rows: rows.astype(dtype)) if _is_sparse(x) else x.astype(dtype)

    return _map(one, tree)


def add(tree: Any, other: Any) -> Any:
    """The sum of two gradients: two `RowSparse` are merged, of as many ids as both have.

    Args:
      tree: arrays and `RowSparse`.
      other: of the same structure, but for the numbers of ids; where one has an array and the
        other a `RowSparse`, the sum is an array.

    Returns:
      The sum, of the same structure.

    Example:
      >>> rows = RowSparse(jnp.asarray([1], jnp.int32), jnp.ones((1, 2)), num_rows=3)
      >>> add({"table": rows}, {"table": rows})["table"].merged().rows.tolist()
      [[2.0, 2.0], [0.0, 0.0]]
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_sparse)
    others = treedef.flatten_up_to(other)
    return treedef.unflatten([a + b for a, b in zip(leaves, others, strict=True)])


def total(stacked: Any) -> Any:
    """The sum of gradients that `scan` or `vmap` stacked: accumulation over small batches.

    Args:
      stacked: each array [k, ...]; each `RowSparse` with ids [k, n] and rows [k, n, ...].

    Returns:
      Arrays [...], and `RowSparse` of k·n ids, which `rowwise` merges.

    Example:
      >>> def gradient(_, ids):
      ...     return None, {"table": RowSparse(ids, jnp.ones((2, 1)), num_rows=9)}
      >>> batches = jnp.asarray([[0, 1], [1, 2]], jnp.int32)
      >>> grads = total(jax.lax.scan(gradient, None, batches)[1])
      >>> grads["table"].to_dense()[:4, 0].tolist()
      [1.0, 2.0, 1.0, 0.0]
    """

    def one(x: Any) -> Any:
        if isinstance(x, RowSparse):
            rows = x.rows.reshape(-1, *x.rows.shape[2:])
            return RowSparse(x.ids.reshape(-1), rows, num_rows=x.num_rows)
        return jnp.sum(x, axis=0)

    return _map(one, stacked)


def pmean(tree: Any, axis_name: str) -> Any:
    """The mean over devices, in `shard_map` or `vmap`: ids and rows of all are gathered.

    Args:
      tree: arrays and `RowSparse`, with as many ids on each device.
      axis_name: of the mapped axis.

    Returns:
      Arrays, and `RowSparse` of the ids of all devices.

    Example:
      >>> rows = RowSparse(jnp.asarray([[1], [2]], jnp.int32), jnp.ones((2, 1, 1)), num_rows=3)
      >>> mean = jax.vmap(lambda g: pmean(g, "data"), axis_name="data")(rows)
      >>> jax.tree.map(lambda x: x[0], mean).to_dense().tolist()
      [[0.0], [0.5], [0.5]]
    """
    count = jax.lax.axis_size(axis_name)

    def one(x: Any) -> Any:
        if not isinstance(x, RowSparse):
            return jax.lax.pmean(x, axis_name)
        ids = jax.lax.all_gather(x.ids, axis_name, tiled=True)
        rows = jax.lax.all_gather(x.rows, axis_name, tiled=True)
        return RowSparse(ids, rows, num_rows=x.num_rows) * (1 / count)

    return _map(one, tree)


def is_finite(tree: Any) -> jax.Array:
    """Whether no entry is NaN or infinite.

    Args:
      tree: arrays and `RowSparse`; rows of padding don't count.

    Returns:
      bool [].

    Example:
      >>> rows = RowSparse(jnp.asarray([1, -1], jnp.int32), jnp.asarray([1.0, jnp.nan]), 1000)
      >>> bool(is_finite({"table": rows})), bool(is_finite(jnp.asarray([jnp.inf])))
      (True, False)
    """
    checks = [all_finite(x) for x in _values(tree)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)
