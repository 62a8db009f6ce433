"""Densified Winner-Take-All hashing, for sparse inputs (Chen & Shrivastava 2018)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common
from sparse_jax.retrieval.hashing import wta

__all__ = [
    "DWTA",
    "hash",
    "init",
    "madds",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DWTA:
    """Parameters of L tables of K digits, each in [0, window), as `init` draws them.

    Attributes:
      windows: int32 [window, L * K], the coordinates each digit compares, distinct in a column.
      strides: int32 [L * K], the probe stride of each digit (see `_common.densify`).
    """

    windows: jax.Array
    strides: jax.Array
    dim: int = dataclasses.field(metadata=dict(static=True))
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))
    window: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


@one_program("dim", "num_tables", "num_bits", "window")
def init(key: jax.Array, dim: int, *, num_tables: int, num_bits: int, window: int = 8) -> DWTA:
    """Draw an independent random window of coordinates, and a probe stride, for each digit.

    Args:
      key: a PRNG key.
      dim: width of the vectors to hash.
      num_tables: L.
      num_bits: log2 of the buckets of a table, a multiple of log2(window): K = num_bits /
        log2(window) digits.
      window: coordinates compared for a digit, a power of two <= dim.

    Returns:
      DWTA parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = init(jax.random.key(0), 64, num_tables=4, num_bits=9, window=8)
      >>> hash(params, jnp.zeros((3, 64)).at[:, 5].set(1.0)).shape
      (3, 4)

    References:
      Chen & Shrivastava, "Densified Winner Take All (DWTA) Hashing for Sparse Datasets",
      UAI 2018, section 4.
    """
    dim = common.check_int("dim", dim, 1)
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    num_digits = wta.check_window(dim, num_bits, window)
    count = num_tables * num_digits
    where, stride = common.random_words(key, (count, dim), (count,))
    windows = common.random_subsets(where, window)
    strides = common.random_strides(stride)
    return DWTA(windows.T, strides, dim, num_tables, num_bits, window)


@one_program()
def hash(params: DWTA, x: jax.Array) -> jax.Array:
    """WTA codes in which a digit whose window is all zero borrows that of another window.

    **Collision law.** For one random window let c = Pr[both non-zero and winners agree],
    e_x, e_y = Pr[window of x, of y all zero], e_xy = Pr[both all zero]. With z_x zeros in x,
    e_x = C(z_x, m) / C(d, m), and so on. Non-negative vectors whose positive entries differ have

        Pr[digit agrees] = (c + (e_x + e_y - 2 e_xy) / m) / (1 - e_xy):

    windows empty in both are passed over together; where only one is empty the other's digit
    comes from an independent window and agrees by chance, 1 / m. c is the WTA sum restricted to
    winners i with x_i, y_i > 0. (The chance of all L * K windows being empty is neglected.)
    Windows are drawn independently, so bins are exchangeable and the law is exact for a digit;
    digits that borrow the same window are dependent, across tables too.

    Where a window has a non-zero, the digit is that of WTA. Vectors no window sees (the zero
    vector) get 0. NaN, infinite and subnormal coordinates count as zero.

    Args:
      params: from `init`.
      x: floating [..., dim].

    Returns:
      int32 [..., L] in [0, num_buckets).

    Raises:
      ValueError: x is not floating, or its last axis is not `dim`.

    Example:
      >>> params = init(jax.random.key(0), 16, num_tables=4, num_bits=6)
      >>> x = jax.random.normal(jax.random.key(1), (2, 16))
      >>> codes = hash(params, x)
      >>> codes.shape, bool(jnp.array_equal(hash(params, 3.0 * x), codes))
      ((2, 4), True)

    References:
      Chen & Shrivastava, UAI 2018; Shrivastava, ICML 2017 (the choice of the donor).
    """
    flat, lead = common.flatten_features(x, params.dim)
    winner, empty = wta.winners(flat, params.windows)
    values = jnp.where(empty, jnp.int32(common.EMPTY), winner)
    filled = jnp.maximum(common.densify(values, params.strides), 0)
    digits = filled.reshape(*lead, params.num_tables, filled.shape[1] // params.num_tables)
    return common.pack(digits, params.window.bit_length() - 1)


def madds(params: DWTA) -> int:
    """Comparisons of hashing one vector: (2 window - 1) * L * K, winners and emptiness.

    The probes of empty windows depend on the data and are left out: about L * K for each round.

    Args:
      params: from `init`.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), 16, num_tables=4, num_bits=6))
      120
    """
    return (2 * params.window - 1) * params.windows.shape[1]
