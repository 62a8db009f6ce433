"""Near-duplicates among texts: MinHash tables find candidates, their exact similarity decides.

Two texts are as alike as the sets of their words and pairs of neighbouring words: Jaccard,
|A ∩ B| / |A ∪ B|. A text is hashed into L tables by codes of K minwise hashes each; two texts of
similarity J meet in one with the chance 1 - (1 - J^K)^L. K and L follow from the threshold, so that
a pair at the threshold meets almost surely and few others do. One more table is of equal sets.

A text that is like one before it isn't compared with later ones: it is dropped, and what it is like
is kept. Four bytes for each word and pair of a kept text stay in memory, and some 16 a table.

References:
  Broder, On the resemblance and containment of documents, 1997.
  Indyk and Motwani, Approximate nearest neighbors, 1998: tables of joined hashes.
  Shrivastava, Optimal densification for fast and accurate minwise hashing, 2017.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from sparse_jax.ops import minhash as kernel
from sparse_jax.ops import text_features
from sparse_jax.retrieval.hashing._common import next_prime
from sparse_jax.runtime.arguments import check_kind, check_whole
from sparse_jax.text.features import normalize

__all__ = ["Finder", "Matches", "find", "sizes"]

_SETS = text_features.Options(words=True, pairs=True, low=0, high=0)
_UNIVERSE = 2**31 - 1
_JOINED = 0.35  # chance of a pair at the threshold to meet in one table, about
_MISSED = 0.002  # and to meet in none
_BITS = 30
_MOST = 64  # texts in a bucket that are compared: a longer one holds what many texts have
_LEAST = 0.2  # threshold: below, tables would be hundreds, and what meets in them anything
AT_ONCE = 1 << 13
"""Texts that are hashed together."""


class Matches(NamedTuple):
    """What each of n texts is a near-duplicate of."""

    numbers: np.ndarray  # int64 [n], of the text before it, counted from 0; its own if like none
    similarities: np.ndarray  # float64 [n], Jaccard to that text
    kept: np.ndarray  # bool [n], whether it is like none before it


class Finder:
    """Texts so far, and which of them a new one is like: for streams; `find` is for lists.

    Args:
      threshold: Jaccard similarity from which on two texts are near-duplicates, from 0.2 to 1.
      seed: of the hashes.

    Raises:
      ValueError: threshold or seed is out of range.

    Example:
      >>> finder = Finder(threshold=0.5)
      >>> finder.add(["a red fox runs", "it rains"]).numbers.tolist()
      [0, 1]
      >>> finder.add(["a red fox runs home"]).numbers.tolist()
      [0]
    """

    def __init__(self, *, threshold: float = 0.8, seed: int = 0) -> None:
        hashes, tables = sizes(threshold)
        if check_whole("seed", seed, least=0) >= 2**31:
            raise ValueError(f"seed = {seed}: must be at least 0 and below 2147483648")
        self._params = _draw(hashes, tables, seed)
        self._matcher = kernel.Matcher(tables, threshold, _MOST)
        self._seen = 0

    def add(self, texts: Iterable[str]) -> Matches:
        """What each text is like, of all before it that are like none themselves.

        Args:
          texts: n texts, the next of the stream.

        Returns:
          `Matches`, whose numbers count from the first text of the stream; of several that a text
          is like it names the most similar, and then the earliest. A text without words is kept.

        Raises:
          TypeError: texts is one string, or holds what is none.
        """
        if isinstance(texts, str):
            raise TypeError("texts = one string: must be several; put it into a list")
        if not isinstance(texts, Iterable):
            raise TypeError(f"texts = {texts!r:.40}: must be several texts; put it into a list")
        parts = [self._add(part) for part in _portions(texts)]
        if not parts:
            return Matches(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
        return Matches(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _add(self, texts: list[str]) -> Matches:
        for number, text in enumerate(texts, self._seen):
            check_kind(f"texts[{number}]", text, str, "decode bytes, and leave out what is missing")
        sets = text_features.hash_texts(texts, _SETS, _UNIVERSE, normalize)
        codes = kernel.codes(self._params, sets.offsets, sets.ids)
        numbers, similarities = self._matcher.add(sets.offsets, sets.ids, codes)
        own = self._seen + np.arange(len(texts))
        self._seen += len(texts)
        return Matches(numbers, similarities, numbers == own)


def _draw(hashes: int, tables: int, seed: int) -> kernel.Params:
    """What `minhash.init` draws, without compiling anything."""
    rng = np.random.default_rng(seed)
    prime = next_prime(tables * hashes)
    words, salts = (rng.integers(2**32, size=n, dtype=np.uint32) for n in (2, tables))
    strides = rng.integers(1, prime, tables * hashes, dtype=np.int32)
    return kernel.Params(words, salts, strides, _BITS, prime)


def _portions(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while part := list(islice(rest, AT_ONCE)):
        yield part


def find(texts: Iterable[str], *, threshold: float = 0.8, seed: int = 0) -> Matches:
    """Which texts are near-duplicates of one before them.

    Args:
      texts: n texts.
      threshold: Jaccard similarity of their words and pairs of words from which on they count as
        such, from 0.2 to 1.
      seed: of the hashes; some 2 of 1,000 pairs at the threshold are missed, of short texts more.

    Returns:
      `Matches`: int64, float64 and bool [n], in order; a text without near-duplicate before it
      names itself. The same at any number of threads.

    Raises:
      ValueError: threshold or seed is out of range.
      TypeError: texts is one string, or holds what is none.

    Example:
      >>> texts = ["The red fox runs home.", "It rains.", "the red fox runs home"]
      >>> found = find(texts)
      >>> found.numbers.tolist(), found.kept.tolist()
      ([0, 1, 0], [True, True, False])
    """
    return Finder(threshold=threshold, seed=seed).add(texts)


def sizes(threshold: float) -> tuple[int, int]:
    """(K, L): hashes of a code, and tables, for pairs at a threshold to meet almost surely.

    Args:
      threshold: Jaccard similarity, from 0.2 to 1.

    Returns:
      Two numbers.

    Raises:
      ValueError: threshold is out of range.

    Example:
      >>> sizes(0.8), sizes(0.5), sizes(1.0)
      ((5, 16), (2, 22), (8, 1))
    """
    if not isinstance(threshold, numbers.Real) or not _LEAST <= threshold <= 1:
        raise ValueError(f"threshold = {threshold}: must be from {_LEAST} to 1; such as 0.8")
    if threshold == 1:
        return 8, 1  # equal sets meet in a table of their own
    hashes = max(1, round(math.log(_JOINED) / math.log(threshold)))
    return hashes, max(2, math.ceil(math.log(_MISSED) / math.log1p(-(threshold**hashes))))
