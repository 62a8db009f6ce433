"""New labels in a label tree that is trained: each joins a leaf, and nothing else moves."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from sparse_jax.data import XmcData
from sparse_jax.ops.label_tree import LabelTree, Level, Svm, fit_tree_level


def widen(tree: LabelTree, more_features: int) -> LabelTree:
    """The tree with further features, which have no weights."""
    return dataclasses.replace(tree, offsets=jnp.pad(tree.offsets, (0, more_features), mode="edge"))


def parents(tree: LabelTree) -> np.ndarray:
    """The inner node that each label hangs on, int64 [N]."""
    children, labels = np.asarray(tree.children), np.asarray(tree.labels)
    node = np.arange(labels.size) + children.size - 1
    found = np.empty(labels.size, np.int64)
    found[labels] = np.searchsorted(children, node, side="right") - 1
    return found


def add_labels(
    tree: LabelTree, leaves: np.ndarray, points: XmcData, new: np.ndarray, *, seed: int = 0
) -> LabelTree:
    """The tree with labels that it hasn't had.

    A label joins the leaf where most of its points end. Its classifier is trained on the new points
    that end there, as those of the other labels were on theirs.

    Args:
      tree: with the points' features.
      leaves: int [n], the leaf of each point: an inner node of the last level.
      points: weighted new points.
      new: int [m], labels that have points and had none before.
      seed: of the order of the points.

    Returns:
      A `LabelTree` over points.num_labels labels; those without a point stand in no leaf's reach.
    """
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    is_new = np.isin(points.label_ids, new)
    label, row = points.label_ids[is_new], rows[is_new]
    home = _homes(label, leaves[row], new)
    order = np.lexsort((new, home))
    new, home = new[order], home[order]
    feature, child, weight, bias = _train(points, leaves, label, row, new, home, seed)
    return _insert(tree, points, new, home, (feature, child, weight), bias)


def _homes(label: np.ndarray, leaf: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The most frequent leaf among each new label's points, the first where they tie."""
    pairs, counts = np.unique(np.stack([label, leaf]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    labels, first = np.unique(pairs[0][order], return_index=True)
    return pairs[1][order][first][np.searchsorted(labels, new)]


def _train(
    points: XmcData,
    leaves: np.ndarray,
    label: np.ndarray,
    row: np.ndarray,
    new: np.ndarray,
    home: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Classifiers of new labels, which are ordered by home: (feature, child, weight), bias."""
    groups, starts = np.unique(home, return_index=True)
    child = np.empty(points.num_labels, np.int64)
    child[new] = np.arange(new.size)
    shape = (new.size, points.num_points)
    ones = np.ones(label.size, bool)
    positives = sparse.coo_matrix((ones, (child[label], row)), shape).tocsr()
    # A leaf's members: the points that end there, and those of its new labels.
    at = np.searchsorted(groups, leaves)
    ends = (at < groups.size) & (groups[np.minimum(at, groups.size - 1)] == leaves)
    group_of = np.searchsorted(groups, home)
    node = np.concatenate([at[ends], group_of[child[label]]])
    member = np.concatenate([np.flatnonzero(ends), row])
    shape = (groups.size, points.num_points)
    members = sparse.coo_matrix((np.ones(node.size, bool), (node, member)), shape).tocsr()
    level = Level(
        members.indptr.astype(np.int64),
        members.indices.astype(np.int32),
        np.append(starts, new.size).astype(np.int64),
        positives.indptr.astype(np.int64),
        positives.indices.astype(np.int32),
    )
    entries = (points.feature_offsets, points.feature_ids, points.feature_values)
    return fit_tree_level(entries, points.num_features, level, Svm(), seed % 2**32)


def _insert(
    tree: LabelTree,
    points: XmcData,
    new: np.ndarray,
    home: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray],
    bias: np.ndarray,
) -> LabelTree:
    """New label nodes behind the others of their leaf; one that a label had before goes."""
    children, labels = np.asarray(tree.children), np.asarray(tree.labels)
    inner = children.size - 1
    leaf = np.searchsorted(children, np.arange(labels.size) + inner, side="right") - 1
    kept = np.flatnonzero((leaf < inner) & ~np.isin(labels, new))
    all_leaves = np.concatenate([leaf[kept], home])
    order = np.argsort(all_leaves, kind="stable")  # new ones come last in their leaf
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    merged = np.concatenate([labels[kept], new])[order]
    # Labels without a point are no leaf's children, so no search reaches them.
    absent = np.setdiff1d(np.arange(points.num_labels), merged, assume_unique=True)
    begins = inner + np.searchsorted(all_leaves[order], np.arange(inner))
    begins = np.where(children[:-1] < inner, children[:-1], begins)
    old_bias = np.asarray(tree.bias)
    label_bias = np.concatenate([old_bias[inner + kept], bias])[order]

    # Where each old node went; -1 for those that are gone.
    moved = np.full(inner + labels.size, -1, np.int64)
    moved[:inner] = np.arange(inner)
    moved[inner + kept] = inner + place[: kept.size]
    offsets, nodes = np.asarray(tree.offsets), moved[np.asarray(tree.nodes)]
    features = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    stays = nodes >= 0
    feature, child, weight = weights
    all_features = np.concatenate([features[stays], feature])
    all_nodes = np.concatenate([nodes[stays], inner + place[kept.size :][child]])
    all_weights = np.concatenate([np.asarray(tree.weights)[stays], weight])
    ascending = np.argsort(all_features * (moved.size + new.size) + all_nodes, kind="stable")
    starts = np.searchsorted(all_features[ascending], np.arange(offsets.size))
    return LabelTree(
        offsets=jnp.asarray(starts, jnp.int32),
        nodes=jnp.asarray(all_nodes[ascending], jnp.int32),
        weights=jnp.asarray(all_weights[ascending]),
        bias=jnp.asarray(np.concatenate([old_bias[:inner], label_bias, np.zeros(absent.size)])),
        children=jnp.asarray(np.append(begins, inner + merged.size), jnp.int32),
        labels=jnp.asarray(np.concatenate([merged, absent]), jnp.int32),
        depth=tree.depth,
    )
