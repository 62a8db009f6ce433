"""Sparse signed random projections: +-1 on a fixed fraction of the coordinates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "SparseProjection",
    "hash",
    "init",
    "madds",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseProjection:
    """Parameters of L tables of K sign bits, as `init` draws them.

    Attributes:
      directions: float32 [dim, L * K]; each column holds `num_nonzeros` entries +-1, else 0.
    """

    directions: jax.Array
    dim: int = dataclasses.field(metadata=dict(static=True))
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))
    num_nonzeros: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


@one_program("dim", "num_tables", "num_bits", "density")
def init(
    key: jax.Array, dim: int, *, num_tables: int, num_bits: int, density: float = 1 / 3
) -> SparseProjection:
    """Draw the directions of `num_tables` tables of `num_bits` sign bits.

    Each direction has exactly m = max(1, round(density * dim)) non-zero entries, at a uniformly
    random subset of coordinates, with independent fair signs.

    Args:
      key: a PRNG key.
      dim: width of the vectors to hash.
      num_tables: L.
      num_bits: K; a table has 2**K buckets.
      density: fraction f of the coordinates a direction reads, in (0, 1]. 1/3 is Achlioptas's
        and SLIDE's choice; 1/sqrt(dim) is that of Li, Hastie & Church.

    Returns:
      SparseProjection parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax
      >>> params = init(jax.random.key(0), 16, num_tables=4, num_bits=8, density=0.25)
      >>> hash(params, jax.random.normal(jax.random.key(1), (3, 16))).shape
      (3, 4)

    References:
      Achlioptas, "Database-friendly random projections", JCSS 2003, theorem 1.1;
      Li, Hastie & Church, "Very sparse random projections", KDD 2006, sections 2 and 4;
      Chen et al., "SLIDE", MLSys 2020, appendix (its SimHash).
    """
    dim = common.check_int("dim", dim, 1)
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density must be in (0, 1], got {density}; 1/3 is the usual choice")
    num_nonzeros = max(1, round(density * dim))
    if num_nonzeros > 2**common.MAX_QUANT_BITS:
        raise ValueError(
            f"density * dim must be at most 2**{common.MAX_QUANT_BITS} for exact sums, got "
            f"{num_nonzeros}; lower density"
        )
    count = num_tables * num_bits
    where, sign = common.random_words(key, (count, dim), (count, num_nonzeros))
    rows = common.random_subsets(where, num_nonzeros)
    signs = common.random_signs(sign)
    columns = jnp.arange(count, dtype=jnp.int32)[:, None]
    directions = jnp.zeros((dim, count), jnp.float32).at[rows, columns].set(signs)
    return SparseProjection(directions, dim, num_tables, num_bits, num_nonzeros)


@one_program()
def hash(params: SparseProjection, x: jax.Array) -> jax.Array:
    """Codes whose bit k is 1 where the signed sum of m random coordinates of x is >= 0.

    **Collision law.** With S a uniform subset of m coordinates and s uniform in {-1, 1}**m,

        Pr[bit agrees] = E_S Pr_s[ (s . x_S >= 0) == (s . y_S >= 0) ],

    a finite sum over C(d, m) * 2**m outcomes, independent for each bit and table. By the central
    limit theorem it tends to 1 - theta / pi as m grows, with an error of the order of
    sum_j |x_j|^3 / (sqrt(f) |x|^3): small for spread-out vectors; for vectors with few non-zero
    coordinates most subsets miss them all, the sum is 0 and the bit is 1. Use fastsrp there.

    x is rounded to integers (t = min(20, 24 - ceil(log2 m)) bits below the power of two above
    max|x|). The zero vector gets 2**K - 1. NaN, infinite and subnormal coordinates count as zero.

    The product runs as one dense GEMM: at the densities in use it beats m gathers for each bit.

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
      Li, Hastie & Church, KDD 2006, section 4.
    """
    flat, lead = common.flatten_features(x, params.dim)
    q, _ = common.quantize(flat, common.quant_bits(params.num_nonzeros, 1))
    bits = common.exact_matmul(q, params.directions) >= 0
    digits = bits.astype(jnp.int32).reshape(*lead, params.num_tables, params.num_bits)
    return common.pack(digits, 1)


def madds(params: SparseProjection) -> int:
    """Multiply-adds of hashing one vector as executed, a dense GEMM: dim * L * K.

    Args:
      params: from `init`.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), 16, num_tables=4, num_bits=8))
      512
    """
    return params.dim * params.num_tables * params.num_bits
