"""NumPy references of the hash families and transforms, and their exact collision laws.

Written from the definitions, with 64-bit integers and plain loops where these are clearer; they
share no code with the package. `p` is the params object of the family.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def clean(x: Any) -> np.ndarray:
    """float32 with NaN, infinities and subnormals set to 0."""
    x = np.asarray(x, np.float32)
    return np.where(np.isfinite(x) & (np.abs(x) >= np.finfo(np.float32).tiny), x, np.float32(0))


def quantize(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 round(x * 2**shift) along the last axis, and the shift, in float64 arithmetic."""
    x = clean(x).astype(np.float64)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    exponent = np.where(largest > 0, np.frexp(largest)[1], -126)
    shift = np.clip(bits - exponent, -126, 127)
    return np.rint(np.ldexp(x, shift)).astype(np.int64), shift


def budget(terms: int, weight: int) -> int:
    """Bits of the input for which terms * weight * 2**bits <= 2**24."""
    return min(math.floor(math.log2(2**24 // (terms * weight))), 20)


def pack(digits: np.ndarray, base: int) -> np.ndarray:
    """[..., L, K] digits to sum_k digit_k * base**k."""
    weights = base ** np.arange(digits.shape[-1], dtype=np.int64)
    return (digits * weights).sum(-1).astype(np.int32)


def densify(values: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Walk i, i + s_i, i + 2 s_i, ... mod the smallest prime >= B to a value >= 0."""
    n, bins = values.shape
    prime = next(p for p in itertools.count(max(2, bins)) if all(p % f for f in range(2, p)))
    out = values.copy()
    for row in range(n):
        for i in range(bins):
            for t in range(prime):
                j = (i + t * int(strides[i])) % prime
                if j < bins and values[row, j] >= 0:
                    out[row, i] = values[row, j]
                    break
    return out


def simhash(p: Any, x: np.ndarray) -> np.ndarray:
    q, _ = quantize(x, budget(min(p.dim, 1024), 31))
    bits = q @ np.asarray(p.directions).astype(np.int64) >= 0
    return pack(bits.reshape(*x.shape[:-1], p.num_tables, p.num_bits), 2)


def srp(p: Any, x: np.ndarray) -> np.ndarray:
    q, _ = quantize(x, budget(p.num_nonzeros, 1))
    bits = q @ np.asarray(p.directions).astype(np.int64) >= 0
    return pack(bits.reshape(*x.shape[:-1], p.num_tables, p.num_bits), 2)


def wta(p: Any, x: np.ndarray) -> np.ndarray:
    seen = clean(x)[..., np.asarray(p.windows).T]  # [..., B, window]
    digits = seen.argmax(-1).astype(np.int64)
    return pack(digits.reshape(*x.shape[:-1], p.num_tables, -1), p.window)


def dwta(p: Any, x: np.ndarray) -> np.ndarray:
    flat = clean(x).reshape(-1, p.dim)
    seen = flat[:, np.asarray(p.windows).T]
    digits = np.where((seen == 0).all(-1), -1, seen.argmax(-1)).astype(np.int64)
    digits = np.maximum(densify(digits, np.asarray(p.strides)), 0)
    return pack(digits.reshape(*x.shape[:-1], p.num_tables, -1), p.window)


def fastsrp(p: Any, x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, p.dim)
    members, signs = np.asarray(p.members), np.asarray(p.signs).astype(np.int64)
    q, _ = quantize(flat, budget(members.shape[0], 1))
    bits = np.empty((flat.shape[0], members.shape[1]), np.int64)
    for b in range(members.shape[1]):
        terms = q[:, members[:, b]] * signs[:, b]
        bits[:, b] = np.where((terms == 0).all(-1), -1, terms.sum(-1) >= 0)
    bits = densify(bits, np.asarray(p.strides))
    bits = np.where(bits < 0, 1, bits)[:, : p.num_tables * p.num_bits]
    return pack(bits.reshape(*x.shape[:-1], p.num_tables, p.num_bits), 2)


def mix(word: int) -> int:
    word ^= word >> 16
    word = word * 0x85EBCA6B % 2**32
    word ^= word >> 13
    word = word * 0xC2B2AE35 % 2**32
    return word ^ (word >> 16)


def minhash(p: Any, x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1])
    first, second = (int(w) for w in np.asarray(p.words))
    bins = p.num_tables * p.num_hashes
    least = np.full((flat.shape[0], bins), 2**31 - 1, np.int64)
    for row, elements in enumerate(flat):
        for element in elements[elements >= 0].tolist():
            word = mix((mix(element ^ first) + second) % 2**32)
            slot = word % bins
            least[row, slot] = min(least[row, slot], word // 2, 2**31 - 2)
    least = densify(np.where(least == 2**31 - 1, -1, least), np.asarray(p.strides))
    codes = np.empty((flat.shape[0], p.num_tables), np.int32)
    for row, table in np.ndindex(*codes.shape):
        code = int(np.asarray(p.salts)[table])
        for k in range(p.num_hashes):
            value = int(least[row, table * p.num_hashes + k]) % 2**32
            code = mix(((code ^ value) + 0x9E3779B9) % 2**32)
        codes[row, table] = code >> (32 - p.num_bits)
    return codes.reshape(*x.shape[:-1], p.num_tables)


# ---- collision laws ----------------------------------------------------------------------------


def law_angle(x: np.ndarray, y: np.ndarray) -> float:
    """1 - theta / pi."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return 1 - math.acos(x @ y / math.sqrt(x @ x) / math.sqrt(y @ y)) / math.pi


def law_signed_subset(x: np.ndarray, y: np.ndarray, size: int) -> tuple[float, ...]:
    """Over all subsets S of `size` coordinates and all signs s, as probabilities:

    signs agree; both non-zero on S and signs agree; x zero on S; y zero; both zero.
    """
    signs = np.array(list(itertools.product((-1, 1), repeat=size)), np.float64)
    agree = both = zero_x = zero_y = zero_xy = 0.0
    subsets = list(itertools.combinations(range(len(x)), size))
    for subset in subsets:
        xs, ys = x[list(subset)].astype(np.float64), y[list(subset)].astype(np.float64)
        same = float(np.mean((signs @ xs >= 0) == (signs @ ys >= 0)))
        no_x, no_y = not xs.any(), not ys.any()
        agree += same
        both += same * (not no_x and not no_y)
        zero_x += no_x
        zero_y += no_y
        zero_xy += no_x and no_y
    return tuple(v / len(subsets) for v in (agree, both, zero_x, zero_y, zero_xy))


def law_fastsrp(x: np.ndarray, y: np.ndarray, size: int) -> float:
    _, both, zero_x, zero_y, zero_xy = law_signed_subset(x, y, size)
    return (both + (zero_x + zero_y - 2 * zero_xy) / 2) / (1 - zero_xy)


def law_wta(x: np.ndarray, y: np.ndarray, window: int) -> float:
    """sum_i C(R_i, window - 1) / C(d, window)."""
    below = [int(((x < x[i]) & (y < y[i])).sum()) for i in range(len(x))]
    return sum(math.comb(r, window - 1) for r in below) / math.comb(len(x), window)


def law_dwta(x: np.ndarray, y: np.ndarray, window: int) -> float:
    total = math.comb(len(x), window)
    wins = 0
    for i in range(len(x)):
        if x[i] > 0 and y[i] > 0:
            wins += math.comb(int(((x < x[i]) & (y < y[i])).sum()), window - 1)
    empty_x = math.comb(int((x == 0).sum()), window) / total
    empty_y = math.comb(int((y == 0).sum()), window) / total
    empty = math.comb(int(((x == 0) & (y == 0)).sum()), window) / total
    return (wins / total + (empty_x + empty_y - 2 * empty) / window) / (1 - empty)


# ---- transforms --------------------------------------------------------------------------------


def column_mean(w: np.ndarray) -> np.ndarray:
    count = w.shape[0]
    q, shift = quantize(w.T, min(math.floor(math.log2((2**31 - 1) // count)), 20))
    mean = q.sum(-1).astype(np.float32) * np.float32(1 / count)
    return (mean * np.exp2(-shift[:, 0].astype(np.float32))).astype(np.float32)


def squared_norms(w: np.ndarray) -> np.ndarray:
    q, shift = quantize(w, math.floor(math.log2((2**31 - 1) // w.shape[1])) // 2)
    total = (q * q).sum(-1).astype(np.float32)
    return (total * np.exp2(-2 * shift[:, 0].astype(np.float32))).astype(np.float32)
