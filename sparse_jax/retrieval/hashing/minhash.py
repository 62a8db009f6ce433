"""MinHash of sets by densified one-permutation hashing (Shrivastava 2017)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.mixing import mix
from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "MinHash",
    "hash",
    "init",
    "madds",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MinHash:
    """Parameters of L tables of K minwise hashes, folded to num_bits bits, as `init` draws them.

    Attributes:
      words: uint32 [2], the keys of the permutation of the universe.
      salts: uint32 [L], the key of each table's fold.
      strides: int32 [L * K], the probe stride of each bin (see `_common.densify`).
    """

    words: jax.Array
    salts: jax.Array
    strides: jax.Array
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))
    num_hashes: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


@one_program("dim", "num_tables", "num_bits", "num_hashes")
def init(
    key: jax.Array,
    dim: int | None = None,
    *,
    num_tables: int,
    num_bits: int,
    num_hashes: int = 1,
) -> MinHash:
    """Draw one permutation of the universe and the folds of `num_tables` tables.

    Args:
      key: a PRNG key.
      dim: ignored; there so that every family is called alike. The universe is [0, 2**31).
      num_tables: L.
      num_bits: log2 of the buckets of a table.
      num_hashes: K, the minwise hashes joined in a code.

    Returns:
      MinHash parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = init(jax.random.key(0), num_tables=4, num_bits=8)
      >>> hash(params, jnp.array([[3, 70, 12, -1], [70, 12, 3, 3]])).shape
      (2, 4)

    References:
      Shrivastava, "Optimal Densification for Fast and Accurate Minwise Hashing", ICML 2017;
      Li, Owen & Zhang, "One permutation hashing", NIPS 2012.
    """
    del dim
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    num_hashes = common.check_int("num_hashes", num_hashes, 1)
    words, salts, stride = common.random_words(key, (2,), (num_tables,), (num_tables * num_hashes,))
    return MinHash(
        words=words,
        salts=salts,
        strides=common.random_strides(stride),
        num_tables=num_tables,
        num_bits=num_bits,
        num_hashes=num_hashes,
    )


@one_program()
def hash(params: MinHash, x: jax.Array) -> jax.Array:
    """Codes of sets: the least element, in a random order, of each of L * K bins of the universe.

    **Collision law.** For sets of Jaccard similarity J = |x & y| / |x | y|, a minwise hash agrees
    with probability J (exactly, empty bins included: Shrivastava 2017, theorem 2), and a code with
    J**K + (1 - J**K) / 2**num_bits, the second term from folding to num_bits bits. J is exact
    for a uniformly random permutation; here it is a keyed 32-bit mixer, and distinct elements
    share a value with probability 2**-31. Tables that borrow the same bin are dependent.

    All empty sets get the same codes. Repeated elements count once.

    Args:
      params: from `init`.
      x: int32 [..., n], the elements of each set, in any order; negative = padding.

    Returns:
      int32 [..., L] in [0, num_buckets).

    Raises:
      ValueError: x is not int32.

    Example:
      >>> params = init(jax.random.key(0), num_tables=4, num_bits=8)
      >>> sets = jnp.array([[3, 17, 5], [5, 3, 17], [9, -1, -1]], jnp.int32)
      >>> codes = hash(params, sets)  # the order of elements makes no difference
      >>> codes.shape, bool(jnp.array_equal(codes[0], codes[1]))
      ((3, 4), True)

    References:
      Broder, "On the resemblance and containment of documents", 1997; Shrivastava, ICML 2017.
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.dtype != jnp.int32:
        raise ValueError(
            f"x must be int32 set elements of shape [..., n], got {x.dtype} {x.shape}; map wider "
            "ids to [0, 2**31) on the host, and pass element ids rather than a dense vector"
        )
    lead = x.shape[:-1]
    flat = x.reshape((int(np.prod(lead)), x.shape[-1]))
    num_bins = params.num_tables * params.num_hashes
    word = mix(mix(flat.astype(jnp.uint32) ^ params.words[0]) + params.words[1])
    # A padding element goes to a bin past the end, which the scatter drops.
    bins = (word % np.uint32(num_bins)).astype(jnp.int32)
    bins = jnp.where(flat < 0, jnp.int32(num_bins), bins)
    # The least word of a bin; the largest value is kept for "empty".
    empty = np.int32(2**31 - 1)
    value = jnp.minimum((word >> np.uint32(1)).astype(jnp.int32), empty - np.int32(1))
    row = jnp.arange(flat.shape[0], dtype=jnp.int32)[:, None]
    least = jnp.full((flat.shape[0], num_bins), empty, jnp.int32)
    least = least.at[row, bins].min(value, mode="drop")
    least = jnp.where(least == empty, jnp.int32(common.EMPTY), least)
    least = common.densify(least, params.strides)

    least = least.reshape(flat.shape[0], params.num_tables, params.num_hashes).astype(jnp.uint32)
    code = jnp.broadcast_to(params.salts[None, :], (flat.shape[0], params.num_tables))
    for k in range(params.num_hashes):
        code = mix((code ^ least[:, :, k]) + np.uint32(0x9E3779B9))
    code = code >> np.uint32(32 - params.num_bits)
    return code.astype(jnp.int32).reshape(*lead, params.num_tables)


def madds(params: MinHash, num_elements: int = 1) -> int:
    """Multiplications, divisions and comparisons of hashing one set of `num_elements` slots.

    Six for an element (two mixers, a bin, a minimum), three for a bin (its emptiness, one mixer);
    probes of empty bins depend on the data and are left out: about L * K for each round.

    Args:
      params: from `init`.
      num_elements: slots of a set, padding included.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), num_tables=4, num_bits=8), num_elements=10)
      72
    """
    return 6 * num_elements + 3 * params.num_tables * params.num_hashes
