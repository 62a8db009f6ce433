"""Exact arithmetic shared by the hash families.

Every family promises one thing beyond its collision law: the codes of a vector are the same bits
whatever the batch it sits in, the thread count, the machine, or `jit`/`vmap` around the call.
Floating-point sums cannot promise that, so sums are taken over integers held in float32 and kept
at or below 2**24 in magnitude, where float32 addition is exact in every order. Nothing here
depends on the rounding of a transcendental function either.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

# float32 represents every integer of magnitude up to 2**24.
EXACT_BITS = 24
# More bits than this would gain nothing: a float32 has 24, and sums need head-room.
MAX_QUANT_BITS = 20
MAX_CODE_BITS = 30
EMPTY = -1
# XLA:CPU flushes subnormals, NumPy does not; both sides treat them as zero.
SMALLEST_NORMAL = np.float32(2.0**-126)


def check_int(name: str, value: int, low: int, high: int | None = None, cure: str = "") -> int:
    """Return `value` as a Python int, or raise ValueError naming it and the cure."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be a Python int, got {value!r} of type {type(value)}")
    if value < low or (high is not None and value > high):
        bounds = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {bounds}, got {value}" + (f"; {cure}" if cure else ""))
    return int(value)


def check_tables(num_tables: int, num_bits: int) -> tuple[int, int]:
    """Validate the two arguments every family has."""
    num_tables = check_int("num_tables", num_tables, 1)
    num_bits = check_int(
        "num_bits",
        num_bits,
        1,
        MAX_CODE_BITS,
        "a table has 2**num_bits buckets and ids are int32, use fewer bits and more tables",
    )
    return num_tables, num_bits


def flatten_features(x: jax.Array, dim: int) -> tuple[jax.Array, tuple[int, ...]]:
    """Check x [..., dim], drop what has no order, and return (float32 [n, dim], leading shape).

    NaN, infinities and subnormals become +0, and so does -0.
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ValueError(
            f"x must have shape [..., {dim}] (the `dim` given to init), got {x.shape}; "
            "transform keys and queries to the same width first, or init with dim = x.shape[-1]"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be floating, got dtype {x.dtype}; convert with x.astype(jnp.float32)"
        )
    lead = x.shape[:-1]
    x = x.astype(jnp.float32).reshape((int(np.prod(lead)), dim))
    usable = jnp.isfinite(x) & (jnp.abs(x) >= SMALLEST_NORMAL)
    return jnp.where(usable, x, jnp.zeros_like(x)), lead


def quant_bits(num_terms: int, max_weight: int) -> int:
    """Largest t with num_terms * max_weight * 2**t <= 2**24, capped at MAX_QUANT_BITS."""
    limit = 2**EXACT_BITS // (num_terms * max_weight)
    return min(max(limit, 1).bit_length() - 1, MAX_QUANT_BITS)


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2.0**exponent for int32 exponents in [-126, 127], built from the bits, hence exact."""
    return jax.lax.bitcast_convert_type(
        jnp.left_shift(exponent + jnp.int32(127), jnp.int32(23)), jnp.float32
    )


def quantize(x: jax.Array, bits: int, *, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """Round x to integers of magnitude <= 2**bits, one power-of-two scale for each vector.

    q = round_half_even(x * 2**shift), shift = bits - e, max|x| = f * 2**e, 1/2 <= f < 1. Scaling
    by a power of two is exact, so q(2**k x) = q(x). Only for max|x| < 2**(bits - 127) is the
    shift clamped (to 127) and resolution lost.

    Args:
      x: float32 without NaN, infinities or subnormals (see `flatten_features`).
      bits: static int.
      axis: the axis along which a vector runs.

    Returns:
      (q, shift): integer-valued float32 of x's shape, and int32 with `axis` kept as size 1.
    """
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    word = jax.lax.bitcast_convert_type(largest, jnp.int32)
    exponent = jnp.right_shift(word, jnp.int32(23)) - jnp.int32(126)
    shift = jnp.clip(jnp.int32(bits) - exponent, jnp.int32(-126), jnp.int32(127))
    return jnp.round(x * power_of_two(shift)), shift


def exact_matmul(q: jax.Array, weights: jax.Array) -> jax.Array:
    """[n, dim] @ [dim, m] over integer-valued float32 whose partial sums stay within 2**24."""
    return jax.lax.dot(q, weights, precision=jax.lax.Precision.HIGHEST)


def pack(digits: jax.Array, bits: int) -> jax.Array:
    """Pack int32 digits [..., L, K], each in [0, 2**bits), into codes [..., L], digit 0 lowest.

    Exactly `bits` bits a digit: the map from digits to codes is a bijection.
    """
    shifts = np.arange(digits.shape[-1], dtype=np.int32) * np.int32(bits)
    shifts = shifts.reshape((1,) * (digits.ndim - 1) + (-1,))
    return jnp.sum(jnp.left_shift(digits, jnp.asarray(shifts)), axis=-1, dtype=jnp.int32)


def random_words(key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Independent uint32 arrays of the given shapes, from one draw: it compiles only once."""
    sizes = [math.prod(shape) for shape in shapes]
    words = jax.random.bits(key, (sum(sizes),), jnp.uint32)
    ends = list(itertools.accumulate(sizes))
    return [
        words[end - size : end].reshape(shape)
        for end, size, shape in zip(ends, sizes, shapes, strict=True)
    ]


def random_subsets(words: jax.Array, size: int) -> jax.Array:
    """int32 [n, size]: random ordered subsets of range(dim), no repeats, from words [n, dim]."""
    return jnp.argsort(words, axis=-1)[:, :size].astype(jnp.int32)


def random_signs(words: jax.Array) -> jax.Array:
    """float32 array of independent fair signs, the top bit of each word."""
    negative = jnp.right_shift(words, jnp.uint32(31)) == jnp.uint32(1)
    return jnp.where(negative, jnp.float32(-1), jnp.float32(1))


def next_prime(n: int) -> int:
    """Smallest prime >= max(n, 2)."""
    n = max(n, 2)
    while any(n % f == 0 for f in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def random_strides(words: jax.Array) -> jax.Array:
    """int32 [num_bins] in [1, next_prime(num_bins)): one probe stride for each bin."""
    # The bias of the remainder, num_bins / 2**32, is nothing.
    span = next_prime(words.shape[0]) - 1
    return (words % jnp.uint32(span)).astype(jnp.int32) + jnp.int32(1)


def densify(values: jax.Array, strides: jax.Array) -> jax.Array:
    """Fill empty bins from other bins, each along its own pseudo-random cycle over all bins.

    Bin i, when empty, takes the value of the first non-empty bin among i + s_i, i + 2 s_i, ...
    (mod p), p the smallest prime >= the number of bins (probes past the last bin are skipped).
    As the stride s_i is drawn for each bin, donors of two bins are independent, which is what
    makes optimal densification optimal; as p is prime, the walk meets every bin once, so it ends,
    and a bin's law is that of independent bins tried in turn. Two vectors walk the same cycle.

    Args:
      values: int32 [n, B], EMPTY (-1) where a bin is empty, else >= 0.
      strides: int32 [B] from `random_strides`.

    Returns:
      int32 [n, B]; a row stays EMPTY only where all its bins are.

    References:
      Shrivastava, "Optimal Densification for Fast and Accurate Minwise Hashing", ICML 2017, s. 4.
    """
    num_bins = values.shape[-1]
    prime = next_prime(num_bins)
    own = jnp.arange(num_bins, dtype=jnp.int32)
    # A vector with nothing in it must not keep the loop running for the others.
    hopeless = jnp.all(values < 0, axis=-1, keepdims=True)

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        step, _, filled = state
        return (step < prime - 1) & jnp.any((filled < 0) & ~hopeless)

    def probe(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        step, position, filled = state
        position = position + strides
        position = jnp.where(position >= prime, position - prime, position)
        donor = values.at[:, jnp.minimum(position, num_bins - 1)].get(mode="promise_in_bounds")
        usable = (filled < 0) & (position < num_bins)[None, :]
        return step + 1, position, jnp.where(usable, donor, filled)

    state = (jnp.zeros((), jnp.int32), own, values)
    return jax.lax.while_loop(unfinished, probe, state)[2]
