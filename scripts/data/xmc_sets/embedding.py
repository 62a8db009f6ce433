"""Dense vectors of texts by reflective random indexing, the same bits on every machine."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

WIDTH = 256
SIGNS = 8  # nonzero coordinates of a word's own vector
DECIMALS = 3


def embed(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """One vector a text: of words that stand in the same texts, vectors lie near to each other.

    A word's own vector has a few coordinates of +1 and -1, chosen by a hash. A text is the sum of
    its words' by their rarity; a word, then, is the sum of the texts it is in, less the mean of
    all; a text once more the sum of its words'. Sums run in a fixed order, in float64.

    Args:
        texts: their words; repeated words count once.

    Returns:
        float64 [texts, WIDTH], rows of unit length, rounded to DECIMALS.

    Example:
        >>> embed([["red", "apple"], ["green", "apple"], ["old", "kernel"]]).shape
        (3, 256)

    References:
        Cohen, Schvaneveldt and Widdows, Reflective random indexing, 2010.
    """
    frequency = collections.Counter(word for text in texts for word in set(text))
    ids = {word: i for i, word in enumerate(sorted(frequency))}
    rarity = np.array([np.log((1 + len(texts)) / frequency[word]) for word in ids])
    rows = [np.array(sorted(ids[word] for word in set(text)), np.int64) for text in texts]
    own = np.stack([_own(word) for word in ids]) if ids else np.zeros((0, WIDTH))
    first = _texts(rows, rarity[:, None] * own)
    reached = np.zeros_like(own)
    for row, vector in zip(rows, first, strict=True):
        reached[row] += vector
    reached -= reached.sum(axis=0) / max(len(reached), 1)
    last = _texts(rows, rarity[:, None] * _unit(reached))
    last = _unit(last - last.sum(axis=0) / max(len(last), 1))
    return np.round(last, DECIMALS) + 0.0  # no -0


def _texts(rows: Sequence[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """The sum of each text's words, scaled to unit length."""
    sums = [np.add.reduce(vectors[row], axis=0) for row in rows]
    return _unit(np.stack(sums)) if sums else np.zeros((0, WIDTH))


def _own(word: str) -> np.ndarray:
    vector = np.zeros(WIDTH)
    drawn = hashlib.sha256(word.encode("utf8")).digest()
    for i in range(SIGNS):
        vector[drawn[i] % WIDTH] += 1 if drawn[SIGNS + i] & 1 else -1
    return vector


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return vectors / np.where(length > 0, length, 1)
