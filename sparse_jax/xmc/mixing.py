"""How much each part of a model counts: weights among a few, by held-out points."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.xmc import calibration, inference, metrics
from sparse_jax.xmc.model import Mix, Model, network_parts

MARGIN = 0.002  # of P@1 + P@5: trees that bring no more are left out
TREE_WEIGHTS = (0.0, 0.2, 0.5)
ALONE = 1e6  # a weight of the linear parts beside which networks say nothing
WEIGHTS = (ALONE, 0.0, 1.0, 2.0, 4.0, 8.0)  # held-out points can't tell finer ones apart


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
    totals = []
    for place, model in enumerate(choices):
        found = inference.best_of_all(model, held_out, k=ks[1]).ids
        scores = metrics.evaluate(found, held_out.label_offsets, held_out.label_ids, ks=ks)
        totals.append(sum(scores[f"p@{k}"] for k in ks) - margin * (place > 0))
    return int(np.argmax(totals))


def start() -> Mix:
    """Linear parts alone, trees at their usual weight, nothing calibrated."""
    return Mix(jnp.float32(1), jnp.float32(0.2), jnp.asarray(calibration.DEFAULT, jnp.float32))
