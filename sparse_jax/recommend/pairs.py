"""Pairs of items that occur together: transitions with ages, and a closed form over all pairs.

Transitions count how often item b comes d events after item a, each for 1/√d; only pairs that occur
have a weight. Divided by the root of what a has in all, they are between counts, which favour
popular items, and chances, which favour rare ones; their logarithm adds up like the encoder's.

The closed form (EASE) is the linear map from the items of a user to themselves with a zero diagonal
that has the least squared error: it tells direct neighbours from those that are only popular along
with them. It needs a matrix of N², so it is for some ten thousand items.

References:
  Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.
  Garg et al., "Sequence and Time Aware Neighborhood for Session-based Recommendations", 2019:
  neighbours that fade with age.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse

from sparse_jax.data.histories import Histories
from sparse_jax.data.xmc import offsets_of
from sparse_jax.recommend.model import Mix, Pairs

_WINDOW = 20  # events between two items of a transition, at most
_COUNTED = 200_000_000  # pairs that are counted, at most: many events have a shorter window
_SHARPNESS = 10.0  # of the logarithm of a transition's weight
_KEPT = 256  # pairs of an item that prediction reads, at most
_RIDGE = 100.0  # of the closed form


def window_of(num_events: int) -> int:
    """How far apart the items of a transition may be: 20 events, 3 where there are very many.

    Example:
        >>> window_of(200_000), window_of(50_000_000)
        (20, 4)
    """
    return min(_WINDOW, max(3, _COUNTED // max(num_events, 1)))


def count(
    histories: Histories, *, window: int, first_new: np.ndarray | None = None
) -> scipy.sparse.csr_array:
    """Transitions of histories, each at distance d for 1/√d.

    Args:
        histories: of n users, N items.
        window: events between two items, at most.
        first_new: int [n], the event of each user, from 0, from which on events are counted as
            the later of a pair; None for all.

    Returns:
        float64 [N, N]: from the earlier item to the later.
    """
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    places = np.arange(len(users)) - histories.offsets[users]
    new = np.ones(len(users), bool) if first_new is None else places >= first_new[users]
    shape = (histories.num_items, histories.num_items)
    total = scipy.sparse.csr_array(shape, dtype=np.float64)
    for distance in range(1, min(window, int(histories.lengths.max(initial=0)) - 1) + 1):
        later = np.flatnonzero((places >= distance) & new)
        pair = histories.items[later - distance], histories.items[later]
        weights = np.full(len(later), distance**-0.5)
        total = total + scipy.sparse.csr_array((weights, pair), shape=shape)
    return total


def scaled(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Weights of transitions as they are mixed.

    Args:
        counts: float [N, N].

    Returns:
        float64 [N, N], at least 0.

    Example:
        >>> counts = scipy.sparse.csr_array(np.array([[0, 4.0], [0, 0]]))
        >>> round(float(scaled(counts)[0, 1]), 3)  # log(1 + 10 · 4 / √4)
        3.045
    """
    totals = np.maximum(counts.sum(axis=1), 1)
    found = counts.copy()
    found.data /= np.sqrt(np.repeat(totals, np.diff(counts.indptr)))
    found.data = np.log1p(_SHARPNESS * found.data)
    return found


def closed_form(histories: Histories) -> Pairs:
    """The closed form's largest weights of each item, those above 0.

    Args:
        histories: of N items; time and memory are those of inverting a matrix [N, N].

    Returns:
        `Pairs`, at most 256 of an item.

    Raises:
        MemoryError: for too many items.
    """
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    shape = (histories.num_users, histories.num_items)
    ones = np.ones(len(users), np.float32)
    seen = scipy.sparse.csr_array((ones, (users, histories.items)), shape=shape)
    seen.data[:] = 1  # a repeat is no second user
    gram = (seen.T @ seen).toarray()
    gram[np.diag_indices(len(gram))] += _RIDGE
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    inverse /= -np.diag(inverse).copy()
    inverse[np.diag_indices(len(inverse))] = 0
    kept = min(_KEPT, len(inverse))
    best = np.argpartition(inverse, len(inverse) - kept, axis=1)[:, len(inverse) - kept :]
    best = np.sort(best, axis=1)
    weights = np.take_along_axis(inverse, best, axis=1)
    rows = np.flatnonzero((weights > 0).ravel())
    counts = (weights > 0).sum(axis=1)
    return Pairs(
        offsets_of(counts).astype(np.int32),
        best.ravel()[rows].astype(np.int32),
        weights.ravel()[rows].astype(np.float32),
    )


def mixed(counts: Pairs, closed: Pairs | None, mix: Mix) -> Pairs:
    """What prediction reads.

    Args:
        counts: of transitions.
        closed: of the closed form, maybe of fewer items than there are now.
        mix: as chosen.

    Returns:
        `Pairs`, at most 256 of an item: those of the largest weights, of equal ones the first.
    """
    total = scaled(to_matrix(counts))
    if closed is not None and mix.closed:
        other = to_matrix(closed, len(counts.offsets) - 1)
        total = scipy.sparse.csr_array(total + mix.closed * other)
    return from_matrix(largest(total))


def largest(matrix: scipy.sparse.csr_array, count: int | None = None) -> scipy.sparse.csr_array:
    """The largest entries of each row; of equal ones those of the first columns.

    Args:
        matrix: float [n, N].
        count: of a row, at most; None for 256.
    """
    count = _KEPT if count is None else count
    matrix.sort_indices()
    lengths = np.diff(matrix.indptr)
    if not len(lengths) or lengths.max() <= count:
        return matrix
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-matrix.data, rows))  # stable: equal weights in order of item
    ranks = np.arange(len(rows)) - matrix.indptr[rows]
    kept = np.sort(order[ranks < count])
    return scipy.sparse.csr_array(
        (matrix.data[kept], matrix.indices[kept], offsets_of(np.minimum(lengths, count))),
        shape=matrix.shape,
    )


def to_matrix(pairs: Pairs, num_items: int | None = None) -> scipy.sparse.csr_array:
    """Pairs as a matrix, of more items if asked.

    Args:
        pairs: of N items.
        num_items: at least N; None for N.
    """
    size = len(pairs.offsets) - 1 if num_items is None else num_items
    offsets = np.full(size + 1, pairs.offsets[-1], np.int64)
    offsets[: len(pairs.offsets)] = pairs.offsets
    found = scipy.sparse.csr_array(
        (pairs.weights.astype(np.float64), pairs.items, offsets), shape=(size, size)
    )
    found.has_sorted_indices = True
    return found


def from_matrix(matrix: scipy.sparse.csr_array) -> Pairs:
    """A matrix as pairs.

    Args:
        matrix: float [N, N].
    """
    matrix.sort_indices()
    return Pairs(
        matrix.indptr.astype(np.int32),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
    )
