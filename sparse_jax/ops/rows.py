"""Adding rows into a table in place, and making a table of rows: kernel or XLA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.bf16 import add_bf16


def add_rows(table: jax.Array, at: jax.Array, rows: jax.Array) -> jax.Array:
    """table[at[i]] += rows[i], in place under donation.

    Args:
      table: [N, ...].
      at: int32 [n], distinct; those out of range are dropped.
      rows: [n, ...], of the table's dtype.
    """
    wide = math.prod(table.shape[1:]) >= 16  # narrower rows aren't worth a call
    if not (ffi.AVAILABLE and table.dtype == jnp.float32 and wide):
        return table.at[at].add(rows, mode="drop", unique_indices=True)
    result = jax.ShapeDtypeStruct(table.shape, table.dtype)
    added: jax.Array = ffi.call("add_rows", result, aliases={0: 0})(table, at, rows)
    return added


def fill_rows(
    make: Callable[[jax.Array], jax.Array], num_rows: int, dim: int, *, block: int, dtype: Any
) -> jax.Array:
    """A table made block by block, of which there are never two.

    Args:
      make: make(number) -> [block, d] of the dtype; number is int32 [], from 0.
      num_rows: N, more than block.
      dim: d.
      block: rows made together. The last block begins early enough to be whole, over rows of the
        one before.
      dtype: float32 or bfloat16.

    Returns:
      [N, d] of the dtype.
    """
    count, tail = -(-num_rows // block), num_rows - block
    # XLA:CPU would convert all of a bfloat16 table at each block.
    narrow = dtype == jnp.bfloat16
    if narrow and ffi.AVAILABLE:

        def add(number: jax.Array, table: jax.Array) -> jax.Array:
            ids = jnp.minimum(number * block, tail) + jnp.arange(block, dtype=jnp.int32)
            ids = jnp.where((number < count - 1) & (ids >= tail), -1, ids)
            rows = make(number).astype(jnp.float32)
            return add_bf16(table, ids, rows, jnp.uint32(0))  # to zeros: nothing to round

        return jax.lax.fori_loop(0, count, add, jnp.zeros((num_rows, dim), dtype))
    # As words, at the price of a second table when they become bfloat16 after all.
    stored = jnp.uint16 if narrow else dtype

    def write(number: jax.Array, table: jax.Array) -> jax.Array:
        rows = jax.lax.bitcast_convert_type(make(number), stored)
        return jax.lax.dynamic_update_slice_in_dim(
            table, rows, jnp.minimum(number * block, tail), 0
        )

    table = jax.lax.fori_loop(0, count, write, jnp.zeros((num_rows, dim), stored))
    return jax.lax.bitcast_convert_type(table, dtype)
