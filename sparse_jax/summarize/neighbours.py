"""The training texts most like a text: an associative memory of how such texts are summed up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax.text.postings import Postings, best, inverse_document_frequency

__all__ = ["Nearest", "Neighbours"]

_MAX_WORDS = 32  # the rarest of a text, which find its neighbours


class Nearest(NamedTuple):
    """For each text the training texts most like it, nearest first."""

    numbers: np.ndarray  # int32 [n, K], -1 = none
    cosines: np.ndarray  # float32 [n, K]


class Neighbours:
    """Cosines between bags of word ids, weighted by how rare a word is.

    Example:
      >>> bags = [np.array([1, 2]), np.array([3, 4]), np.array([3, 5])]
      >>> found, cosines = Neighbours(bags, num_words=6).nearest(bags[1:2], count=1, skip=[1])
      >>> found.tolist()
      [[2]]
    """

    def __init__(self, texts: Sequence[np.ndarray], *, num_words: int) -> None:
        bags = [np.unique(t) for t in texts]
        frequency = np.bincount(np.concatenate(bags), minlength=num_words)
        self.rarity = inverse_document_frequency(frequency, len(bags))
        offsets = np.cumsum([0, *(b.size for b in bags)]).astype(np.int64)
        words = np.concatenate(bags).astype(np.int32)
        weights = np.concatenate([self._weights(b) for b in bags])
        self.postings = Postings(num_words)
        self.postings.add(offsets, words, weights)

    def _weights(self, bag: np.ndarray) -> np.ndarray:
        weights = self.rarity[bag]
        return weights / max(float(np.linalg.norm(weights)), 1e-9)

    def nearest(
        self, texts: Iterable[np.ndarray], *, count: int, skip: Iterable[int] | None = None
    ) -> Nearest:
        """The nearest training texts.

        Args:
          texts: word ids of each.
          count: K.
          skip: the number of a training text to leave out for each text, -1 = none.
        """
        texts = list(texts)
        skip = [-1] * len(texts) if skip is None else list(skip)
        numbers = np.full((len(texts), count), -1, np.int32)
        cosines = np.zeros((len(texts), count), np.float32)
        if not count:
            return Nearest(numbers, cosines)
        for i, (text, left_out) in enumerate(zip(texts, skip, strict=True)):
            bag = np.unique(text)
            weights = self._weights(bag)
            kept = np.sort(np.argsort(-weights, kind="stable")[:_MAX_WORDS])
            scores = self.postings.score(bag[kept].astype(np.int32), weights[kept])
            if left_out >= 0:
                scores[left_out] = -np.inf
            found = best(scores, count)
            found = found[(found >= 0) & (scores[found] > 0)]
            numbers[i, : found.size] = found
            cosines[i, : found.size] = scores[found]
        return Nearest(numbers, cosines)
