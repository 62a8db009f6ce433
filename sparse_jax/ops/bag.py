"""The sum behind `rows.embedding_bag`, with its gradient, and distinct ids: kernel or plain JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def weighted_sum(
    rows: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    num_segments: int,
) -> jax.Array:
    """out[s] = Σ weights[e] rows[positions[e]] over the entries e of segment s, [S, d].

    Entries with position −1 are padding. Each sum is taken in the order of its entries, forward and
    backward, so the bits don't depend on threads.
    """
    if _kernel_takes(rows):
        shape = jax.ShapeDtypeStruct((num_segments, rows.shape[1]), rows.dtype)
        return ffi.call("bag_forward", shape)(rows, positions, segments, weights)
    entries = _pick(rows, positions) * weights.reshape(-1, *[1] * (rows.ndim - 1))
    return _add_up(entries, segments, positions, num_segments)


def _forward(
    rows: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    num_segments: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out = weighted_sum(rows, positions, segments, weights, num_segments)
    return out, (rows, positions, segments, weights)


def _backward(num_segments: int, saved: tuple[jax.Array, ...], grad: jax.Array) -> tuple[Any, ...]:
    rows, positions, segments, weights = saved
    if _kernel_takes(rows):
        call = ffi.call("bag_backward", jax.ShapeDtypeStruct(rows.shape, rows.dtype))
        grad_rows = call(grad, positions, segments, weights)
    else:
        spread = _pick(grad, segments) * weights.reshape(-1, *[1] * (rows.ndim - 1))
        grad_rows = _add_up(spread, positions, segments, rows.shape[0])
    # Dropped by the compiler where nobody asks for it.
    products = _pick(rows, positions) * _pick(grad, segments)
    grad_weights = jnp.sum(products.reshape(weights.size, -1), axis=1)
    return grad_rows, _no_gradient(positions), _no_gradient(segments), grad_weights


weighted_sum.defvjp(_forward, _backward)


def _kernel_takes(rows: jax.Array) -> bool:
    return ffi.AVAILABLE and rows.ndim == 2 and rows.dtype == jnp.float32


def _pick(table: jax.Array, ids: jax.Array) -> jax.Array:
    at = jnp.where(ids < 0, table.shape[0], ids)
    return table.at[at].get(mode="fill", fill_value=0)


def _add_up(entries: jax.Array, to: jax.Array, other: jax.Array, size: int) -> jax.Array:
    """Adds entries to their places, in order; those without a place on either side are padding."""
    at = jnp.where((to < 0) | (other < 0), size, to)
    # XLA:CPU runs this scatter serially, in order: the same bits at any thread count.
    return jnp.zeros((size, *entries.shape[1:]), entries.dtype).at[at].add(entries, mode="drop")


def _no_gradient(ids: jax.Array) -> np.ndarray:
    return np.zeros(ids.shape, jax.dtypes.float0)
