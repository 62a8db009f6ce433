"""Exact top-k of inner products: kernels that keep a running best, or plain JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi

TopK = tuple[jax.Array, jax.Array]
"""(scores float32 [B, k], ids int32 [B, k]), best first; -inf and -1 behind the last."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def topk_rows(queries: jax.Array, weights: jax.Array, bias: jax.Array, k: int) -> TopK:
    """The k rows with the largest w·x + b, over all N: see `retrieval.topk.rows`."""
    return topk_run(queries, weights, bias, jnp.int32(0), size=weights.shape[0], k=k)


def _rows_forward(queries: jax.Array, weights: jax.Array, bias: jax.Array, k: int) -> Any:
    scores, ids = topk_rows(queries, weights, bias, k)
    return (scores, ids), (queries, weights, bias, ids)


def _rows_backward(k: int, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]) -> Any:
    *operands, ids = saved
    _, pull = jax.vjp(lambda q, w, b: _scores_of(q, w, b, ids), *operands)
    return pull(cotangents[0])


topk_rows.defvjp(_rows_forward, _rows_backward)


def topk_run(
    queries: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    first: jax.Array,
    *,
    size: int,
    k: int,
) -> TopK:
    """The k best of `size` rows from row `first` on, read where they lie; without a gradient.

    Args:
      queries: float32 [B, d].
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      first: int32 []; one too small or too large counts as the least or the largest that fits.
      size: at most N.
      k: at least 1; more than size pads.
    """
    if ffi.AVAILABLE:
        kernel = ffi.call("topk_run", _results(queries, k))
        scores, ids = kernel(queries, weights, bias, first, size=np.int64(size))
        return scores, ids
    first = jnp.clip(first, 0, weights.shape[0] - size)
    rows = jax.lax.dynamic_slice(weights, (first, 0), (size, weights.shape[1]))
    scores = jax.lax.dot_general(queries, rows.astype(jnp.float32), (((1,), (1,)), ((), ())))
    scores = scores + jax.lax.dynamic_slice(bias, (first,), (size,))[None, :]
    ids = first + jnp.arange(size, dtype=jnp.int32)[None, :]
    return best(scores, jnp.broadcast_to(ids, scores.shape), k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def topk_among(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, ids: jax.Array, k: int
) -> TopK:
    """The k best of the rows `ids` [B, m] of each query: see `retrieval.topk.among`."""
    if ffi.AVAILABLE:
        scores, ids = ffi.call("topk_among", _results(queries, k))(queries, weights, bias, ids)
        return scores, ids
    return best(_scores_of(queries, weights, bias, ids), ids, k)


def _among_forward(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, ids: jax.Array, k: int
) -> Any:
    scores, found = topk_among(queries, weights, bias, ids, k)
    return (scores, found), (queries, weights, bias, found, ids)


def _among_backward(k: int, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]) -> Any:
    *operands, found, ids = saved
    _, pull = jax.vjp(lambda q, w, b: _scores_of(q, w, b, found), *operands)
    return (*pull(cotangents[0]), np.zeros(ids.shape, jax.dtypes.float0))


topk_among.defvjp(_among_forward, _among_backward)


def _scores_of(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, ids: jax.Array
) -> jax.Array:
    """w·x + b of the rows `ids` [B, m], -inf for those out of range; the kernels' gradient."""
    valid = (ids >= 0) & (ids < weights.shape[0])
    some = jnp.take(weights, ids, axis=0, mode="clip").astype(jnp.float32)
    scores = jnp.einsum("bmd,bd->bm", some, queries) + jnp.take(bias, ids, mode="clip")
    return jnp.where(valid, scores, -jnp.inf)


def _results(queries: jax.Array, k: int) -> list[jax.ShapeDtypeStruct]:
    shape = (queries.shape[0], k)
    return [jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)]


def best(scores: jax.Array, ids: jax.Array, k: int) -> TopK:
    """The k best of scores [B, m] of ids [B, m], as the kernels rank them."""
    missing = k - scores.shape[1]
    if missing > 0:
        scores = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
        ids = jnp.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    ids = jnp.where(scores == -jnp.inf, -1, ids)
    # -0.0 as 0.0: the sort would tell them apart.
    order = jnp.where(scores == 0, jnp.float32(0), -scores)
    _, ids, scores = jax.lax.sort((order, ids, scores), num_keys=2)
    return scores[:, :k], ids[:, :k]
