"""Distinct ids of a batch, ascending, and where each entry went: kernel or plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi

_FEW = 16  # rows for each id, from which on ids are sorted


def unique_ids(
    ids: jax.Array, *, num_rows: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(unique [size], inverse [n], count []) of ids [n]: see `rows.unique_ids`."""
    if not ffi.AVAILABLE:
        few = num_rows > _FEW * ids.shape[0]
        return (_by_sorting if few else _by_a_map)(ids, num_rows=num_rows, size=size)
    results = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((size,), ids.shape, ())]
    unique, inverse, count = ffi.call("unique_ids", results)(ids, num_rows=np.int64(num_rows))
    return unique, inverse, count


def _by_sorting(
    ids: jax.Array, *, num_rows: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For few ids of many rows: O(n log n), and nothing as large as the table."""
    valid = (ids >= 0) & (ids < num_rows)
    key = jnp.where(valid, ids, num_rows)
    order = jnp.argsort(key, stable=True)
    ordered = key[order]
    first = ordered < num_rows
    first = first.at[1:].set(first[1:] & (ordered[1:] != ordered[:-1]))
    rank = jax.lax.associative_scan(jnp.add, first.astype(jnp.int32)) - 1
    unique = jnp.full((size,), -1, jnp.int32)
    unique = unique.at[jnp.where(first, rank, size)].set(ordered, mode="drop")
    inverse = jnp.zeros(ids.shape, jnp.int32).at[order].set(rank, unique_indices=True)
    count = jnp.sum(first, dtype=jnp.int32)
    return unique, jnp.where(valid & (inverse < size), inverse, -1), count


def _by_a_map(
    ids: jax.Array, *, num_rows: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # A map of presence and its running sum: O(n + num_rows) integers, no sort. On XLA:CPU a
    # sort of 77k ids takes 14 ms, this 0.5 ms; associative_scan is 3 times faster than cumsum.
    valid = (ids >= 0) & (ids < num_rows)
    index = jnp.where(valid, ids, num_rows)
    present = jnp.zeros((num_rows,), jnp.int32).at[index].set(1, mode="drop")
    upto = jax.lax.associative_scan(jnp.add, present)
    count = upto[-1]
    rank = jnp.where(valid, upto.at[index].get(mode="fill", fill_value=0) - 1, size)
    # Repeats of an id all write the same value, so the result doesn't depend on their order.
    unique = jnp.full((size,), -1, jnp.int32).at[rank].set(ids, mode="drop")
    return unique, jnp.where(rank < size, rank, -1), count
