"""How much each part of a model counts: weights among a few, by held-out points."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data import Batch, XmcData
from sparse_jax.xmc import calibration, inference, label_tree, metrics, wide
from sparse_jax.xmc.model import Mix, Model, network_parts

MARGIN = 0.002  # of P@1 + P@5: trees that bring no more are left out
TREE_WEIGHTS = (0.0, 0.2, 0.5)
ALONE = 1e6  # a weight of the linear parts beside which networks say nothing
_AT_ONCE, _MOST_SCORES = 256, 1 << 25  # points, and scores of one part, held at once
WEIGHTS = (ALONE, 1.0, 2.0, 4.0, 8.0)  # held-out points can't tell finer ones apart; below 1 they
# chose by chance, at up to 2 points of P@1: the linear parts that they see have yet to learn them


def choose_tree_weight(model: Model, held_out: XmcData) -> Model:
    """The best of TREE_WEIGHTS; without trees where they bring nothing.

    Args:
      model: with trees, without networks.
      held_out: weighted points that no part has seen.
    """
    choices = [_with(model, tree_weight=weight) for weight in TREE_WEIGHTS]
    best = _best(choices, held_out, MARGIN)
    return choices[best] if TREE_WEIGHTS[best] else dataclasses.replace(choices[best], trees=())


def choose_weight(model: Model, held_out: XmcData) -> Model:
    """The best of WEIGHTS; without networks where they bring nothing.

    Args:
      model: with networks.
      held_out: weighted points that no part has seen.
    """
    choices = [_with(model, weight=weight) for weight in WEIGHTS]
    best = _best(choices, held_out, 0.0)
    if WEIGHTS[best] != ALONE:
        return choices[best]
    encoders, output, output_bias = network_parts(())
    alone = dataclasses.replace(model, encoders=encoders, output=output, output_bias=output_bias)
    return _with(alone, weight=1.0)


def calibrate(model: Model, held_out: XmcData) -> Model:
    """The model with scores that mean chances, as held-out points tell them.

    Args:
      model: whose weights are chosen.
      held_out: weighted points that no part has seen; few or none leave a curve that only orders.
    """
    k = min(calibration.FITTED, model.num_labels)
    found = inference.best_of_all(model, held_out, k=k)
    truth = metrics.hits(found.ids, held_out.label_offsets, held_out.label_ids)
    curve = jnp.asarray(calibration.fit(found.scores, truth))
    return dataclasses.replace(model, mix=dataclasses.replace(model.mix, curve=curve))


def _with(model: Model, **weights: float) -> Model:
    changed = {name: jnp.float32(value) for name, value in weights.items()}
    return dataclasses.replace(model, mix=dataclasses.replace(model.mix, **changed))


def _best(choices: list[Model], held_out: XmcData, margin: float) -> int:
    """Which model has the best P@1 + P@5; the first, where no other is better by the margin."""
    ks = (1, min(5, choices[0].num_labels))
    weights = jnp.stack([jnp.stack([m.mix.weight, m.mix.tree_weight]) for m in choices])
    found = _at_weights(choices[0], weights, held_out, k=ks[1])
    totals = []
    for place in range(len(choices)):
        labels = found[:, place]
        scores = metrics.evaluate(labels, held_out.label_offsets, held_out.label_ids, ks=ks)
        totals.append(sum(scores[f"p@{k}"] for k in ks) - margin * (place > 0))
    return int(np.argmax(totals))


def _at_weights(model: Model, weights: jax.Array, points: XmcData, *, k: int) -> np.ndarray:
    """The best labels at each pair of weights, int32 [n, pairs, k].

    All parts score all labels once, and every pair sums them: sooner than to ask at each pair.
    """
    found = np.full((points.num_points, len(weights), k), -1, np.int32)
    size = max(1, min(_AT_ONCE, _MOST_SCORES // max(model.num_labels, 1)))
    for start in range(0, points.num_points, size):
        rows = np.arange(start, min(start + size, points.num_points))
        batch = inference.padded_batch(points, rows, size)
        found[rows] = np.asarray(_tops(model, weights, batch, k=k))[: rows.size]
    return found


@functools.partial(jax.jit, static_argnames="k")
def _tops(model: Model, weights: jax.Array, batch: Batch, *, k: int) -> jax.Array:
    linear = wide.scores(model.wide, batch)
    by_trees = logits = jnp.zeros((1, 1), jnp.float32)
    if model.trees:
        total = sum(label_tree.scores(tree, batch) for tree in model.trees)
        by_trees = jnp.log(total / jnp.float32(len(model.trees)) + jnp.float32(1e-6))
    if model.encoders:
        hidden = inference.hidden_of(model.encoders, batch)
        logits = hidden @ model.output.astype(hidden.dtype).T + model.output_bias[None, :]
    best = []
    for weight, tree_weight in weights:
        total = logits + weight * (linear + tree_weight * by_trees)
        # Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all.
        best.append(jax.lax.optimization_barrier(jax.lax.top_k(total, k))[1].astype(jnp.int32))
    return jnp.stack(best, axis=1)


def start() -> Mix:
    """Linear parts alone, trees at their usual weight, nothing calibrated."""
    return Mix(jnp.float32(1), jnp.float32(0.2), jnp.asarray(calibration.DEFAULT, jnp.float32))
