"""SimHash: signs of dense Gaussian projections (Charikar 2002)."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "SimHash",
    "hash",
    "init",
    "madds",
]

# Directions are round(8 * N(0, 1)) clipped to +-31 (3.9 sigma).
_SIGMA = 8
_CLIP = 31
# A GEMM contracts at most this many coordinates, so that inputs keep at least 9 bits.
_BLOCK = 1024
MAX_DIM = 2**17


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimHash:
    """Parameters of L tables of K sign bits, as `init` draws them.

    Attributes:
      directions: float32 [dim, L * K], integers in [-31, 31].
    """

    directions: jax.Array
    dim: int = dataclasses.field(metadata=dict(static=True))
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


@functools.cache
def _thresholds() -> np.ndarray:
    """uint32 [62]: 2**32 * Pr[value <= v] for v = -31 .. 30."""
    edges = [(v + 0.5) / _SIGMA for v in range(-_CLIP, _CLIP)]
    cdf = [0.5 * math.erfc(-e / math.sqrt(2.0)) for e in edges]
    return np.array([round(c * 2.0**32) for c in cdf], np.uint32)


@one_program("dim", "num_tables", "num_bits")
def init(key: jax.Array, dim: int, *, num_tables: int, num_bits: int) -> SimHash:
    """Draw the directions of `num_tables` tables of `num_bits` sign bits.

    Directions are integers drawn by comparing 32 random bits with the cumulative law of
    round(8 * N(0, 1)) clipped to +-31: no float is rounded on the way, hence the same directions
    on every machine.

    Args:
      key: a PRNG key.
      dim: width of the vectors to hash, at most 2**17.
      num_tables: L.
      num_bits: K; a table has 2**K buckets.

    Returns:
      SimHash parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax
      >>> params = init(jax.random.key(0), 16, num_tables=4, num_bits=8)
      >>> hash(params, jax.random.normal(jax.random.key(1), (3, 16))).shape
      (3, 4)

    References:
      Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, section 3.
    """
    dim = common.check_int(
        "dim", dim, 1, MAX_DIM, "wider vectors exceed exact arithmetic, use srp or fastsrp"
    )
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    (words,) = common.random_words(key, (dim, num_tables * num_bits))
    below = jnp.searchsorted(jnp.asarray(_thresholds()), words, side="right")
    directions = (below.astype(jnp.int32) - jnp.int32(_CLIP)).astype(jnp.float32)
    return SimHash(directions, dim, num_tables, num_bits)


@one_program()
def hash(params: SimHash, x: jax.Array) -> jax.Array:
    """Codes whose bit k is 1 where <g_k, x> >= 0.

    **Collision law.** For x, y at angle theta, a bit agrees with probability 1 - theta / pi, a
    code with probability (1 - theta / pi)**K, independently in each table.

    Two roundings stand between this and the law, both fixed functions of the vector or the key.
    x is rounded to integers with t bits below the power of two above max|x| (t = 12 at dim 128,
    9 at dim >= 1024), so theta is the angle of the rounded vectors. The directions are lattice
    valued: they differ from Gaussian ones by ties (<g, x> = 0, bit 1), of probability 0.0499 for
    a vector with one non-zero coordinate (so Pr[bit = 1] = 0.525 there), at most 0.036 with two,
    and about 0.4 / (8 |q|), |q| the norm of the rounded vector, for generic ones. The measured
    deviation of the bit's law from 1 - theta / pi is up to 0.01 with two non-zero coordinates,
    and below 0.001 with three or more drawn at random.

    The zero vector gets 2**K - 1. NaN, infinite and subnormal coordinates count as zero.

    Args:
      params: from `init`.
      x: floating [..., dim].

    Returns:
      int32 [..., L] in [0, 2**K).

    Raises:
      ValueError: x is not floating, or its last axis is not `dim`.

    Example:
      >>> params = init(jax.random.key(0), 16, num_tables=4, num_bits=8)
      >>> x = jax.random.normal(jax.random.key(1), (2, 16))
      >>> codes = hash(params, x)
      >>> codes.shape, bool(jnp.array_equal(hash(params, 3.0 * x), codes))
      ((2, 4), True)

    References:
      Goemans & Williamson, JACM 1995, lemma 3.2 (the law); Charikar, STOC 2002.
    """
    flat, lead = common.flatten_features(x, params.dim)
    block = min(params.dim, _BLOCK)
    q, _ = common.quantize(flat, common.quant_bits(block, _CLIP))
    if params.dim <= _BLOCK:
        bits = common.exact_matmul(q, params.directions) >= 0
    else:
        # Each block is exact in float32; their sum is exact in int32 up to MAX_DIM.
        total = jnp.zeros((flat.shape[0], params.directions.shape[1]), jnp.int32)
        for start in range(0, params.dim, _BLOCK):
            part = slice(start, start + _BLOCK)
            sums = common.exact_matmul(q[:, part], params.directions[part])
            total = total + sums.astype(jnp.int32)
        bits = total >= 0
    digits = bits.astype(jnp.int32).reshape(*lead, params.num_tables, params.num_bits)
    return common.pack(digits, 1)


def madds(params: SimHash) -> int:
    """Multiply-adds of hashing one vector: dim * L * K.

    Args:
      params: from `init`.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), 16, num_tables=4, num_bits=8))
      512
    """
    return params.dim * params.num_tables * params.num_bits
