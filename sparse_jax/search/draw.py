"""The rows that an embedding begins with: normal, each a function of the seed and its number alone.

A network keeps on disk only the rows that training or feedback moved; all others are drawn again,
one by one by NumPy where a query needs them, or all of them by JAX where one trains: the same bits.
They are `jax.random.normal` of the same key, but for the last bits: that function's depend on the
compiler, and can't be had without it.

References: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011 (Threefry-2x32, 20
rounds); Giles, Approximating the erfinv function, 2010 (single precision).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = ["bits", "normals", "rows"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_CENTRAL = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)
_MANTISSA = 23


def bits(seed: int, high: Any, low: Any) -> Any:
    """Random bits of 64-bit counters, as `jax.random.bits` has them of `jax.random.key(seed)`.

    Args:
      seed: from 0 to 2^64 - 1.
      high: uint32 of any shape, of NumPy or JAX: the upper halves of the counters.
      low: uint32 of that shape.

    Returns:
      uint32 of that shape.
    """
    word = low.dtype.type
    first, second = word(seed >> 32 & 0xFFFFFFFF), word(seed & 0xFFFFFFFF)
    keys = first, second, first ^ second ^ word(0x1BD11BDA)
    a, b = high + keys[0], low + keys[1]
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            a = a + b
            b = (b << word(distance) | b >> word(32 - distance)) ^ a
        a = a + keys[(turn + 1) % 3]
        b = b + keys[(turn + 2) % 3] + word(turn + 1)
    return a ^ b


def rows(seed: int, ids: np.ndarray, dim: int) -> np.ndarray:
    """Some rows of an embedding as it was drawn.

    Args:
      seed: of the network.
      ids: int [n], their numbers.
      dim: of a row.

    Returns:
      float32 [n, dim].

    Example:
      >>> rows(0, np.array([5, 2]), 4)[1].tolist() == rows(0, np.array([2]), 4)[0].tolist()
      True
    """
    counters = ids.astype(np.int64)[:, None] * dim + np.arange(dim)
    high, low = (counters >> 32).astype(np.uint32), (counters & 0xFFFFFFFF).astype(np.uint32)
    drawn = bits(seed, high, low)
    return _normal(drawn >> np.uint32(32 - _MANTISSA)) * scale(dim)


def scale(dim: int) -> np.float32:
    """By which normals are multiplied, so that rows have about unit length."""
    return np.float32(dim**-0.5)


@functools.lru_cache(maxsize=1)
def normals() -> np.ndarray:
    """All values that there are: float32 [2^23], by the upper 23 of the random bits."""
    parts = [
        _normal(np.arange(first, first + (1 << 16), dtype=np.uint32))
        for first in range(0, 1 << _MANTISSA, 1 << 16)
    ]
    return np.concatenate(parts)


def _normal(mantissas: np.ndarray) -> np.ndarray:
    """sqrt(2) erfinv(u) of u in (-1, 1): only what IEEE 754 rounds alike on every machine."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    unit = (mantissas | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    u = np.maximum(unit * (np.float32(1) - lowest) + lowest, lowest)
    # In double precision, so that no library's last bit is seen.
    w = (-np.log1p(-(u * u).astype(np.float64))).astype(np.float32)
    central = w < np.float32(5)
    w = np.where(central, w - np.float32(2.5), np.sqrt(w) - np.float32(3))
    p = np.where(central, np.float32(_CENTRAL[0]), np.float32(_TAIL[0]))
    for a, b in zip(_CENTRAL[1:], _TAIL[1:], strict=True):
        p = p * w + np.where(central, np.float32(a), np.float32(b))
    return np.float32(np.sqrt(2.0)) * (p * u)
