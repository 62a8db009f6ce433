"""The best labels by a network, the wide part, trees and neighbours together, over all N labels.

    score(l | x) = h·w_l + b_l + weight · (wide(l | x) + tree_weight · log(mean tree score + 1e-6)
                                           + near.weight · share(l | x))

A part that is not there adds nothing. The kernel makes no array of all scores: a point touches few
labels by its features, trees and neighbours, and without a network its time depends on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi, topk
from sparse_jax.ops.label_tree import LabelTree, tree_scores
from sparse_jax.ops.neighbours import Neighbours, shares
from sparse_jax.ops.wide import Entries, wide_scores


class LastLayer(NamedTuple):
    """Networks' last layer, and what goes into it; several, scaled, lie one beside the other."""

    hidden: jax.Array  # float32 [B, D]
    weights: jax.Array  # float32 or bfloat16 [N, D]
    bias: jax.Array  # float32 [N]


class WidePart(NamedTuple):
    """Weights by feature, as in `ops.wide`, and the labels by their bias."""

    offsets: jax.Array  # int32 [F + 1]
    label_ids: jax.Array  # int32 [E], ascending in a feature
    weights: jax.Array  # float32 [E]
    bias: jax.Array  # float32 [N]
    order: jax.Array  # int32 [N]: `order_by_bias`


def order_by_bias(bias: jax.Array) -> jax.Array:
    """The labels by descending bias, equal ones in order of id: int32 [N]. Once for a model."""
    return jnp.argsort(bias, stable=True, descending=True).astype(jnp.int32)


def ensemble_topk(
    wide: WidePart,
    trees: Sequence[LabelTree],
    layer: LastLayer | None,
    entries: Entries,
    *,
    num_points: int,
    weight: jax.Array,
    tree_weight: jax.Array,
    near: Neighbours | None = None,
    beam: int,
    k: int,
) -> topk.TopK:
    """The k labels of each point with the largest scores; NaN and -inf don't rank.

    Args:
      wide: the wide part.
      trees: any number, over the same labels.
      layer: of the networks, or None.
      entries: the features of the points.
      num_points: B.
      weight: float32 [], above 0: of the other parts beside the networks.
      tree_weight: float32 [], of the trees beside the wide part.
      near: stored points with the same labels, or None.
      beam: nodes that a tree's search keeps on each level.
      k: at least 1; more than N pads.

    Returns:
      Scores float32 [B, k], best first, equal ones in order of id, -inf behind the last; ids
      int32 [B, k], -1 behind the last. Without a layer, labels that the point does not touch and
      whose biases differ, but not their scores, by rounding, stand in order of bias.
    """
    if not ffi.AVAILABLE:
        weights = weight, tree_weight
        return _dense(wide, trees, layer, near, entries, num_points, weights, beam, k)
    results = [
        jax.ShapeDtypeStruct((num_points, k), jnp.float32),
        jax.ShapeDtypeStruct((num_points, k), jnp.int32),
    ]
    if layer is None:  # no rows
        zeros = jnp.zeros((num_points, 0), jnp.float32)
        layer = LastLayer(zeros, jnp.zeros((0, 0), jnp.float32), jnp.zeros(0, jnp.float32))
    of_trees = [
        (tree.offsets, tree.nodes, tree.weights, tree.bias, tree.children, tree.labels)
        for tree in trees
    ]
    scores, ids = ffi.call("ensemble_topk", results)(
        *layer,
        weight,
        tree_weight,
        *wide,
        *entries,
        *(_nobody() if near is None else jax.tree.leaves(near)),
        *(array for arrays in of_trees for array in arrays),
        beam=np.int64(beam),
    )
    return scores, ids


def _nobody() -> list[jax.Array]:
    """The operands of neighbours where there are none."""
    ids, values, starts = (
        jnp.zeros(0, jnp.int32),
        jnp.zeros(0, jnp.float32),
        jnp.zeros(1, jnp.int32),
    )
    return [starts, ids, values, starts, ids, values, jnp.float32(0)]


def _dense(
    wide: WidePart,
    trees: Sequence[LabelTree],
    layer: LastLayer | None,
    near: Neighbours | None,
    entries: Entries,
    num_points: int,
    weights: tuple[jax.Array, jax.Array],
    beam: int,
    k: int,
) -> topk.TopK:
    """The scores of all labels, [B, N]."""
    weight, tree_weight = weights
    scores = wide_scores(wide.offsets, wide.label_ids, wide.weights, wide.bias, entries, num_points)
    if trees:
        total = sum(tree_scores(tree, entries, num_points, beam) for tree in trees)
        mean = total / jnp.float32(len(trees))
        scores = scores + tree_weight * jnp.log(mean + jnp.float32(1e-6))
    if near is not None:
        scores = scores + near.weight * shares(near, entries, num_points, wide.bias.size)
    scores = weight * scores
    if layer is not None:
        rows = layer.weights.astype(jnp.float32)
        logits = jax.lax.dot_general(layer.hidden, rows, (((1,), (1,)), ((), ())))
        scores = logits + layer.bias[None, :] + scores
    ids = jnp.arange(wide.bias.size, dtype=jnp.int32)[None, :]
    return topk.best(scores, jnp.broadcast_to(ids, scores.shape), k)
