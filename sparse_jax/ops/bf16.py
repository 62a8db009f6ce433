"""Bfloat16: tables stored in it, and products of factors rounded to it.

Rows of a table come out as float32, and sums go back rounded at random.

A bfloat16 keeps 8 bits of a number. Rounded to the nearest, a step smaller than half of the last
one would be lost each time; rounded up or down with the right odds it is kept on average. XLA:CPU
gathers and scatters bfloat16 by way of a float32 copy of the whole table, which the kernels here
don't make.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.mixing import priority

__all__ = ["PRECISIONS", "check_precision", "has_products", "stochastic_round"]

PRECISIONS = ("float32", "mixed")
"""Of products: the factors' as they are, or rounded to bfloat16; sums are float32 in both."""


def check_precision(precision: str) -> None:
    """Refuses what is not one of `PRECISIONS`.

    Raises:
      ValueError: if it isn't.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: must be one of {', '.join(PRECISIONS)}")


@functools.cache
def has_products() -> bool:
    """Whether the processor multiplies bfloat16: x86-64 with AVX512-BF16 or AMX, as Linux tells.

    There a product of bfloat16 with float32 sums takes half of one of float32 (AVX512-BF16) to a
    fifth (AMX); elsewhere XLA widens the factors first.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not on Linux
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def stochastic_round(x: jax.Array, ids: jax.Array, seed: jax.Array) -> jax.Array:
    """Rounds rows to bfloat16, up or down at random, so that their mean is x.

    What lies between two neighbours a < x < b becomes b with probability (x - a) / (b - a), to
    within 2^-16, and a otherwise; a bfloat16 stays what it is. The noise is a hash of (seed, id,
    place in the row): one result in any order of the rows, on any number of threads.

    Args:
      x: float32 [n, ...]. NaN and infinities stay such; above 3.39e38 may become infinite.
      ids: int32 [n], what to call the rows.
      seed: uint32 [], another one for each step and table.

    Returns:
      bfloat16 [n, ...].

    Raises:
      TypeError: if x is not float32.

    Example:
      >>> x, seed = jnp.full((1, 10_000), 1 + 2**-9), jnp.uint32(7)  # neighbours: 1 and 1 + 2**-7
      >>> y = stochastic_round(x, jnp.zeros(1, jnp.int32), seed).astype(jnp.float32)
      >>> sorted(set(y[0].tolist())), round(float(y.mean() - 1) * 2**9, 1)
      ([1.0, 1.0078125], 1.0)

    References:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, Deep learning with limited numerical precision,
      ICML 2015, section 3.1.
    """
    if x.dtype != jnp.float32:
        raise TypeError(f"x must be float32, got {x.dtype}: round x.astype(jnp.float32)")
    n, size = x.shape[0], math.prod(x.shape[1:])
    columns = jnp.arange(size, dtype=jnp.uint32)[None, :]
    noise = priority(seed, ids[:, None], columns) >> jnp.uint32(16)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(n, size)
    rounded = (bits + noise) >> jnp.uint32(16)
    size_bits, infinite = bits & jnp.uint32(0x7FFFFFFF), jnp.uint32(0x7F800000)
    quiet = jnp.where(size_bits > infinite, jnp.uint32(0x40), jnp.uint32(0))
    kept = jnp.where(size_bits >= infinite, (bits >> jnp.uint32(16)) | quiet, rounded)
    return jax.lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16).reshape(x.shape)


def take_bf16(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a bfloat16 table as float32 [n, ...]; ids out of range give zeros."""
    if ffi.AVAILABLE:
        result = jax.ShapeDtypeStruct((*ids.shape, *table.shape[1:]), jnp.float32)
        rows: jax.Array = ffi.call("take_bf16", result)(table, ids)
        return rows
    at = jnp.where(ids < 0, table.shape[0], ids)
    return table.at[at].get(mode="fill", fill_value=0).astype(jnp.float32)


def add_bf16(table: jax.Array, ids: jax.Array, rows: jax.Array, seed: jax.Array) -> jax.Array:
    """The bfloat16 table with table[ids] = stochastic_round(table[ids] + rows), in place.

    Args:
      table: bfloat16 [N, ...], donated.
      ids: int32 [n], distinct; those out of range are padding.
      rows: float32 [n, ...].
      seed: uint32 [].
    """
    if ffi.AVAILABLE:
        result = jax.ShapeDtypeStruct(table.shape, table.dtype)
        call = ffi.call("add_bf16", result, aliases={0: 0})
        added: jax.Array = call(table, ids, rows, seed)
        return added
    at = jnp.where(ids < 0, table.shape[0], ids)
    sums = stochastic_round(take_bf16(table, ids) + rows, ids, seed)
    return table.at[at].set(sums, mode="drop")
