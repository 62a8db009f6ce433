"""The logarithm of the sum over all rows of e to query · row + bias: kernel or plain JAX.

The kernel writes no logits. It multiplies in 16-bit integers and adds exactly, and takes the terms
that hold much of a sum in float32: within some 10^-5 of the plain sum where |query| |row| is 12,
2 · 10^-6 in the mean. It needs AVX2; other machines run the plain JAX.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi


def log_partition(
    queries: jax.Array, rows: jax.Array, bias: jax.Array, first: jax.Array | None = None
) -> jax.Array:
    """log Σ_n exp(queries @ rows.T + bias) of each query; it has no gradient.

    Args:
      queries: float32 [B, d].
      rows: float32 [N, d].
      bias: float32 [N]; -inf leaves a row out.
      first: int32 [B], an earlier query that is the same and whose answer is taken, or the query's
        own number; None where no repeats are known.

    Returns:
      float32 [B]; not finite where a number isn't, but for biases of -inf.

    Example:
      >>> found = log_partition(jnp.ones((1, 2)), jnp.zeros((3, 2)), jnp.zeros(3))
      >>> round(float(found[0]), 4)  # log 3
      1.0986
    """
    queries, rows, bias = map(jax.lax.stop_gradient, (queries, rows, bias))
    order = jnp.arange(queries.shape[0], dtype=jnp.int32)
    first = order if first is None else first
    if not (ffi.AVAILABLE and ffi.native().fast_partition()):
        logits = jax.lax.dot_general(queries, rows, (((1,), (1,)), ((), ()))) + bias[None, :]
        found = jax.nn.logsumexp(logits, axis=1)
        repeats = (first >= 0) & (first < order)
        return found[jnp.where(repeats, first, order)]
    result = jax.ShapeDtypeStruct(queries.shape[:1], jnp.float32)
    found = ffi.call("log_partition", result)(queries, rows, bias, first)
    return found
