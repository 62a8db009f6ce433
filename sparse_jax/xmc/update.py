"""Teaching a model new points, features and labels without training the rest anew.

The wide part gets weights for the pairs that it hasn't met and takes steps on the new points alone.
In each tree a new label joins the leaf where most of its points already end, and a classifier of
its own is trained there. In a network it gets a row from the mean hidden vector of its points. What
the model knew keeps its place, so nothing costs more than the new points do, but for one merge of
sorted weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import data
from sparse_jax.data import XmcData, weighting
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc import grow_tree, inference, wide
from sparse_jax.xmc.model import Model
from sparse_jax.xmc.network import encode
from sparse_jax.xmc.presets import PRESETS
from sparse_jax.xmc.progress import Progress, silent

EPOCHS = 2  # of the wide part over the new points


def update(
    model: Model,
    points: XmcData,
    *,
    seed: int = 0,
    label_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
) -> Model:
    """The model with new points learned, and with the labels and features that they bring.

    Args:
      model: of `xmc.fit` or `xmc.load`; it stays as it is.
      points: new points, as they are read: not weighted. Ids below the model's sizes mean what they
        meant; larger ones are new labels and features.
      seed: of the order of the points.
      label_names: all names [N] with those of the new labels; None names new labels by their id.
      feature_names: all names [F] with those of the new features, likewise.
      interrupt: ends it early; the model is then what it has become.
      progress: hears how it goes.

    Returns:
      A new `Model`; equal calls give equal bits.

    Raises:
      ValueError: if there are no points, or names don't fit the sizes.

    Example:
      >>> from sparse_jax import xmc
      >>> def points(label, num_labels):
      ...     return data.XmcData(
      ...         np.arange(21), np.full(20, label, np.int32), np.ones(20, np.float32),
      ...         np.arange(21), np.full(20, label, np.int32), num_features=num_labels,
      ...         num_labels=num_labels)
      >>> model = xmc.fit(points(0, 1))
      >>> model = update(model, points(1, 2))
      >>> xmc.predict(model, points(1, 2), k=1).labels[0].tolist()
      [1]
    """
    if not points.num_points:
        raise ValueError("points is empty: must have points; give those that are new")
    num_features = max(points.num_features, model.num_features)
    num_labels = max(points.num_labels, model.num_labels)
    points = data.with_sizes(points, num_features, num_labels)
    grown = _grow(model, points, label_names, feature_names)
    idf = None if grown.idf is None else np.asarray(grown.idf)
    weighted = weighting.apply(weighting.Weighting(idf), points)
    interrupt = interrupt or Interrupt()
    new = np.flatnonzero(
        (np.bincount(points.label_ids, minlength=num_labels) > 0)
        & ~_known_labels(model, num_labels)
    )
    trees = list(grown.trees)
    if new.size:
        trees = [
            grow_tree.add_labels(tree, leaves, weighted, new, seed=seed)
            for tree, leaves in zip(trees, _leaves(model, weighted), strict=True)
        ]
    share = PRESETS.get(model.about.preset, PRESETS["fast"]).min_share
    linear = wide.merge(grown.wide, wide.zeros(weighted, min_share=share))
    linear = wide.fit(
        weighted, linear, epochs=EPOCHS, seed=seed, interrupt=interrupt, progress=progress
    )
    order = np.lexsort((np.arange(num_labels), -np.asarray(linear.bias)))
    grown = dataclasses.replace(
        grown, wide=linear, by_bias=jnp.asarray(order, jnp.int32), trees=tuple(trees)
    )
    return _with_rows(grown, weighted, new) if grown.encoders else grown


def _known_labels(model: Model, num_labels: int) -> np.ndarray:
    """Which labels the model has seen a point of, bool [num_labels]."""
    known = np.zeros(num_labels, bool)
    known[: model.num_labels] = ~wide.is_unseen(np.asarray(model.wide.bias))
    return known


def _grow(
    model: Model,
    points: XmcData,
    label_names: Sequence[str] | None,
    feature_names: Sequence[str] | None,
) -> Model:
    """The model with room for all labels and features of the points."""
    num_features, num_labels = points.num_features, points.num_labels
    more_features, more_labels = num_features - model.num_features, num_labels - model.num_labels
    idf = model.idf
    seen = int(model.about.notes.get("points", 0)) + points.num_points
    if idf is not None and more_features:
        present = points.feature_ids[points.feature_values != 0]
        frequency = np.bincount(present, minlength=num_features)[model.num_features :]
        fresh = np.log((1 + seen) / (1 + frequency)) + 1
        idf = jnp.concatenate([idf, jnp.asarray(fresh, jnp.float32)])
    trees = tuple(grow_tree.widen(tree, more_features) for tree in model.trees)
    encoders = tuple(
        p | {"embedding": jnp.pad(p["embedding"], ((0, more_features), (0, 0)))}
        for p in model.encoders
    )
    about = dataclasses.replace(
        model.about,
        num_features=num_features,
        num_labels=num_labels,
        notes=model.about.notes | {"points": seen},
        label_names=_names(model.about.label_names, label_names, num_labels, "label"),
        feature_names=_names(model.about.feature_names, feature_names, num_features, "feature"),
    )
    return dataclasses.replace(
        model,
        idf=idf,
        wide=wide.widen(model.wide, more_features, more_labels),
        trees=trees,
        encoders=encoders,
        about=about,
    )


def _names(
    before: tuple[str, ...] | None, given: Sequence[str] | None, size: int, kind: str
) -> tuple[str, ...] | None:
    if given is not None:
        if len(given) != size:
            raise ValueError(
                f"{kind}_names has {len(given)} names: must have {size}, one for each id, those of "
                "the model first"
            )
        return tuple(given)
    if before is None:
        return None
    return before + tuple(f"{kind} {i}" for i in range(len(before), size))


def _leaves(model: Model, points: XmcData) -> list[np.ndarray]:
    """For each tree, the last inner node that the best label of each point hangs on, int [n]."""
    known = inference.known_features(points, model.num_features)
    found = []
    for tree in model.trees:
        best = inference.best_of_tree(model, tree, known)
        found.append(grow_tree.parents(tree)[best])
    return found


def _with_rows(model: Model, points: XmcData, new: np.ndarray) -> Model:
    """Output rows of new labels: as near to their points' mean as true labels are to theirs.

    A row w and its bias solve w·m + b = the mean logit of true labels at the mean hidden vector m
    of its own points, and the mean logit of all labels at the mean m0 of all points, with w along
    m − m0.
    """
    before, width = model.output.shape
    output = np.zeros((model.num_labels, width), np.float32)
    bias = np.full(model.num_labels, -np.inf, np.float32)
    output[:before] = np.asarray(model.output.astype(jnp.float32))
    bias[:before] = np.asarray(model.output_bias)
    hidden = _hidden(model, points)
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    centre = hidden.mean(axis=0)
    known = points.label_ids < before
    logits = np.einsum("ed,ed->e", hidden[rows[known]], output[points.label_ids[known]])
    true = float(np.mean(logits + bias[points.label_ids[known]])) if known.any() else 5.0
    usual = float(np.mean(output[:before] @ centre + bias[:before]))
    for label in new:
        away = hidden[rows[points.label_ids == label]].mean(axis=0) - centre
        output[label] = away * ((true - usual) / max(float(away @ away), 1e-6))
        bias[label] = usual - output[label] @ centre
    return dataclasses.replace(
        model, output=jnp.asarray(output, model.output.dtype), output_bias=jnp.asarray(bias)
    )


def _hidden(model: Model, points: XmcData, batch_size: int = 256) -> np.ndarray:
    """The hidden vectors of all networks side by side, as prediction takes them: [n, T·d]."""
    share = jnp.float32(1 / len(model.encoders))
    run = jax.jit(lambda encoders, batch: [encode(p, batch) * share for p in encoders])
    found = []
    for start in range(0, points.num_points, batch_size):
        rows = np.arange(start, min(start + batch_size, points.num_points))
        batch = inference.padded_batch(points, rows, batch_size)
        parts = run(model.encoders, batch)
        found.append(np.concatenate([np.asarray(x) for x in parts], axis=1)[: rows.size])
    return np.concatenate(found)
