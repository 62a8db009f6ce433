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
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from sparse_jax import _ffi, wide
from sparse_jax._tables_jax import mix
from sparse_jax.data import Batch, XmcData

_BRANCH = 3  # log2 of an inner node's children
_PROJECTED = 128  # dimensions that centroids are clustered in
_MOST_ROUNDS = 5  # of 2-means: ten or twenty make trees no better


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelTree:
    """Nodes are numbered level by level from the root, 0; the last level's are the labels."""

    offsets: jax.Array  # int32 [F + 1]; weights of feature f: offsets[f] to offsets[f + 1]
    nodes: jax.Array  # int32 [E], ascending in a feature
    weights: jax.Array  # float32 [E]
    bias: jax.Array  # float32 [M]
    children: jax.Array  # int32 [I + 1]; of inner node i: nodes children[i] to children[i + 1]
    labels: jax.Array  # int32 [N]; node I + k is label labels[k]
    depth: int = dataclasses.field(metadata={"static": True})  # levels below the root


class Level(NamedTuple):
    """What one level's classifiers are trained on: see `_ffi.fit_tree_level`."""

    member_offsets: np.ndarray  # int64 [G + 1]
    members: np.ndarray  # int32, points of each node above, ascending
    child_offsets: np.ndarray  # int64 [G + 1], children of each node above
    positive_offsets: np.ndarray  # int64 [C + 1]
    positives: np.ndarray  # int32, points of each child, ascending


class Svm(NamedTuple):
    """How a classifier is trained: squared hinge, L2 penalty on weights and bias."""

    cost: float = 1.0  # C
    iterations: int = 5  # passes over its points, at most: more teach nothing that lasts
    tolerance: float = 0.1  # of the projected gradient's spread
    prune: float = 0.2  # weights below this are dropped


def fit(train: XmcData, *, seed: int = 0, leaf: int = 64, svm: Svm | None = None) -> LabelTree:
    """Splits the labels and trains all nodes.

    Args:
      train: the training points.
      seed: of the split and of the order of the points; trees that differ by it average well.
      leaf: labels under a node of the last level but one, at most.
      svm: how classifiers are trained.

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
    labels, levels = _split(train, leaf, seed)
    starts = [np.array([0, labels.size]), *levels, np.arange(labels.size + 1)]  # of each level
    counts = [start.size - 1 for start in starts]
    first = np.cumsum([0, *counts])  # node
    children = [np.searchsorted(b, a) + first[d + 1]
                for d, (a, b) in enumerate(itertools.pairwise(starts))]  # fmt: skip
    place = np.empty(labels.size, np.int64)
    place[labels] = np.arange(labels.size)
    point = np.repeat(np.arange(train.num_points), np.diff(train.label_offsets))
    held = [_points_of(place[train.label_ids], point, start, train.num_points) for start in starts]
    features, nodes, weights, bias = [], [], [], [np.zeros(1, np.float32)]
    for d, below in enumerate(children):
        level = Level(*held[d], below - first[d + 1], *held[d + 1])
        feature, child, weight, own_bias = _fit_level(train, level, svm or Svm(), seed)
        features.append(feature)
        nodes.append(child + np.int32(first[d + 1]))
        weights.append(weight)
        bias.append(own_bias)
    # Into rows by feature, in which the nodes keep their order.
    entries = (np.concatenate(weights), (np.concatenate(features), np.concatenate(nodes)))
    rows = sparse.coo_matrix(entries, (train.num_features, first[-1])).tocsr()
    inner = np.concatenate([below[:-1] for below in children] + [[first[-1]]])
    return LabelTree(
        offsets=jnp.asarray(rows.indptr, jnp.int32),
        nodes=jnp.asarray(rows.indices, jnp.int32),
        weights=jnp.asarray(rows.data),
        bias=jnp.asarray(np.concatenate(bias)),
        children=jnp.asarray(inner, jnp.int32),
        labels=jnp.asarray(labels, jnp.int32),
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
    if not _ffi.AVAILABLE:
        return _scores_jax(tree, batch, beam)
    shape = jax.ShapeDtypeStruct((batch.row_mask.shape[0], tree.labels.size), jnp.float32)
    return _ffi.call("tree_scores", shape)(
        tree.offsets, tree.nodes, tree.weights, tree.bias, tree.children, tree.labels,
        batch.feature_ids, batch.feature_rows, batch.feature_values,
        depth=np.int64(tree.depth), beam=np.int64(beam),
    )  # fmt: skip


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


def _points_of(
    places: np.ndarray, points: np.ndarray, starts: np.ndarray, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets [nodes + 1], distinct points of each node) from the places of their labels."""
    node = np.searchsorted(starts, places, side="right") - 1
    pairs = sparse.coo_matrix((np.ones(node.size, bool), (node, points)),
                              (starts.size - 1, num_points)).tocsr()  # fmt: skip
    return pairs.indptr.astype(np.int64), pairs.indices.astype(np.int32)


def _fit_level(
    train: XmcData, level: Level, svm: Svm, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(feature, child, weight) of what is kept, by node, feature and child; and bias of each."""
    points = (train.feature_offsets.astype(np.int64), train.feature_ids, train.feature_values)
    key = seed % 2**32
    if _ffi.AVAILABLE:
        return _ffi.fit_tree_level(*points, train.num_features, *level, *svm, key, _num_threads())
    bias = np.zeros(level.positive_offsets.size - 1, np.float32)
    nodes = range(level.member_offsets.size - 1)
    kept = [_fit_node(points, level, g, svm, key, bias) for g in nodes]
    feature, child, weight = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return feature, child, weight, bias


def _num_threads() -> int:
    """What XLA:CPU uses: the CPUs of this process, or fewer if NPROC says so."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("NPROC", "")
    return min(cpus, int(asked)) if asked.isdigit() and int(asked) else cpus


def _fit_node(
    points: tuple[np.ndarray, np.ndarray, np.ndarray], level: Level, g: int, svm: Svm, seed: int,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The children of one node in NumPy: each row of `alphas` is a point, each column a child."""
    offsets, ids, values = points
    members = level.members[level.member_offsets[g] : level.member_offsets[g + 1]]
    first, last = level.child_offsets[g], level.child_offsets[g + 1]
    entries = [slice(offsets[p], offsets[p + 1]) for p in members]
    features = np.unique(np.concatenate([ids[e] for e in entries] + [ids[:0]]))
    signs = np.full((members.size, last - first), -1, np.float32)
    for c in range(first, last):
        own = slice(level.positive_offsets[c], level.positive_offsets[c + 1])
        signs[np.isin(members, level.positives[own]), c - first] = 1
    ridge = np.float32(0.5) / np.float32(svm.cost)
    weights = np.zeros((features.size, signs.shape[1]), np.float32)
    own_bias, alphas = np.zeros(signs.shape[1], np.float32), np.zeros_like(signs)
    still = np.ones(signs.shape[1], bool)  # those that have not converged
    for iteration in range(svm.iterations):
        most, least = np.full(still.size, -np.inf), np.full(still.size, np.inf)
        for i in _order(members.size, seed + iteration):
            at, x = np.searchsorted(features, ids[entries[i]]), values[entries[i]]
            score = own_bias + x @ weights[at]
            gradient = signs[i] * score - np.float32(1) + ridge * alphas[i]
            projected = np.where(alphas[i] > 0, gradient, np.minimum(gradient, 0))
            most, least = np.maximum(most, projected), np.minimum(least, projected)
            step = gradient / (x @ x + np.float32(1) + ridge)
            after = np.maximum(np.where(still, alphas[i] - step, alphas[i]), 0)
            move = (after - alphas[i]) * signs[i]
            alphas[i] = after
            own_bias += move
            np.add.at(weights, at, x[:, None] * move)
        still &= most - least > svm.tolerance
        if not still.any():
            break
    bias[first:last] = own_bias
    feature, child = np.nonzero(np.abs(weights) >= svm.prune)
    return features[feature], (child + first).astype(np.int32), weights[feature, child]


def _order(count: int, key: int) -> np.ndarray:
    """The order of the points in one pass, the kernel's."""
    points = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1)
    salt = mix(jnp.uint32(key % 2**32))
    return np.argsort(mix(jnp.asarray(points) + salt), kind="stable")


def _scores_jax(tree: LabelTree, batch: Batch, beam: int) -> jax.Array:
    """All nodes of a level at once, those out of the beam hidden."""
    as_wide = wide.WideModel(
        tree.offsets, tree.nodes, tree.weights, tree.weights, tree.bias, tree.bias
    )
    short = jnp.maximum(jnp.float32(1) - wide.scores(as_wide, batch), jnp.float32(0))
    count, inner = tree.bias.size, tree.children.size - 1
    node = jnp.arange(count, dtype=jnp.int32)
    parent = jnp.maximum(jnp.searchsorted(tree.children, node, side="right") - 1, 0)
    on_level = node == 0
    kept = jnp.broadcast_to(on_level[None, :], short.shape)
    score = jnp.zeros_like(short)
    rows = jnp.arange(short.shape[0], dtype=jnp.int32)[:, None]
    for level in range(tree.depth):
        on_level = on_level[parent] & (node > 0)
        reached = kept[:, parent] & on_level[None, :]
        score = jnp.where(reached, score[:, parent] - short * short, score)
        kept = reached
        if level + 1 < tree.depth:
            ranked = jnp.where(reached, score, -jnp.inf)
            best = jax.lax.top_k(ranked, min(beam, count))[1]
            kept = jnp.zeros_like(reached).at[rows, best].set(True) & reached
    found = jnp.where(kept, jnp.exp(score), jnp.float32(0))[:, inner:]
    return jnp.zeros_like(found).at[:, tree.labels].set(found)
