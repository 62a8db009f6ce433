"""Adding rows into a table in place: kernel or XLA's scatter."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi


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
