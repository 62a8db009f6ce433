"""A tree over the labels with a linear classifier for each node, searched with a beam.

    score(l | x) = exp(−Σ max(0, 1 − s_v(x))²), the sum over the nodes v from the root to label l

A node's labels are alike: they were split by balanced 2-means of their centroids, so that they
stand in one bucket, and the classifiers above are a learned hash function that picks the buckets
of an input. A child is trained on its parent's points alone, against its siblings, which are the
negatives that are hard to tell from it. Where the wide part sums what single features say of a
label, the path says it from coarse to fine; their errors differ, and their sum is better than both.

References:
  Prabhu et al., Parabel, 2018: the tree, its training and its search.
  Yu et al., PECOS, 2022, section 4: few levels with many children (XR-Linear).
  Hsieh et al., A Dual Coordinate Descent Method for Large-scale Linear SVM, 2008, algorithm 1.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from sparse_jax.data import Batch, XmcData
from sparse_jax.ops.label_tree import LabelTree, Level, Svm, fit_tree_level, tree_scores
from sparse_jax.runtime.trees import owned
from sparse_jax.xmc import seen
from sparse_jax.xmc.wide import entries, row_scale

_BRANCH = 3  # log2 of an inner node's children
_PROJECTED = 128  # dimensions that centroids are clustered in
_MOST_ROUNDS = 5  # of 2-means: ten or twenty make trees no better


def fit(
    train: XmcData,
    *,
    seed: int = 0,
    leaf: int = 64,
    svm: Svm | None = None,
    tally: list[float] | None = None,
) -> LabelTree:
    """Splits the labels and trains all nodes.

    Args:
      train: the training points.
      seed: of the split and of the order of the points; trees that differ by it average well.
      leaf: labels under a node of the last level but one, at most.
      svm: how classifiers are trained.
      tally: gets the products that one pass over each level takes.

    Returns:
      A `LabelTree`.

    Raises:
      ValueError: if leaf is below 1.

    Example:
      >>> train = XmcData(
      ...     np.array([0, 1, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32),
      ...     np.array([0, 1, 2]), np.array([0, 1], np.int32), num_features=2, num_labels=2)
      >>> tree = fit(train)
      >>> tree.depth, tree.children.tolist()
      (1, [1, 3])
    """
    if leaf < 1:
        raise ValueError(f"leaf = {leaf}: must be at least 1")
    present = seen.few(train)
    if present is not None:
        compact = fit(seen.numbered(train, present), seed=seed, leaf=leaf, svm=svm, tally=tally)
        return _out_of_reach(compact, present, train.num_labels)
    labels, levels = _split(train, leaf, seed)
    starts = [np.array([0, labels.size]), *levels, np.arange(labels.size + 1)]  # of each level
    counts = [start.size - 1 for start in starts]
    first = np.cumsum([0, *counts])  # node
    children = [
        np.searchsorted(b, a) + first[d + 1] for d, (a, b) in enumerate(itertools.pairwise(starts))
    ]
    place = np.empty(labels.size, np.int64)
    place[labels] = np.arange(labels.size)
    point = np.repeat(np.arange(train.num_points), np.diff(train.label_offsets))
    held = [_points_of(place[train.label_ids], point, start, train.num_points) for start in starts]
    held[0] = _all_points(train)
    scale = row_scale(train)
    values = train.feature_values if scale == 1 else train.feature_values / scale
    points = (train.feature_offsets, train.feature_ids, values)
    features, nodes, weights, bias = [], [], [], [np.zeros(1, np.float32)]
    for d, below in enumerate(children):
        level = Level(*held[d], below - first[d + 1], *held[d + 1])
        if tally is not None:
            tally.append(_products(train, level))
        feature, child, weight, own_bias = fit_tree_level(
            points, train.num_features, level, svm or Svm(), seed % 2**32
        )
        features.append(feature)
        nodes.append(child + np.int32(first[d + 1]))
        weights.append(weight if scale == 1 else weight / scale)
        bias.append(own_bias)
    # Into rows by feature, in which the nodes keep their order.
    triples = (np.concatenate(weights), (np.concatenate(features), np.concatenate(nodes)))
    rows = sparse.coo_matrix(triples, (train.num_features, first[-1])).tocsr()
    inner = np.concatenate([below[:-1] for below in children] + [[first[-1]]])
    return LabelTree(
        offsets=owned(np.asarray(rows.indptr, np.int32)),
        nodes=owned(np.asarray(rows.indices, np.int32)),
        weights=owned(rows.data),
        bias=owned(np.concatenate(bias)),
        children=owned(np.asarray(inner, np.int32)),
        labels=owned(np.asarray(labels, np.int32)),
        depth=len(children),
    )


def scores(tree: LabelTree, batch: Batch, *, beam: int = 10) -> jax.Array:
    """The scores of the labels that a beam search reaches, 0 for the others.

    Args:
      tree: of `fit`.
      batch: B points.
      beam: nodes kept on each level, the first where they tie; static.

    Returns:
      float32 [B, N], 0 to 1.

    Raises:
      ValueError: if beam is below 1.
    """
    if beam < 1:
        raise ValueError(f"beam = {beam}: must be at least 1")
    return tree_scores(tree, entries(batch), batch.row_mask.shape[0], beam)


def _out_of_reach(tree: LabelTree, labels: np.ndarray, num_labels: int) -> LabelTree:
    """The tree over more labels, the others under no node: a search never comes to them.

    Args:
      tree: its label i is labels[i].
      labels: int [m].
      num_labels: N, of the result.
    """
    absent = np.setdiff1d(np.arange(num_labels), labels, assume_unique=True)
    bias = np.concatenate([np.asarray(tree.bias), np.zeros(absent.size, np.float32)])
    known = labels[np.asarray(tree.labels)]
    return dataclasses.replace(
        tree,
        bias=jnp.asarray(bias),
        labels=jnp.asarray(np.asarray(np.concatenate([known, absent]), np.int32)),
    )


def _split(train: XmcData, leaf: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(labels in the order of the leaves, where each node of each inner level starts)."""
    rng = np.random.default_rng(seed)
    vectors = _centroids(train, rng)
    bits = max(0, int(np.ceil(np.log2(max(train.num_labels, 1) / leaf))))
    depths = [*range(_BRANCH, bits, _BRANCH), bits] if bits else []
    groups, levels = [np.arange(train.num_labels)], []
    for depth in range(1, bits + 1):
        groups = [half for group in groups for half in _halve(vectors, group, rng)]
        if depth in depths:
            levels.append(np.cumsum([0, *(group.size for group in groups)]))
    return np.concatenate(groups), levels


def _centroids(train: XmcData, rng: np.random.Generator) -> np.ndarray:
    """The direction of each label's mean point under a random projection, float32 [N, 128]."""
    shape = (train.num_points, train.num_features)
    points = sparse.csr_matrix(
        (train.feature_values, train.feature_ids, train.feature_offsets), shape
    )
    ones = np.ones(train.label_ids.size, np.float32)
    shape = (train.num_points, train.num_labels)
    held = sparse.csr_matrix((ones, train.label_ids, train.label_offsets), shape)
    projection = rng.standard_normal((train.num_features, _PROJECTED), np.float32)
    return _unit(held.T @ (points @ projection))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows over their length."""
    return rows / np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), 1e-9)[:, None]


def _halve(
    vectors: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Balanced 2-means of directions. Without BLAS, whose sums follow the number of threads."""
    own, half = vectors[group], group.size // 2
    ends = own[rng.choice(group.size, 2, replace=False)] if group.size > 1 else own[[0, 0]]
    before = None
    for _ in range(_MOST_ROUNDS):
        order = np.argsort(np.einsum("nd,d->n", own, ends[1] - ends[0]), kind="stable")
        left, right = np.sort(order[:half]), np.sort(order[half:])
        if before is not None and np.array_equal(left, before):
            break
        before = left
        ends = _unit(np.stack([own[side].sum(axis=0) for side in (left, right)]))
    return group[left], group[right]


def _products(points: XmcData, level: Level) -> float:
    """Products of one pass: each entry of a node's points with each of its children."""
    entries = np.concatenate([[0], np.diff(points.feature_offsets)[level.members].cumsum()])
    of_nodes = np.diff(entries[level.member_offsets])
    return float(of_nodes.astype(np.float64) @ np.diff(level.child_offsets))


def _all_points(points: XmcData) -> tuple[np.ndarray, np.ndarray]:
    """The root's points, as `_points_of`: those without labels too, negatives of all children."""
    kept = np.diff(points.label_offsets) + np.diff(points.feature_offsets) > 0
    members = np.flatnonzero(kept).astype(np.int32)
    return np.array([0, members.size]), members


def _points_of(
    places: np.ndarray, points: np.ndarray, starts: np.ndarray, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets [nodes + 1], distinct points of each node) from the places of their labels."""
    node = np.searchsorted(starts, places, side="right") - 1
    pairs = sparse.coo_matrix(
        (np.ones(node.size, bool), (node, points)), (starts.size - 1, num_points)
    ).tocsr()
    return pairs.indptr.astype(np.int64), pairs.indices.astype(np.int32)
