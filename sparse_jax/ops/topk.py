"""Exact top-k of inner products: kernels that keep a running best, or plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi

TopK = tuple[jax.Array, jax.Array]
"""(scores float32 [B, k], ids int32 [B, k]), best first; -inf and -1 behind the last."""


def topk_rows(queries: jax.Array, weights: jax.Array, bias: jax.Array, k: int) -> TopK:
    """The k rows with the largest w·x + b, over all N: see `retrieval.topk.rows`."""
    if ffi.AVAILABLE:
        scores, ids = ffi.call("topk_rows", _results(queries, k))(queries, weights, bias)
        return scores, ids
    whole = weights.astype(jnp.float32)
    scores = jax.lax.dot_general(queries, whole, (((1,), (1,)), ((), ()))) + bias[None, :]
    ids = jnp.arange(weights.shape[0], dtype=jnp.int32)[None, :]
    return best(scores, jnp.broadcast_to(ids, scores.shape), k)


def topk_among(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, ids: jax.Array, k: int
) -> TopK:
    """The k best of the rows `ids` [B, m] of each query: see `retrieval.topk.among`."""
    if ffi.AVAILABLE:
        scores, ids = ffi.call("topk_among", _results(queries, k))(queries, weights, bias, ids)
        return scores, ids
    valid = (ids >= 0) & (ids < weights.shape[0])
    some = jnp.take(weights, ids, axis=0, mode="clip").astype(jnp.float32)
    scores = jnp.einsum("bmd,bd->bm", some, queries) + jnp.take(bias, ids, mode="clip")
    return best(jnp.where(valid, scores, -jnp.inf), ids, k)


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
