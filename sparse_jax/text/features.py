"""Text to hashed features: words, character n-grams within words, pairs of neighbouring words.

Python splits texts and numbers their distinct words; all else is NumPy on whole arrays. 64-bit
hashes stay on the host; JAX sees int32 ids.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax.text.stem import stem

__all__ = ["Features", "Hasher", "Tokens", "extract", "normalize", "pieces", "tokenize"]

WORD, GRAM, PAIR = range(3)
# Far apart: hashes of strings whose first letters are neighbours are, too, so that with small ones
# the word bats would be the n-gram aats.
_SALTS = np.array([0, 0xD1B54A32D192ED03, 0xA36A9465A325DA06], np.uint64)
"""Kinds of features."""

_SPACE = 0x20
_GRAM = 4  # bytes; a word of n bytes with its two borders gives n - 1 of them
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse mod 2^64
_BASE_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MOST_AT_ONCE = 1 << 16  # tokens expanded in one go: sorts stay in cache

# Combining classes of accents, which are folded away: points and accents of Hebrew, Arabic and
# Syriac, marks over, under and through letters. The others are part of the spelling: vowel signs,
# viramas, nuktas, kana's voicing, tones of Thai and Lao.
_ACCENTS = frozenset((1, 6, *range(10, 37), *range(200, 256)))
# Invisible: soft hyphen, grapheme and word joiners, variation selectors.
_INVISIBLE = frozenset(
    map(chr, (0xAD, 0x34F, 0x17B4, 0x17B5, 0x200D, 0x2060, *range(0x180B, 0x1810)))
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_NON_JOINER = "\u200c"
# C++ and C# but not a+b, #1 or page#part: one letter, and no other behind.
_NAMED = re.compile(r"(?<![^\s+#])([a-z](?:\+\+|#))(?![^\W\d_])|[+#]")
_ORPHAN = re.compile(r"(?<!\S)[^\w\s]+")  # marks that follow no letter


def _fold(c: str) -> str | None:
    """What a decomposed character of small letters becomes; None for nothing."""
    if c.isalnum() or c in "+#" or c == _NON_JOINER:
        return c
    if c == "\u266f":  # music's sharp, in C\u266f
        return "#"
    if c in _INVISIBLE or unicodedata.combining(c) in _ACCENTS:
        return None
    return c if unicodedata.category(c) in ("Mn", "Mc") else " "


class _Folding(dict[int, "str | None"]):
    """For `str.translate`: `_fold`, asked once for each character."""

    def __missing__(self, code: int) -> str | None:
        return self.setdefault(code, _fold(chr(code)))


_FOLDING = _Folding()
_ASCII = {code: _fold(chr(code).lower()) for code in range(128)}


class Tokens(NamedTuple):
    """Words of texts, as numbers of distinct words."""

    offsets: np.ndarray  # int64 [texts + 1]
    types: np.ndarray  # int32 [tokens], in [0, len(words))
    words: list[str]  # the distinct words, in order of first use


class Features(NamedTuple):
    """Distinct features of each text, in CSR form; texts in order, ids ascending in each."""

    offsets: np.ndarray  # int64 [texts + 1]
    ids: np.ndarray  # int32 [nnz], in [0, num_features)
    counts: np.ndarray  # float32 [nnz], how often
    kinds: np.ndarray  # int8 [nnz]: WORD, GRAM or PAIR

    @property
    def rows(self) -> np.ndarray:
        """int32 [nnz]: the text of each entry."""
        sizes = np.diff(self.offsets)
        return np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)


def normalize(text: str) -> str:
    """Lower case, accents off, spaces for whatever is no letter or digit.

    Marks that spell a word (vowel signs, viramas, tones, kana's voicing) stay with its letters, and
    composed and decomposed text give the same. `C++` and `C#` are words of their own.

    Example:
      >>> normalize("Löken–Senior (type 2)").split()
      ['loken', 'senior', 'type', '2']
      >>> normalize("C++11, C# and C; a+b").split()
      ['c++', '11', 'c#', 'and', 'c', 'a', 'b']
    """
    if text.isascii():
        folded = text.translate(_ASCII)
    else:
        folded = unicodedata.normalize("NFKD", text.casefold()).casefold().translate(_FOLDING)
    if "+" in folded or "#" in folded:
        folded = _NAMED.sub(lambda found: f"{found[1]} " if found[1] else " ", folded)
    if not folded.isascii():
        folded = _join_marks(folded)
    return folded


def _join_marks(folded: str) -> str:
    """Drops marks that follow no letter, and the non-joiner behind marks; elsewhere it's a space.

    Scripts of India write it behind a virama, within a word; Persian between two parts of one.
    """
    if _NON_JOINER in folded:
        folded = re.sub(rf"(?<=[^\w\s]){_NON_JOINER}+", "", folded).replace(_NON_JOINER, " ")
    return _ORPHAN.sub("", folded)


def pieces(text: str) -> list[tuple[str, list[str]]]:
    """Cuts a text between words, so that each piece can be shown on its own.

    Returns:
      Pieces that join to the text, and the normalized words of each: of what lies between words,
      none; several where nothing but a sign or a joiner parts them.

    Example:
      >>> pieces("C++, cafe\u0301!") == [("C++", ["c++"]), (", ", []), ("cafe\u0301", ["cafe"]),
      ...                                ("!", [])]
      True
    """
    runs = ("".join(run) for _, run in itertools.groupby(text, _is_part))
    return [(run, normalize(run).split()) for run in runs]


@functools.lru_cache(maxsize=1 << 14)
def _is_part(c: str) -> bool:
    """Whether a character is part of a word, or may be."""
    found = unicodedata.normalize("NFKD", c.casefold()).casefold().translate(_FOLDING)
    return not found or not found.isspace()


def tokenize(texts: Sequence[str]) -> Tokens:
    """Splits normalized texts into words.

    Example:
      >>> tokenize(["Red apple", "apple!"])
      Tokens(offsets=array([0, 2, 3]), types=array([0, 1, 1], dtype=int32), words=['red', 'apple'])
    """
    numbers: dict[str, int] = {}
    types: list[int] = []
    offsets = [0]
    for text in texts:
        types += [numbers.setdefault(word, len(numbers)) for word in normalize(text).split()]
        offsets.append(len(types))
    return Tokens(np.array(offsets, np.int64), np.array(types, np.int32), list(numbers))


def extract(texts: Sequence[str], *, num_features: int, stems: bool = False) -> Features:
    """Hashed features of texts.

    Each word, each 4 bytes of a word and its borders, and each pair of neighbouring words gets a
    64-bit hash, reduced to ``[0, num_features)``. Repeats are counted.

    Args:
      texts: any strings.
      num_features: the range of ids, at most 2^31 − 1.
      stems: whether words, alone and in pairs, are those that `text.stem` makes of them; n-grams
        are of the words themselves.

    Returns:
      `Features`.

    Raises:
      ValueError: if num_features is out of range.

    Example:
      >>> found = extract(["red apple", "apple", ""], num_features=1000)
      >>> found.offsets.tolist(), found.kinds.tolist().count(PAIR)
      ([0, 9, 14, 14], 1)
    """
    return Hasher(tokenize(texts), num_features=num_features, stems=stems).all()


class Hasher:
    """Features of spans of tokens: hashes each distinct word once.

    Args:
      tokens: of the texts.
      num_features: as for `extract`.
      stems: as for `extract`.
    """

    def __init__(self, tokens: Tokens, *, num_features: int, stems: bool = False) -> None:
        if not 1 <= num_features < 2**31:
            raise ValueError(f"num_features = {num_features}: must be from 1 to 2^31 - 1.")
        self.tokens, self.num_features = tokens, num_features
        self.word_hash, grams, self.gram_offsets = _hash_words(tokens.words)
        if stems:
            self.word_hash = _hash_words([stem(word) for word in tokens.words])[0]
        self.word_ids = self._reduce(self.word_hash, WORD)
        self.gram_ids = self._reduce(grams, GRAM)

    def all(self) -> Features:
        """Features of every text."""
        offsets, first = self.tokens.offsets, 0
        parts: list[Features] = []
        while first < offsets.size - 1 or not parts:
            last = int(np.searchsorted(offsets, offsets[first] + _MOST_AT_ONCE, side="right")) - 1
            last = min(max(last, first + 1), offsets.size - 1)
            types = self.tokens.types[offsets[first] : offsets[last]]
            parts.append(self.of(types, offsets[first : last + 1] - offsets[first]))
            first = last
        starts = np.cumsum([0] + [p.ids.size for p in parts])
        return Features(
            np.concatenate(
                [np.zeros(1, np.int64)]
                + [p.offsets[1:] + s for p, s in zip(parts, starts[:-1], strict=True)]
            ),
            *(np.concatenate(c) for c in zip(*(p[1:] for p in parts), strict=True)),
        )

    def of(self, types: np.ndarray, offsets: np.ndarray) -> Features:
        """Features of texts given as tokens: types int32 [tokens], offsets int64 [texts + 1]."""
        texts = offsets.size - 1
        text = np.repeat(np.arange(texts, dtype=np.uint64), np.diff(offsets))
        sizes = self.gram_offsets[types + 1] - self.gram_offsets[types]
        ends = np.cumsum(sizes)
        at = np.arange(ends[-1] if ends.size else 0) + np.repeat(
            self.gram_offsets[types] - (ends - sizes), sizes
        )
        near = text[1:] == text[:-1]
        first, second = types[:-1][near], types[1:][near]
        pairs = self.word_hash[first] * np.uint64(3) + _mix(self.word_hash[second])
        columns = [
            (text, self.word_ids[types], WORD),
            (np.repeat(text, sizes), self.gram_ids[at], GRAM),
            (text[1:][near], self._reduce(pairs, PAIR), PAIR),
        ]
        # One sort of (text, id, kind) counts repeats and puts each text's ids in order.
        key = np.concatenate(
            [t << np.uint64(33) | i << np.uint64(2) | np.uint64(k) for t, i, k in columns]
        )
        key, counts = np.unique(key, return_counts=True)
        return Features(
            np.searchsorted(key >> np.uint64(33), np.arange(texts + 1, dtype=np.uint64)),
            (key >> np.uint64(2) & np.uint64(0x7FFFFFFF)).astype(np.int32),
            counts.astype(np.float32),
            (key & np.uint64(3)).astype(np.int8),
        )

    def _reduce(self, hashes: np.ndarray, kind: int) -> np.ndarray:
        return _mix(hashes + _SALTS[kind]) % np.uint64(self.num_features)


def _hash_words(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of words, of their n-grams, and where each word's n-grams begin.

    Polynomial hashes mod 2^64 of substrings of one buffer: with P[i] = sum_{j<i} c_j B^j, the
    substring [l, r) has (P[r] − P[l]) B^−l, wherever it lies.
    """
    data = np.frombuffer(b" " + b"".join(w.encode() + b" " for w in words), np.uint8)
    powers = np.full(data.size + 1, _BASE)
    inverse = np.full(data.size + 1, _BASE_INVERSE)
    powers[0] = inverse[0] = 1
    powers, inverse = np.cumprod(powers), np.cumprod(inverse)
    prefix = np.zeros(data.size + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=prefix[1:])

    def of(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        return (prefix[stops] - prefix[starts]) * inverse[starts]

    spaces = np.flatnonzero(data == _SPACE)
    starts, stops = spaces[:-1] + 1, spaces[1:]
    # A word of n bytes with its borders has n + 2, so n − 1 n-grams of 4; one at least.
    sizes = np.maximum(stops - starts + 3 - _GRAM, 1)
    offsets = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    begin = np.arange(offsets[-1]) + np.repeat(starts - 1 - offsets[:-1], sizes)
    end = np.minimum(begin + _GRAM, np.repeat(stops + 1, sizes))
    return of(starts, stops), of(begin, end), offsets


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
