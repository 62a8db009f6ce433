"""Neighbours: the training points nearest to a query, by an inverted index, and their labels.

score(l | x) += weight · share(l | x), the share of near points that have label l. Where points come
in near copies, a copy's labels say more than all that was learned from single words; elsewhere they
say less, so held-out points choose the weight, and a model whose weight is 0 keeps no index.

References:
  Bhatia et al., Sparse Local Embeddings for Extreme Multi-label Classification, 2015: labels of
  nearest points. Here likeness is that of the words themselves.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from sparse_jax.data import XmcData, to_csr
from sparse_jax.ops.neighbours import Neighbours
from sparse_jax.runtime.trees import owned
from sparse_jax.xmc import inference, metrics
from sparse_jax.xmc.copies import unit_rows
from sparse_jax.xmc.model import Model
from sparse_jax.xmc.soft_labels import Weighted

WEIGHTS = (0.0, 0.4, 0.8, 1.6, 3.2)  # tried; the first that is level with the best is taken
_ALONE = 3  # of them without networks, whose logits are larger than margins
_ERRORS = 1.28  # standard errors by which that must be better than 0 (nine chances in ten): an
# index takes memory, and a query's time
_LONGEST = 2048  # points of a feature: one of more tells little of each and costs most of the time
_HELD_OUT = 20  # points, below which nothing can be told
_MOST = 2**31 - 1  # entries, and labels
_VISITS = 1 << 16  # points that a query may touch, in the mean: some 100 µs


def fit(points: Weighted) -> Neighbours | None:
    """The index of weighted points, at a weight of 0.

    Args:
      points: with weighted values, and their labels' weights.

    Returns:
      `Neighbours`; None where no feature is rare enough, or a query would touch too many points.

    Example:
      >>> near = fit(Weighted(XmcData(
      ...     np.array([0, 1, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32),
      ...     np.array([0, 1, 2]), np.array([4, 2], np.int32), num_features=2, num_labels=5), None))
      >>> near.num_points, near.label_ids.tolist()
      (2, [4, 2])
    """
    held = points.points
    frequency = np.bincount(held.feature_ids, minlength=held.num_features)
    frequency[frequency > _LONGEST] = 0
    visits = float((frequency.astype(np.float64) ** 2).sum())
    if not visits or visits > _VISITS * held.num_points or held.label_ids.size > _MOST:
        return None
    index = _index(unit_rows(held), frequency > 0)
    return _near(index, to_csr(held, points.weights).labels, jnp.float32(0))


def choose(model: Model, points: Weighted, held_out: XmcData) -> Model:
    """The model with neighbours at the least of WEIGHTS that is level with the best.

    What is compared is the P@1 + P@5 of held-out points.

    Args:
      model: whose own parts are weighed.
      points: those that are not held out, and may be kept.
      held_out: weighted points that no part has seen.
    """
    near = fit(points) if held_out.num_points >= _HELD_OUT else None
    if near is None:
        return model
    choices = [
        dataclasses.replace(model, neighbours=dataclasses.replace(near, weight=jnp.float32(weight)))
        for weight in (WEIGHTS if model.encoders else WEIGHTS[:_ALONE])
    ]
    tried = [_quality(choice, held_out) for choice in choices]
    best = max(tried, key=np.sum)
    if not metrics.is_better(best, tried[0], errors=_ERRORS):
        return model
    return choices[max(1, metrics.first_level(tried))]


def over(near: Neighbours, points: Weighted) -> Neighbours:
    """An index of other points at the same weight; the old one where none is made."""
    found = fit(points)
    return near if found is None else dataclasses.replace(found, weight=near.weight)


def add(near: Neighbours, points: Weighted, num_labels: int, *, usual: np.ndarray) -> Neighbours:
    """The index with further weighted points, of as many features or more.

    Args:
      near: what there is; every further point is added, also one that it has.
      points: the new ones, numbered as the index.
      num_labels: N.
      usual: bool [F], features that some points of the index had, or a sample of many: those that
        it holds no points of were in too many, and stay out.

    Raises:
      ValueError: if its entries or labels would exceed 2^31 - 1.
    """
    index = _matrix(near)
    index.resize(points.points.num_features, index.shape[1])
    told = (np.diff(index.indptr) > 0) | ~usual
    index = sp.hstack([index, _index(unit_rows(points.points), told)], format="csr")
    index = _only(index, np.diff(index.indptr) <= _LONGEST)
    old = sp.csr_array(
        (np.asarray(near.label_weights), np.asarray(near.label_ids), near.label_offsets),
        shape=(near.num_points, num_labels),
    )
    new = to_csr(points.points, points.weights).labels
    new.resize(new.shape[0], num_labels)
    labels = sp.vstack([old, new], format="csr")
    if max(index.nnz, labels.nnz) > _MOST:
        raise ValueError(
            f"points bring the index of neighbours to {max(index.nnz, labels.nnz):,} entries: must "
            f"be at most {_MOST:,}; train a new model on all points"
        )
    return _near(index, labels, near.weight)


def _quality(model: Model, held_out: XmcData) -> np.ndarray:
    """P@1 + P@5 of each point, float64 [n]."""
    found = inference.best_of_all(model, held_out, k=min(5, model.num_labels))
    hits = metrics.hits(found.ids, held_out.label_offsets, held_out.label_ids)
    return hits[:, 0] + hits.mean(axis=1)


def _index(rows: sp.csr_array, told: np.ndarray) -> sp.csr_array:
    """Rows by feature, [F, P], of the features that are kept."""
    return _only(sp.csr_array(rows.T.tocsr(), dtype=np.float32), told)


def _only(index: sp.csr_array, kept: np.ndarray) -> sp.csr_array:
    index.data[np.repeat(~kept, np.diff(index.indptr))] = 0
    index.eliminate_zeros()
    return index


def _matrix(near: Neighbours) -> sp.csr_array:
    shape = near.offsets.size - 1, near.num_points
    parts = np.array(near.values), np.array(near.point_ids), np.array(near.offsets)
    return sp.csr_array(parts, shape=shape)


def _near(index: sp.csr_array, labels: sp.csr_array, weight: jnp.ndarray) -> Neighbours:
    index.sort_indices()
    return Neighbours(
        offsets=owned(np.asarray(index.indptr, np.int32)),
        point_ids=owned(np.asarray(index.indices, np.int32)),
        values=owned(np.asarray(index.data, np.float32)),
        label_offsets=owned(np.asarray(labels.indptr, np.int32)),
        label_ids=owned(np.asarray(labels.indices, np.int32)),
        label_weights=owned(np.minimum(labels.data, 1).astype(np.float32)),
        weight=weight,
    )
