"""Counts of words, pairs of words and character n-grams of texts: C++, and NumPy with equal bits.

A feature is known by a 64-bit key: a mixed hash of its UTF-8 bytes and its kind. Two
features with one key would be one; among ten million that has a chance of 3 in a million.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax.ops import ffi
from sparse_jax.ops.threads import num_threads

# What a hash is salted with.
_WORD, _GRAM, _PAIR = np.uint64(0), np.uint64(0xD1B54A32D192ED03), np.uint64(0xA36A9465A325DA06)
_SPACE = 0x20
# A word, between spaces and other control characters, that isn't all ASCII.
_FOREIGN = re.compile(r"(?<![^\x00-\x20])[!-\x7f]*+[^\x00-\x7f][^\x00-\x20]*+")
_MAX_CACHED = 32  # characters of such a word that is kept normalized


class Options(NamedTuple):
    """Which features texts have."""

    words: bool
    pairs: bool  # of neighbouring words
    low: int  # characters of the shortest n-grams of a word between spaces; 0: none
    high: int  # of the longest


class Counts(NamedTuple):
    """Distinct features of each text, in CSR form; ids ascend in each."""

    offsets: np.ndarray  # int64 [texts + 1]
    ids: np.ndarray  # int32 [nnz]
    values: np.ndarray  # float32 [nnz], how often


class Found(NamedTuple):
    """The features that enough texts hold, most frequent first, equal ones by name."""

    keys: np.ndarray  # uint64 [F]
    frequencies: np.ndarray  # int64 [F], texts that hold them
    names: tuple[str, ...]  # "red", "red apple", and "*_re" for an n-gram at a word's beginning


def hash_texts(
    texts: Sequence[str], options: Options, num_features: int, normalize: Callable[[str], str]
) -> Counts:
    """Counts of features by their keys modulo `num_features`."""
    if ffi.AVAILABLE:
        prepared = _prepare(texts, normalize)
        return Counts(*ffi.native().hash_texts(prepared, *options, num_features, num_threads()))
    rows, keys, _ = _entries(texts, options, normalize)
    return _count(rows, (keys % np.uint64(num_features)).astype(np.int64), len(texts))


def count_known(
    texts: Sequence[str], options: Options, keys: np.ndarray, normalize: Callable[[str], str]
) -> Counts:
    """Counts of the features whose keys are given, by their places among them."""
    if ffi.AVAILABLE:
        prepared = _prepare(texts, normalize)
        return Counts(*ffi.native().count_known_texts(prepared, *options, keys, num_threads()))
    rows, found, _ = _entries(texts, options, normalize)
    ids = _places(found, keys)
    return _count(rows[ids >= 0], ids[ids >= 0], len(texts))


def fit_vocabulary(
    texts: Sequence[str],
    options: Options,
    min_count: int,
    max_features: int,
    normalize: Callable[[str], str],
) -> tuple[Found, Counts]:
    """The features that at least `min_count` texts hold, at most so many, and their counts."""
    if not ffi.AVAILABLE:
        return _fit_python(texts, options, min_count, max_features, normalize)
    prepared = _prepare(texts, normalize)
    keys, frequencies, joined, bounds, counts = ffi.native().fit_texts(
        prepared, *options, min_count, max_features, num_threads()
    )
    # No name holds a line break, and splitting is quicker than cutting one by one.
    lines = np.insert(np.frombuffer(joined, np.uint8), bounds[1:-1], ord("\n")).tobytes().decode()
    names = tuple(lines.split("\n")) if keys.size else ()
    return Found(keys, frequencies, names), Counts(*counts)


def word_keys(words: Sequence[str]) -> np.ndarray:
    """Keys of words as `normalize` leaves them: uint64 [words]."""
    buffer = np.frombuffer(b" " + b"".join(word.encode() + b" " for word in words), np.uint8)
    spaces = np.flatnonzero(buffer == _SPACE)
    return mix64(_hash_bytes(buffer, spaces[:-1] + 1, spaces[1:]) + _WORD)


def _prepare(texts: Sequence[str], normalize: Callable[[str], str]) -> tuple[str, ...]:
    """Texts for C++, which folds ASCII alone: other words are normalized here.

    A word is normalized alike wherever it stands, as nothing in the rules reaches over a space.
    """
    known: dict[str, str] = {}

    def fold(found: re.Match[str]) -> str:
        word = found[0]
        folded = known.get(word)
        if folded is None:
            folded = normalize(word)
            if len(word) <= _MAX_CACHED:
                known[word] = folded
        return folded

    if all(map(str.isascii, texts)):
        return tuple(texts)
    return tuple(text if text.isascii() else _FOREIGN.sub(fold, text) for text in texts)


def _fit_python(
    texts: Sequence[str],
    options: Options,
    min_count: int,
    max_features: int,
    normalize: Callable[[str], str],
) -> tuple[Found, Counts]:
    rows, found, name_of = _entries(texts, options, normalize)
    keys, first, number = np.unique(found, return_index=True, return_inverse=True)
    counted = _count(rows, number, len(texts))
    frequencies = np.bincount(counted.ids, minlength=keys.size)
    kept = np.flatnonzero(frequencies >= min_count)
    names = {i: name_of(int(first[i])) for i in kept.tolist()}
    order = sorted(names, key=lambda i: (-int(frequencies[i]), names[i].encode()))[:max_features]
    ids = np.full(keys.size, -1, np.int64)
    ids[order] = np.arange(len(order))
    chosen = ids[number]
    counts = _count(rows[chosen >= 0], chosen[chosen >= 0], len(texts))
    return Found(keys[order], frequencies[order], tuple(names[i] for i in order)), counts


def _entries(
    texts: Sequence[str], options: Options, normalize: Callable[[str], str]
) -> tuple[np.ndarray, np.ndarray, Callable[[int], str]]:
    """(text, key) of all features with repeats, and the name of each by its place."""
    numbers: dict[str, int] = {}
    types: list[int] = []
    sizes: list[int] = []
    for text in texts:
        split = normalize(text).split()
        types += [numbers.setdefault(word, len(numbers)) for word in split]
        sizes.append(len(split))
    words, of = list(numbers), np.array(types, np.int64)
    row = np.repeat(np.arange(len(sizes)), sizes)
    buffer = np.frombuffer(b" " + b"".join(w.encode() + b" " for w in words), np.uint8)
    spaces = np.flatnonzero(buffer == _SPACE)
    starts, stops = spaces[:-1] + 1, spaces[1:]
    word_hash = _hash_bytes(buffer, starts, stops)
    near = np.flatnonzero(row[1:] == row[:-1]) if options.pairs else np.zeros(0, np.int64)
    left, right = of[near], of[near + 1]
    begin, end, gram_offsets = _grams(buffer, starts, stops, options)
    counts = np.diff(gram_offsets)[of] if of.size else np.zeros(0, np.int64)
    at = np.arange(counts.sum()) + np.repeat(
        gram_offsets[of] - (np.cumsum(counts) - counts), counts
    )
    shown = of if options.words else of[:0]
    parts = (
        (row[: shown.size], mix64(word_hash + _WORD)[shown]),
        (row[near], mix64(word_hash[left] * np.uint64(3) + mix64(word_hash[right]) + _PAIR)),
        (np.repeat(row, counts), mix64(_hash_bytes(buffer, begin, end) + _GRAM)[at]),
    )

    def name_of(place: int) -> str:
        if place < shown.size:
            return words[shown[place]]
        place -= shown.size
        if place < near.size:
            return f"{words[left[place]]} {words[right[place]]}"
        gram = at[place - near.size]
        return "*" + buffer[begin[gram] : end[gram]].tobytes().decode().replace(" ", "_")

    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), name_of


def _hash_bytes(buffer: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Hashes of substrings of a buffer, eight bytes after eight; mixed by those who use them."""
    padded = np.append(buffer, np.zeros(8, np.uint8))
    sizes = stops - starts
    hashes = sizes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    rest, first = np.arange(sizes.size), 0
    while rest.size:
        left = np.minimum(sizes[rest] - first, 8)
        at = (starts[rest] + first)[:, None] + np.arange(8)
        # The last eight bytes, or fewer, are taken with zeros behind.
        taken = np.where(np.arange(8) < left[:, None], padded[np.minimum(at, padded.size - 1)], 0)
        chunk = taken.astype(np.uint8).view("<u8")[:, 0].astype(np.uint64)
        mixed = (hashes[rest] ^ chunk) * np.uint64(0xD6E8FEB86659FD93)
        hashes[rest] = mixed ^ mixed >> np.uint64(32)
        first += 8
        rest = rest[sizes[rest] > first]
    return hashes


def _grams(
    buffer: np.ndarray, starts: np.ndarray, stops: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the n-grams of each word between its spaces lie, and where each word's begin."""
    chars = np.flatnonzero((buffer & 0xC0) != 0x80)  # first bytes of characters
    first, last = np.searchsorted(chars, starts - 1), np.searchsorted(chars, stops)
    lengths = last + 1 - first  # of a word with its spaces
    ends_of = np.append(chars, buffer.size)
    found = []
    for n in range(options.low, options.high + 1) if options.low else ():
        # A word that is no longer than n is one n-gram, but only for the first such n.
        counts = np.where((n > options.low) & (lengths < n), 0, np.maximum(lengths - n + 1, 1))
        word = np.repeat(np.arange(starts.size), counts)
        at = first[word] + np.arange(word.size) - np.repeat(np.cumsum(counts) - counts, counts)
        stop = np.minimum(at + n, last[word] + 1)
        found.append((word, ends_of[at], ends_of[stop]))
    if not found:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(starts.size + 1, np.int64)
    word, begin, end = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(word, kind="stable")
    return begin[order], end[order], np.searchsorted(word[order], np.arange(starts.size + 1))


def mix64(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _places(found: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each is among the keys, the first of equal ones; -1 for nowhere."""
    if not keys.size:
        return np.full(found.size, -1)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], found), keys.size - 1)
    return np.where(keys[order][at] == found, order[at], -1)


def _count(rows: np.ndarray, ids: np.ndarray, num_texts: int) -> Counts:
    """Counts of (row, id) with repeats."""
    found, counts = np.unique(rows.astype(np.int64) << 32 | ids, return_counts=True)
    offsets = np.searchsorted(found >> 32, np.arange(num_texts + 1))
    return Counts(
        offsets.astype(np.int64),
        (found & 0xFFFFFFFF).astype(np.int32),
        counts.astype(np.float32),
    )
