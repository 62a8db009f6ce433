"""Near-duplicates among sets: codes of MinHash and matches by them; C++, and NumPy with equal bits.

Sets are CSR: the elements of set i are ids[offsets[i] : offsets[i + 1]].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparse_jax.ops import ffi
from sparse_jax.ops.threads import num_threads

_EMPTY = np.int32(2**31 - 1)
_STEP = np.uint32(0x9E3779B9)


class Params(NamedTuple):
    """What `retrieval.hashing.minhash.init` draws, on the host; L tables of K hashes."""

    words: np.ndarray  # uint32 [2]
    salts: np.ndarray  # uint32 [L]
    strides: np.ndarray  # int32 [L * K], from 1 to prime - 1
    num_bits: int
    prime: int  # the least that isn't below L * K


def codes(params: Params, offsets: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """What `minhash.hash` gives sets, int32 [sets, L], from int64 offsets and int32 ids."""
    if ffi.AVAILABLE:
        first, second = params.words.tolist()
        found = ffi.native().minhash_codes(
            offsets,
            ids,
            first,
            second,
            params.salts,
            params.strides,
            params.num_bits,
            params.prime,
            num_threads(),
        )
    else:
        found = _codes(params, offsets, ids)
    return found.reshape(offsets.size - 1, params.salts.size)


class Matcher:
    """Sets so far that are like none before them; a new one is like the most similar of these.

    Args:
      num_tables: L.
      threshold: Jaccard similarity from which on sets are alike.
      most: sets with one code in one table that are kept for comparison, the earliest.
    """

    def __init__(self, num_tables: int, threshold: float, most: int) -> None:
        self.num_tables = num_tables
        kind = ffi.native().SetMatcher if ffi.AVAILABLE else _Matcher
        self._matcher: Any = kind(num_tables, threshold, most)

    def add(
        self, offsets: np.ndarray, ids: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Takes the next sets.

        Args:
          offsets: int64 [sets + 1].
          ids: int32, ascending and distinct in a set.
          codes: int32 [sets, L].

        Returns:
          (the number of the set that each is like, counted from the first ever taken, or its own:
          int64 [sets]; how similar it is, 1 to itself: float64 [sets]). A set without elements is
          like none.
        """
        found: tuple[np.ndarray, np.ndarray] = self._matcher.add(offsets, ids, codes.reshape(-1))
        return found


class _Matcher:
    """`Matcher` in NumPy; kernels/include/sparse_jax/minhash.h says the same."""

    def __init__(self, num_tables: int, threshold: float, most: int) -> None:
        self.num_tables, self.threshold, self.most = num_tables, threshold, most
        self.seen = 0
        self.buckets: dict[tuple[int, int], list[int]] = {}
        self.sets: dict[int, np.ndarray] = {}

    def add(
        self, offsets: np.ndarray, ids: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Matcher.add`."""
        rows = codes.reshape(-1, self.num_tables).tolist()
        found = [
            self._add(ids[start:stop], row)
            for start, stop, row in zip(offsets[:-1], offsets[1:], rows, strict=True)
        ]
        numbers, similarities = zip(*found, strict=True) if found else ((), ())
        return np.array(numbers, np.int64), np.array(similarities, np.float64)

    def _add(self, ids: np.ndarray, row: list[int]) -> tuple[int, float]:
        number = self.seen
        self.seen += 1
        if not ids.size:
            return number, 1.0
        best, most_alike = -1, 0.0
        keys = list(enumerate([_fingerprint(ids), *row]))
        met = [self.buckets.get(key, []) for key in keys]
        for bucket in met:
            for at in bucket:
                alike = jaccard(ids, self.sets[at])
                if alike >= self.threshold and (-alike, at) < (-most_alike, best):
                    best, most_alike = at, alike
            if most_alike == 1.0:
                break
        if best >= 0:
            return best, most_alike
        self.sets[number] = ids.copy()
        for key, bucket in zip(keys, met, strict=True):
            if len(bucket) < self.most:
                self.buckets.setdefault(key, []).append(number)
        return number, 1.0


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Similarity of two sets, each distinct, of which one at least has an element.

    Example:
      >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
      0.5
    """
    both = int(np.intersect1d(a, b, assume_unique=True).size)
    return both / (a.size + b.size - both)


def _fingerprint(ids: np.ndarray) -> int:
    """A code of the whole set."""
    code = np.array([ids.size], np.uint32)
    for element in ids.astype(np.uint32)[:, None]:
        code = _mix((code ^ element) + _STEP)
    return int(code[0] >> np.uint32(1))


def _codes(params: Params, offsets: np.ndarray, ids: np.ndarray) -> np.ndarray:
    num_bins, tables = params.strides.size, params.salts.size
    real = ids >= 0
    row = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))[real]
    word = _mix(_mix(ids[real].astype(np.uint32) ^ params.words[0]) + params.words[1])
    least = np.full((offsets.size - 1, num_bins), _EMPTY, np.int32)
    value = np.minimum((word >> np.uint32(1)).astype(np.int32), _EMPTY - 1)
    np.minimum.at(least, (row, word % np.uint32(num_bins)), value)
    filled = np.where(least == _EMPTY, np.int32(-1), least)
    at = np.arange(num_bins)
    for _ in range(params.prime - 1):
        at = (at + params.strides) % params.prime
        donor = np.where(at < num_bins, least[:, np.minimum(at, num_bins - 1)], _EMPTY)
        filled = np.where((filled < 0) & (donor != _EMPTY), donor, filled)
    hashes = filled.reshape(-1, tables, num_bins // tables).astype(np.uint32)
    code = np.broadcast_to(params.salts, hashes.shape[:2])
    for k in range(hashes.shape[2]):
        code = _mix((code ^ hashes[:, :, k]) + _STEP)
    return (code >> np.uint32(32 - params.num_bits)).astype(np.int32)


def _mix(word: np.ndarray) -> np.ndarray:
    """`mixing.mix` in NumPy."""
    word = (word ^ word >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    word = (word ^ word >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return word ^ word >> np.uint32(16)
