"""Gather, scatter, draw: rows of a table by their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.ops import rows as ops_rows
from sparse_jax.ops.bf16 import add_bf16, take_bf16


def check_ids(name: str, ids: Any) -> None:
    """Refuses anything but a one-dimensional int32 array, at trace time."""
    dtype = getattr(ids, "dtype", None)
    if dtype is None:
        raise TypeError(
            f"{name} must be an int32 array, got {type(ids).__name__}: "
            f"pass jnp.asarray({name}, jnp.int32)."
        )
    if dtype != jnp.int32:
        raise TypeError(
            f"{name} must be int32, got {dtype}: with x64 off JAX would cut wider ids short in "
            f"silence. Check the range on the host, then cast with {name}.astype('int32')."
        )
    if len(ids.shape) != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(ids.shape)}.")


def _scatter_index(ids: jax.Array, num_rows: int) -> jax.Array:
    """Ids for a scatter with mode="drop": padding goes past the end, each to a place of its own.

    Distinct places keep the promise of ``unique_indices=True`` true for padding as well.
    """
    ids = jnp.asarray(ids)
    past_end = num_rows + jnp.arange(ids.shape[0], dtype=jnp.int32)
    return jnp.where((ids >= 0) & (ids < num_rows), ids, past_end)


_BLOCK_ROWS = 1 << 16  # of at most 128 numbers, drawn at once


def draw_rows(
    draw: Callable[[jax.Array, tuple[int, int]], jax.Array],
    key: jax.Array,
    num_rows: int,
    dim: int,
    *,
    block: int | None = None,
) -> jax.Array:
    """A table of random rows, drawn in blocks: its random bits are never all in memory at once.

    Args:
      draw: draw(key, shape) -> array of that shape, such as `jax.random.normal`.
      key: PRNG key.
      num_rows: N.
      dim: d.
      block: rows drawn together; by default 2^16, and fewer of more than 128 numbers, since a draw
        takes some 28 bytes a number on its way. A table of no more is the single call
        draw(key, (N, d)).

    Returns:
      [N, d], of the dtype drawn.

    Example:
      >>> draw_rows(jax.random.normal, jax.random.key(0), 5, 2, block=2).shape
      (5, 2)
    """
    if block is None:
        block = min(_BLOCK_ROWS, max(1, 128 * _BLOCK_ROWS // max(dim, 1)))
    if num_rows <= block:
        return draw(key, (num_rows, dim))
    keys = jax.random.split(key, -(-num_rows // block))
    dtype = jax.eval_shape(lambda key: draw(key, (block, dim)), key).dtype
    return ops_rows.fill_rows(
        lambda number: draw(keys[number], (block, dim)), num_rows, dim, block=block, dtype=dtype
    )


def take_rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Gathers rows of a table; padding gives zeros.

    ``out[i] = table[ids[i]]`` if ``0 <= ids[i] < N`` else ``0``.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, ``-1`` for padding. Repeats are allowed.

    Returns:
      Array ``[n, ...]`` of the table's dtype, but float32 of a bfloat16 table. With kernels, that
      one isn't differentiable in the table: differentiate with respect to the rows.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if ``ids`` is not one-dimensional.

    Example:
      >>> import jax.numpy as jnp
      >>> take_rows(jnp.asarray([[1.0], [2.0]]), jnp.asarray([1, -1], jnp.int32)).tolist()
      [[2.0], [0.0]]
    """
    check_ids("ids", ids)
    ids = jnp.asarray(ids)
    table = jnp.asarray(table)
    if table.dtype == jnp.bfloat16:
        return take_bf16(table, ids)
    # Negative indices would count from the end, even with mode="fill".
    index = jnp.where(ids < 0, table.shape[0], ids)
    return table.at[index].get(mode="fill", fill_value=0)


def slice_rows(table: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """Rows start … start + size − 1, float32 [size, ...]; start is int32 [], size static."""
    if table.dtype == jnp.bfloat16:
        return take_rows(table, start + jnp.arange(size, dtype=jnp.int32))
    return jax.lax.dynamic_slice_in_dim(table, start, size)


def _check_rows(table: Any, ids: Any, rows: Any) -> None:
    check_ids("ids", ids)
    expected = (*ids.shape, *table.shape[1:])
    if tuple(rows.shape) != expected:
        raise ValueError(
            f"rows must have shape {expected} for {ids.shape[0]} ids into a table of shape "
            f"{tuple(table.shape)}, got {tuple(rows.shape)}."
        )


def add_rows(
    table: jax.Array, ids: jax.Array, rows: jax.Array, *, seed: jax.Array | None = None
) -> jax.Array:
    """Adds rows into a table: ``table[ids[i]] += rows[i]``, in place under donation.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, distinct apart from padding ``-1``, which is dropped.
      rows: array ``[n, ...]``, cast to the table's dtype.
      seed: uint32 ``[]`` for a bfloat16 table: its sums are then made of float32 rows and rounded
        by :func:`sparse_jax.ops.bf16.stochastic_round`, lest small steps be lost.

    Returns:
      The new table ``[N, ...]``.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if the shapes don't fit.

    Example:
      >>> import jax.numpy as jnp
      >>> add_rows(jnp.zeros((2, 1)), jnp.asarray([1, -1], jnp.int32), jnp.ones((2, 1))).tolist()
      [[0.0], [1.0]]
    """
    _check_rows(table, ids, rows)
    table = jnp.asarray(table)
    if seed is not None and table.dtype == jnp.bfloat16:
        return add_bf16(table, jnp.asarray(ids), jnp.asarray(rows).astype(jnp.float32), seed)
    index = _scatter_index(ids, table.shape[0])
    return ops_rows.add_rows(table, index, jnp.asarray(rows).astype(table.dtype))


def set_rows(table: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Writes rows into a table: ``table[ids[i]] = rows[i]``, in place under donation.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, distinct apart from padding ``-1``, which is dropped.
      rows: array ``[n, ...]``, cast to the table's dtype.

    Returns:
      The new table ``[N, ...]``.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if the shapes don't fit.

    Example:
      >>> import jax.numpy as jnp
      >>> set_rows(jnp.zeros((2, 1)), jnp.asarray([0, -1], jnp.int32), jnp.ones((2, 1))).tolist()
      [[1.0], [0.0]]
    """
    _check_rows(table, ids, rows)
    table = jnp.asarray(table)
    index = _scatter_index(ids, table.shape[0])
    return table.at[index].set(
        jnp.asarray(rows).astype(table.dtype), mode="drop", unique_indices=True
    )
