"""What others recommend by, on the same histories: for `sparse-jax recommend compare`.

Each is fitted on histories and then scores all items for histories of users: float [n, N].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from sparse_jax.commands.recommend import sasrec
from sparse_jax.data.histories import Histories
from sparse_jax.recommend.evaluation import Scorer

Fit = Callable[[Histories, int], Scorer]
"""(histories, seed) -> scorer."""

_NEIGHBOURS = 100  # of an item, for item-kNN
_SHRINK = 10.0  # of its cosines
_RIDGE = 200.0  # of EASE
_FACTORS, _ROUNDS = 128, 30  # of ALS and BPR


def seen(histories: Histories) -> scipy.sparse.csr_matrix:
    """Which items each user took, once each: float32 [n, N].

    Args:
      histories: of n users, N items.
    """
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    ones = np.ones(len(users), np.float32)
    shape = (histories.num_users, histories.num_items)
    found = scipy.sparse.csr_matrix((ones, (users, histories.items)), shape=shape)
    found.data[:] = 1
    return found


def popularity(histories: Histories, seed: int) -> Scorer:
    """Everybody gets what most took."""
    counts = np.bincount(histories.items, minlength=histories.num_items).astype(np.float32)
    return lambda part: np.broadcast_to(counts, (part.num_users, len(counts)))


def markov(histories: Histories, seed: int) -> Scorer:
    """What most took right after the last item; then what is popular."""
    size = histories.num_items
    starts = np.zeros(len(histories.items), bool)
    starts[histories.offsets[:-1][histories.lengths > 0]] = True
    later = np.flatnonzero(~starts)
    pair = histories.items[later - 1], histories.items[later]
    after = scipy.sparse.csr_matrix((np.ones(len(later), np.float32), pair), shape=(size, size))
    counts = np.bincount(histories.items, minlength=size).astype(np.float32)
    small = counts / (2 * max(float(counts.max(initial=1)), 1.0))

    def score(part: Histories) -> np.ndarray:
        scores = np.repeat(small[None], part.num_users, axis=0)
        known = np.flatnonzero(part.lengths > 0)
        last = part.items[part.offsets[1:][known] - 1]
        scores[known] += after[last].toarray()
        return scores

    return score


def item_knn(histories: Histories, seed: int) -> Scorer:
    """Neighbours of a user's items by shrunk cosines of who took them (Sarwar et al. 2001)."""
    matrix = seen(histories)
    both = (matrix.T @ matrix).tocsr()
    norms = np.sqrt(both.diagonal())
    rows = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
    both.data /= norms[rows] * norms[both.indices] + _SHRINK
    both.setdiag(0)
    both.eliminate_zeros()
    rows = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
    order = np.lexsort((-both.data, rows))
    kept = order[np.arange(len(rows)) - both.indptr[rows] < _NEIGHBOURS]
    near = scipy.sparse.csr_matrix(
        (both.data[kept], (rows[kept], both.indices[kept])), shape=both.shape
    )
    return lambda part: (seen(part) @ near).toarray()


def ease(histories: Histories, seed: int) -> Scorer:
    """The linear map with a zero diagonal of least squared error (Steck 2019); N² memory."""
    matrix = seen(histories)
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices(len(gram))] += _RIDGE
    weights = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights /= -np.diag(weights).copy()
    weights[np.diag_indices(len(weights))] = 0
    return lambda part: seen(part) @ weights


def als(histories: Histories, seed: int) -> Scorer:
    """`implicit`'s alternating least squares, 128 wide (Hu, Koren and Volinsky 2008)."""
    module = _implicit("als")
    model = module.AlternatingLeastSquares(
        factors=_FACTORS, regularization=0.05, alpha=10, iterations=_ROUNDS, random_state=seed
    )
    with importlib.import_module("threadpoolctl").threadpool_limits(1, "blas"):  # as it asks for
        model.fit(seen(histories), show_progress=False)
    items = np.asarray(model.item_factors)

    def score(part: Histories) -> np.ndarray:
        users = np.arange(part.num_users)
        found = model.recalculate_user(users, seen(part))  # of users that it may not know
        return np.asarray(found) @ items.T

    return score


def bpr(histories: Histories, seed: int) -> Scorer:
    """`implicit`'s BPR, 128 wide; it knows only its own users (Rendle et al. 2009)."""
    module = _implicit("bpr")
    model = module.BayesianPersonalizedRanking(
        factors=_FACTORS, learning_rate=0.05, regularization=0.01, iterations=100, random_state=seed
    )
    model.fit(seen(histories), show_progress=False)
    users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
    places = {name: place for place, name in enumerate(histories.user_names)}
    return lambda part: users[[places[name] for name in part.user_names]] @ items.T


def _implicit(name: str) -> Any:
    try:
        return importlib.import_module(f"implicit.cpu.{name}")
    except ImportError as error:
        raise ImportError(
            f"peer {name} needs implicit: pip install 'sparse_jax[peers]'; or leave it out with "
            "--peers"
        ) from error


PEERS: dict[str, Fit] = {
    "popularity": popularity,
    "markov": markov,
    "item-knn": item_knn,
    "ease": ease,
    "als": als,
    "bpr": bpr,
    "sasrec": sasrec.fit,
}
