"""A tree over labels: training one level of its classifiers, and its beam search."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi
from sparse_jax.ops.mixing import mix
from sparse_jax.ops.threads import num_threads
from sparse_jax.ops.wide import Entries, wide_scores


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
    """What one level's classifiers are trained on: see `fit_tree_level`."""

    member_offsets: np.ndarray  # int64 [G + 1]
    members: np.ndarray  # int32, points of each node above, ascending
    child_offsets: np.ndarray  # int64 [G + 1], children of each node above
    positive_offsets: np.ndarray  # int64 [C + 1]
    positives: np.ndarray  # int32, points of each child, ascending


class Svm(NamedTuple):
    """How a classifier is trained: squared hinge, L2 penalty on weights and bias.

    Meant for rows of about unit length, to which `xmc.label_tree.fit` scales others.
    """

    cost: float = 1.0  # C
    iterations: int = 5  # passes over its points, at most: more teach nothing that lasts
    tolerance: float = 0.1  # of the projected gradient's spread
    prune: float = 0.2  # weights below this are dropped


def fit_tree_level(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    num_features: int,
    level: Level,
    svm: Svm,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(feature, child, weight) of what is kept, by node, feature and child; and bias of each.

    Args:
      points: feature offsets int64 [n + 1], ids int32, values float32.
      num_features: F.
      level: whose classifiers are trained, on which points.
      svm: how.
      seed: uint32, of the order of the points.
    """
    if ffi.AVAILABLE:
        kept: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = ffi.native().fit_tree_level(
            *points, num_features, *level, *svm, seed, num_threads()
        )
        return kept
    bias = np.zeros(level.positive_offsets.size - 1, np.float32)
    nodes = range(level.member_offsets.size - 1)
    parts = [_fit_node(points, level, g, svm, seed, bias) for g in nodes]
    feature, child, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    return feature, child, weight, bias


def tree_scores(tree: LabelTree, entries: Entries, num_points: int, beam: int) -> jax.Array:
    """The scores of the labels that a beam search reaches, 0 for the others: float32 [B, N]."""
    if not ffi.AVAILABLE:
        return _scores_jax(tree, entries, num_points, beam)
    shape = jax.ShapeDtypeStruct((num_points, tree.labels.size), jnp.float32)
    scores: jax.Array = ffi.call("tree_scores", shape)(
        tree.offsets,
        tree.nodes,
        tree.weights,
        tree.bias,
        tree.children,
        tree.labels,
        *entries,
        depth=np.int64(tree.depth),
        beam=np.int64(beam),
    )
    return scores


def _fit_node(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    level: Level,
    g: int,
    svm: Svm,
    seed: int,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _scores_jax(tree: LabelTree, entries: Entries, num_points: int, beam: int) -> jax.Array:
    """All nodes of a level at once, those out of the beam hidden."""
    scores = wide_scores(tree.offsets, tree.nodes, tree.weights, tree.bias, entries, num_points)
    short = jnp.maximum(jnp.float32(1) - scores, jnp.float32(0))
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
