"""What a back-off model gives to a set of words, after every context that it lists.

Word by word this takes V look-ups a context. Here it takes one pass over the n-grams: after h the
set S has

    p(S | h) = 10^backoff(h) p(S | h') + Σ (p(w | h) - 10^backoff(h) p(w | h'))

where h' is h without its first word, and the sum goes over the words w of S with (h, w) listed.
"""

from __future__ import annotations

import numpy as np

from sparse_jax.lm.ngram import BEGIN, NGram, find

__all__ = ["sum_over", "worst_sum"]


def sum_over(model: NGram, chosen: np.ndarray) -> list[np.ndarray]:
    """The probability of a set of words after each context.

    Args:
      model: of orders up to N.
      chosen: bool [V], the set.

    Returns:
      float64 [contexts] for contexts of 0, 1, … N - 1 words, by the context's id; the empty one is
      alone. A context that isn't listed has the sum of the longest listed one that it ends with.

    Example:
      >>> from sparse_jax.lm.ngram import MARKS, Order
      >>> floats = lambda *x: np.array(x, np.float32)
      >>> p, backoff = floats(0.1, 1, 0.4, 0.5), floats(1, 0.4, 1, 1)
      >>> one = Order(np.arange(4), np.log10(p), np.log10(backoff))
      >>> two = Order(np.array([1 * 4 + 3]), np.log10(floats(0.8)), floats(0))
      >>> sums = sum_over(NGram((*MARKS, "fox"), (one, two)), np.array([1, 0, 1, 1], bool))
      >>> [x.round(3).tolist() for x in sums]  # after nothing, and after each of the four words
      [[1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    shorter = _shorter(model)
    first = model.orders[0]
    sums = [np.array([np.sum(10.0 ** first.log10_p[chosen].astype(np.float64))])]
    size = first.keys.size
    starts = _starts(model)
    for n, order in enumerate(model.orders[1:], 1):
        contexts = model.orders[n - 1]
        backoff = 10.0 ** contexts.backoff.astype(np.float64)
        at = shorter[n - 1]
        base = np.empty(at.size)
        for length in range(n):
            here = (at >= starts[length]) & (at < starts[length + 1])
            base[here] = sums[length][at[here] - starts[length]]
        listed = np.flatnonzero(chosen[order.keys % size])
        prefix = order.keys[listed] // size
        p = 10.0 ** order.log10_p[listed].astype(np.float64)
        p -= backoff[prefix] * 10.0 ** _lower(model, shorter, n, listed)
        sums.append(backoff * base + np.bincount(prefix, p, minlength=at.size))
    return sums


def worst_sum(model: NGram) -> float:
    """The sum over all words but <s>, after the context where it is farthest from 1."""
    chosen = np.ones(len(model.words), bool)
    chosen[BEGIN] = False
    every = np.concatenate(sum_over(model, chosen))
    return float(every[np.argmax(np.abs(every - 1))])


def _starts(model: NGram) -> np.ndarray:
    """Where the n-grams of 0, 1, … words begin if all are numbered through."""
    return np.cumsum([0, 1, *(order.keys.size for order in model.orders)])


def _shorter(model: NGram) -> list[np.ndarray]:
    """For each n-gram the longest listed one that it ends with, itself apart, numbered through."""
    size = model.orders[0].keys.size
    starts = _starts(model)
    shorter = [np.zeros(size, np.int64)]
    for n, order in enumerate(model.orders[1:], 2):
        prefix, word = order.keys // size, order.keys % size
        state = shorter[-1][prefix]
        ends = starts[1] + word
        open_ = np.ones(word.size, bool)
        for length in range(n - 2, 0, -1):
            at = np.flatnonzero(open_ & (state >= starts[length]))
            ids = state[at] - starts[length]
            found = find(model.orders[length], ids * size + word[at])
            listed = found >= 0
            ends[at[listed]] = starts[length + 1] + found[listed]
            open_[at[listed]] = False
            state[at[~listed]] = shorter[length - 1][ids[~listed]]
        shorter.append(ends)
    return shorter


def _lower(model: NGram, shorter: list[np.ndarray], n: int, ids: np.ndarray) -> np.ndarray:
    """log10 p of the last words of n-grams of n + 1 words, without their first: float64."""
    starts = _starts(model)
    order = model.orders[n]
    ends = shorter[n][ids]
    context = shorter[n - 1][order.keys[ids] // model.orders[0].keys.size]
    log10_p = np.empty(ids.size)
    for length in range(1, n + 1):
        here = np.flatnonzero((ends >= starts[length]) & (ends < starts[length + 1]))
        log10_p[here] = model.orders[length - 1].log10_p[ends[here] - starts[length]]
    for length in range(n - 1, 0, -1):  # contexts that don't list the word, from the longest on
        here = np.flatnonzero((context >= starts[length]) & (ends < starts[length + 1]))
        at = context[here] - starts[length]
        log10_p[here] += model.orders[length - 1].backoff[at]
        context[here] = shorter[length - 1][at]
    return log10_p
