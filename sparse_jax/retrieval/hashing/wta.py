"""Winner-Take-All hashing: which of a few random coordinates is the largest."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "WTA",
    "hash",
    "init",
    "madds",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WTA:
    """Parameters of L tables of K digits, each in [0, window), as `init` draws them.

    Attributes:
      windows: int32 [window, L * K], the coordinates each digit compares, distinct in a column.
    """

    windows: jax.Array
    dim: int = dataclasses.field(metadata=dict(static=True))
    num_tables: int = dataclasses.field(metadata=dict(static=True))
    num_bits: int = dataclasses.field(metadata=dict(static=True))
    window: int = dataclasses.field(metadata=dict(static=True))

    @property
    def num_buckets(self) -> int:
        """Codes lie in [0, num_buckets)."""
        return 2**self.num_bits


def check_window(dim: int, num_bits: int, window: int) -> int:
    """Validate `window` and return the number of digits, K = num_bits / log2(window)."""
    window = common.check_int("window", window, 2)
    if window & (window - 1):
        raise ValueError(f"window must be a power of two, got {window}; try 4, 8 or 16")
    if window > dim:
        raise ValueError(f"window must be <= dim = {dim}, got {window}; use a smaller window")
    digit_bits = window.bit_length() - 1
    if num_bits % digit_bits:
        lower = num_bits // digit_bits * digit_bits
        near = f"{lower} or {lower + digit_bits}" if lower else f"{digit_bits}"
        raise ValueError(
            f"num_bits must be a multiple of log2(window) = {digit_bits}, got {num_bits}; "
            f"use num_bits={near}, or another window"
        )
    return num_bits // digit_bits


@one_program("dim", "num_tables", "num_bits", "window")
def init(key: jax.Array, dim: int, *, num_tables: int, num_bits: int, window: int = 8) -> WTA:
    """Draw an independent random window of coordinates for each digit.

    Args:
      key: a PRNG key.
      dim: width of the vectors to hash.
      num_tables: L.
      num_bits: log2 of the buckets of a table, a multiple of log2(window): K = num_bits /
        log2(window) digits.
      window: coordinates compared for a digit, a power of two <= dim.

    Returns:
      WTA parameters.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> import jax
      >>> params = init(jax.random.key(0), 16, num_tables=4, num_bits=9, window=8)
      >>> hash(params, jax.random.normal(jax.random.key(1), (3, 16))).shape
      (3, 4)

    References:
      Yagnik, Strelow, Ross & Lin, "The power of comparative reasoning", ICCV 2011, algorithm 1.
    """
    dim = common.check_int("dim", dim, 1)
    num_tables, num_bits = common.check_tables(num_tables, num_bits)
    num_digits = check_window(dim, num_bits, window)
    (words,) = common.random_words(key, (num_tables * num_digits, dim))
    windows = common.random_subsets(words, window)
    return WTA(windows.T, dim, num_tables, num_bits, window)


def winners(flat: jax.Array, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position of the first maximum of each window, and whether the window is all zero.

    Args:
      flat: float32 [n, dim].
      windows: int32 [window, B].

    Returns:
      (int32 [n, B], bool [n, B]).
    """
    best = flat.at[:, windows[0]].get(mode="promise_in_bounds")
    empty = best == 0
    winner = jnp.zeros(best.shape, jnp.int32)
    # Unrolled comparisons fuse into one pass; XLA:CPU's argmax over a short axis does not.
    for j in range(1, windows.shape[0]):
        value = flat.at[:, windows[j]].get(mode="promise_in_bounds")
        better = value > best
        winner = jnp.where(better, jnp.int32(j), winner)
        best = jnp.where(better, value, best)
        empty = empty & (value == 0)
    return winner, empty


@one_program()
def hash(params: WTA, x: jax.Array) -> jax.Array:
    """Codes whose digit k is the position of the largest entry in the k-th window.

    **Collision law.** For vectors without equal coordinates, with R_i the number of coordinates
    smaller than coordinate i in both x and y, and m = window,

        Pr[digit agrees] = sum_i C(R_i, m - 1) / C(d, m),

    and the K-th power for a code, independently in each table (Yagnik et al., section 3: the
    winner is i in both exactly where the other m - 1 coordinates are below i in both). Among
    equal coordinates the first in the window wins. The code depends on the order of the
    coordinates only, hence is invariant to any increasing map of them.

    Digits are packed with exactly log2(window) bits each: every bucket can be reached.
    NaN, infinite and subnormal coordinates count as zero. The zero vector gets 0.

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
      Yagnik et al., ICCV 2011.
    """
    flat, lead = common.flatten_features(x, params.dim)
    winner, _ = winners(flat, params.windows)
    digits = winner.reshape(*lead, params.num_tables, winner.shape[1] // params.num_tables)
    return common.pack(digits, params.window.bit_length() - 1)


def madds(params: WTA) -> int:
    """Comparisons of hashing one vector: (window - 1) * L * K.

    Args:
      params: from `init`.

    Returns:
      A number; `madds` of the other families counts alike.

    Example:
      >>> madds(init(jax.random.key(0), 16, num_tables=4, num_bits=6))
      56
    """
    return (params.window - 1) * params.windows.shape[1]
