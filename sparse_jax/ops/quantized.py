"""The scan of product-quantized rows: the kernel, or plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.topk import best

BLOCK = 32  # rows that the kernel looks up at once


def quantized_scan(
    tables: jax.Array,
    below: jax.Array,
    steps: jax.Array,
    codes: jax.Array,
    scales: jax.Array,
    biases: jax.Array,
    limit: int,
) -> jax.Array:
    """The rows with the best (sum + below) · (step · scale) + bias.

    Args:
      tables: uint8 [B, M, 16], what each codeword of each subspace adds to a query's sum.
      below: int32 [B], added to the sums.
      steps: float32 [B], what one unit of a sum is worth.
      codes: uint8 [N / 32, M / 2, 32], two codewords a byte, rows in blocks.
      scales: float32 [N].
      biases: float32 [N]; -inf leaves a row out.
      limit: rows to return.

    Returns:
      int32 [B, limit], best first; −1 behind the last.
    """
    if ffi.AVAILABLE:
        result = jax.ShapeDtypeStruct((tables.shape[0], limit), jnp.int32)
        ids: jax.Array = ffi.call("quantized_scan", result)(
            tables, below, steps, codes, scales, biases
        )
        return ids

    def one(query: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        table, below, step = query

        def add(j: jax.Array, sums: jax.Array) -> jax.Array:
            both = codes[:, j].astype(jnp.int32)
            return sums + table[2 * j][both & 15] + table[2 * j + 1][both >> 4]

        sums = jnp.full((codes.shape[0], BLOCK), below)
        sums = jax.lax.fori_loop(0, codes.shape[1], add, sums).reshape(-1)
        # A barrier, lest XLA fuse the product into the sum and round once.
        product = jax.lax.optimization_barrier(sums.astype(jnp.float32) * (step * scales))
        ids = jnp.arange(sums.shape[0], dtype=jnp.int32)
        return best((product + biases)[None], ids[None], limit)[1][0]

    return jax.lax.map(one, (tables.astype(jnp.int32), below, steps))
