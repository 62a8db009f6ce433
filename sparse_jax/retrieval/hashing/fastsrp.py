"""FastSRP: sign bits of the bins of a count sketch, one pass over x for many bits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "FastSRP",
    "hash",
    "init",
    "madds",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FastSRP:
    """Parameters of L tables of K sign bits, as `init` draws them.

    A repetition permutes the coordinates and cuts them into G bins of nearly equal size; bin
    r * G + g is the g-th of repetition r.

    Attributes:
      members: int32 [S, R * G], the coordinates in each bin.
      signs: float32 [S, R * G], a sign for each coordinate and repetition, 0 for padding.
      strides: int32 [R * G], the probe stride of each bin (see `_common.densify`).
    """

    members: jax.Array
    signs: jax.Array
    strides: jax.Array
    dim: int = dataclasses.field(metadata=dict(static=True))
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))
    num_repetitions: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


@one_program("dim", "num_tables", "num_bits", "bin_size")
def init(
    key: jax.Array, dim: int, *, num_tables: int, num_bits: int, bin_size: int = 16
) -> FastSRP:
    """Draw the permutations, signs and probe strides.

    A repetition has G = max(1, dim // bin_size) bins, and R = ceil(L * K / G) repetitions give
    the bits (bins beyond L * K are donors only).

    Args:
      key: a PRNG key.
      dim: width of the vectors to hash.
      num_tables: L.
      num_bits: K; a table has 2**K buckets.
      bin_size: least number of coordinates in a bin (fewer only where dim is smaller). Larger
        bins are closer to a dense projection and cost more.

    Returns:
      FastSRP parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax
      >>> params = init(jax.random.key(0), 64, num_tables=4, num_bits=8, bin_size=8)
      >>> hash(params, jax.nn.relu(jax.random.normal(jax.random.key(1), (3, 64)))).shape
      (3, 4)

    References:
      Charikar, Chen & Farach-Colton, "Finding frequent items in data streams", ICALP 2002
      (sign and bin of a coordinate); Shrivastava, ICML 2017 (empty bins).
    """
    dim = common.check_int("dim", dim, 1)
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    bin_size = common.check_int("bin_size", bin_size, 1)
    groups = max(1, dim // bin_size)
    repetitions = -(-num_tables * num_bits // groups)
    # Bin g holds positions bounds[g] .. bounds[g + 1] of the permuted coordinates.
    bounds = np.arange(groups + 1, dtype=np.int64) * dim // groups
    size = int(np.max(np.diff(bounds)))
    if size > 2**common.MAX_QUANT_BITS:
        raise ValueError(
            f"bin_size must keep bins within 2**{common.MAX_QUANT_BITS} coordinates for exact "
            f"sums, got bins of {size}; lower bin_size"
        )
    position = bounds[:-1] + np.arange(size, dtype=np.int64)[:, None]  # [S, G]
    real = position < bounds[1:]
    position = np.minimum(position, dim - 1).astype(np.int32)

    where, sign, stride = common.random_words(
        key, (repetitions, dim), (size, repetitions, groups), (repetitions * groups,)
    )
    perm = common.random_subsets(where, dim)  # [R, dim]
    # [R, S, G] -> [S, R * G]
    members = perm[:, position].transpose(1, 0, 2).reshape(size, repetitions * groups)
    signs = jnp.where(jnp.asarray(real)[:, None, :], common.random_signs(sign), jnp.float32(0))
    return FastSRP(
        members=members,
        signs=signs.reshape(size, repetitions * groups),
        strides=common.random_strides(stride),
        dim=dim,
        num_tables=num_tables,
        num_bits=num_bits,
        num_repetitions=repetitions,
    )


@one_program()
def hash(params: FastSRP, x: jax.Array) -> jax.Array:
    """Codes whose bits are signs of bin sums, sum over j in the bin of s_j x_j >= 0.

    The sign belongs to the coordinate, not to the bin: on non-negative inputs (after a ReLU) a
    sign for each bin would make every bit constant.

    **Collision law.** For a bin of s random coordinates with random signs, let
    c = Pr[both non-empty and the signs agree], e_x, e_y, e_xy the probabilities that the bin is
    empty (all zero) in x, in y, in both. For vectors whose signed partial sums do not vanish,

        Pr[bit agrees] = (c + (e_x + e_y - 2 e_xy) / 2) / (1 - e_xy),

    exact for donors from other repetitions; a donor from the same repetition, of probability
    about 1 / R, is dependent, as bins of a repetition share no coordinate. c is the finite sum
    of `srp` over subsets of s coordinates, and tends to 1 - theta / pi as bins fill. A code
    agrees with about the K-th power (the bits of one repetition are weakly dependent).

    x is rounded to integers (t = min(20, 24 - ceil(log2 s)) bits below the power of two above
    max|x|); a coordinate that rounds to 0 counts as empty. The zero vector gets 2**K - 1. NaN,
    infinite and subnormal coordinates count as zero.

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
      Charikar, Chen & Farach-Colton, ICALP 2002; Shrivastava, ICML 2017.
    """
    flat, lead = common.flatten_features(x, params.dim)
    q, _ = common.quantize(flat, common.quant_bits(params.members.shape[0], 1))
    sums, empty = _bin_sums(q, params)
    values = jnp.where(empty, jnp.int32(common.EMPTY), (sums >= 0).astype(jnp.int32))
    filled = jnp.abs(common.densify(values, params.strides))  # still empty: 1, as for sum 0
    wanted = params.num_tables * params.num_bits
    digits = filled[:, :wanted].reshape(*lead, params.num_tables, params.num_bits)
    return common.pack(digits, 1)


def _bin_sums(q: jax.Array, params: FastSRP) -> tuple[jax.Array, jax.Array]:
    """Signed sum of each bin, and whether the bin is all zero: float32 and bool, [n, R * G].

    Sums are of integers within 2**24: exact in every order.
    """
    # One member of every bin at a time, whole rows of q.T: contiguous copies, where gathering
    # single coordinates and reducing over the bin took XLA:CPU 60 times as long.
    columns = q.T

    def add(
        carry: tuple[jax.Array, jax.Array], one: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        sums, empty = carry
        members, signs = one
        term = columns.at[members].get(mode="promise_in_bounds") * signs[:, None]
        return (sums + term, empty & (term == 0)), None

    shape = (params.members.shape[1], q.shape[0])
    start = (jnp.zeros(shape, jnp.float32), jnp.ones(shape, bool))
    (sums, empty), _ = jax.lax.scan(add, start, (params.members, params.signs))
    return sums.T, empty.T


def madds(params: FastSRP) -> int:
    """Signed additions and emptiness tests of hashing one vector: 2 * R * G * S.

    The probes of empty bins depend on the data and are left out: about R * G for each round.

    Args:
      params: from `init`.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), 16, num_tables=4, num_bits=8))
      1024
    """
    return 2 * params.members.shape[0] * params.members.shape[1]
