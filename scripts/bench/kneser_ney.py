"""Interpolated modified Kneser-Ney n-gram model, whole corpora at a time, in NumPy.

Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section
3; lower orders use continuation counts and n-grams that begin a document their own counts, as
KenLM does (Heafield et al. 2013). Every count and probability is of arrays over all positions: no
loop runs over n-grams.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class _Order:
    """What one order knows. A gram's id is its place among the sorted keys."""

    keys: np.ndarray  # int64 [grams], sorted: id of the first n-1 words, times V, plus the last
    discounted: np.ndarray  # float64 [grams]: (count − D) / total of its context
    backoff: np.ndarray  # float64 [contexts]: weight of the lower order; 1 for unseen contexts


class KneserNey:
    """A model fitted to token ids.

    Args:
      tokens: int [n]; `document` ends each document and is the context of the next one's start.
      vocabulary: V, number of ids; all are predicted.
      order: n, or the longest that a document has grams of, if that is less.
      document: the id that ends a document, or None.

    Raises:
      ValueError: if there are no tokens, or order is below 1.
    """

    def __init__(
        self, tokens: np.ndarray, *, vocabulary: int, order: int = 5, document: int | None = None
    ) -> None:
        self.vocabulary, self.document = vocabulary, document
        tokens = np.asarray(tokens, np.int64)
        if order < 1 or not tokens.size:
            raise ValueError(f"order = {order}, {tokens.size} tokens: must be at least 1 each")
        grams = [self._fit_grams(tokens, tokens, 1)]
        for n in range(2, order + 1):
            longer = self._fit_grams(tokens, grams[-1][1], n)
            if not longer[0].size:  # no document is as long
                break
            grams.append(longer)
        self.order = order = len(grams)
        self.num_grams = [keys.size for keys, _, _ in grams]
        self.orders: list[_Order] = []
        for n in range(1, order + 1):
            keys, ids, first = grams[n - 1]
            counts = np.bincount(ids[ids >= 0], minlength=keys.size)
            if n < order:
                longer_first = grams[n][2]
                continued = np.bincount(ids[longer_first], minlength=keys.size)
                # Nothing precedes a document's start, so those grams keep their own counts.
                starts = np.zeros(keys.size, bool)
                if document is not None and n > 1:
                    starts = tokens[first - (n - 1)] == document
                counts = np.where(starts, counts, continued)
            contexts = 1 if n == 1 else grams[n - 2][0].size
            self.orders.append(self._fit_order(keys, counts, contexts))

    def _fit_grams(
        self, tokens: np.ndarray, shorter: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(keys, the gram's id at each position or −1, position of each gram's first occurrence).

        Positions number the gram's last word.
        """
        key = tokens if n == 1 else self._keys(tokens, shorter, n)
        keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        inverse = inverse.astype(np.int32)
        if keys[0] < 0:  # all positions without a gram share the key −1
            keys, first, inverse = keys[1:], first[1:], inverse - 1
        return keys, inverse, first

    def _keys(self, tokens: np.ndarray, shorter: np.ndarray, n: int) -> np.ndarray:
        """Keys of the grams of n words, from the ids of those one word shorter; −1 is none."""
        context = np.full(tokens.size, -1, np.int64)
        context[1:] = shorter[:-1]
        if n > 2 and self.document is not None:
            # A document's end is context only as the first word of a gram.
            context[1:][tokens[:-1] == self.document] = -1
        return np.where(context >= 0, context * self.vocabulary + tokens, -1)

    def _fit_order(self, keys: np.ndarray, counts: np.ndarray, contexts: int) -> _Order:
        context = (keys // self.vocabulary).astype(np.int64) if contexts > 1 else keys * 0
        discounts = modified_discounts(counts)
        cut = discounts[np.minimum(counts, 3)]
        totals = np.bincount(context, weights=counts, minlength=contexts)
        taken = np.bincount(context, weights=np.minimum(cut, counts), minlength=contexts)
        safe = np.maximum(totals, 1e-300)
        backoff = np.where(totals > 0, taken / safe, 1.0)
        return _Order(keys, np.maximum(counts - cut, 0) / safe[context], backoff)

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Natural log probability of each token given those before it, float64 [n]."""
        tokens = np.asarray(tokens, np.int64)
        probs = np.full(tokens.size, 1.0 / self.vocabulary)
        context = np.zeros(tokens.size, np.int64)  # id of the context at this order; −1 is unseen
        for n, order in enumerate(self.orders, 1):
            keys = np.where(context >= 0, context * self.vocabulary + tokens, -1)
            at = np.minimum(np.searchsorted(order.keys, keys), order.keys.size - 1)
            found = order.keys[at] == keys
            weight = np.where(context >= 0, order.backoff[np.maximum(context, 0)], 1.0)
            probs = np.where(found, order.discounted[at], 0.0) + weight * probs
            if n < self.order:
                ids = np.where(found, at, -1)
                context = np.full(tokens.size, -1, np.int64)
                context[1:] = ids[:-1]
                if n > 1 and self.document is not None:
                    context[1:][tokens[:-1] == self.document] = -1
        return np.log(probs)


def modified_discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of counts 0, 1, 2 and 3 or more: [0, D1, D2, D3].

    Where too few counts of counts are there to estimate them (tiny texts), 0.5, 1 and 1.5, as
    KenLM's fallback does.
    """
    n1, n2, n3, n4 = (float(np.count_nonzero(counts == k)) for k in (1, 2, 3, 4))
    fallback = np.array([0.0, 0.5, 1.0, 1.5])
    if min(n1, n2, n3) == 0:
        return fallback
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if np.all(found[1:] > 0) and np.all(found[1:] <= [1, 2, 3]) else fallback
