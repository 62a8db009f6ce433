"""Teaching a model new points, features and labels without training the rest anew.

New labels are learned apart, from their points against the other new ones and against points that
the model has kept: the wide part gets their weights, each tree gets a tree of theirs beside it, and
a network gets a row for each from the mean hidden vector of its points; where labels share rows by
hashing, further steps train these (`mach_update`). Labels that the model knows
take one gentle pass of the wide part over the new points that bring no new label. So nothing costs
more than the new points do, but for merges of sorted weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np

from sparse_jax import data
from sparse_jax.data import XmcData, weighting
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc import (
    closed_form,
    grow_tree,
    inference,
    label_tree,
    mach_update,
    memory,
    names,
    neighbours,
    wide,
)
from sparse_jax.xmc.model import Model
from sparse_jax.xmc.presets import PRESETS
from sparse_jax.xmc.progress import Progress, silent
from sparse_jax.xmc.seen import numbered
from sparse_jax.xmc.soft_labels import Weighted

EPOCHS = 2  # of new labels
GENTLE = 0.2  # learning rate of the pass over points of labels that the model knows


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
      ValueError: if there are no points, names don't fit the sizes, or an id that has a name gets
        another one.

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
    kept = memory.recall(model.memory, num_features, num_labels)
    seen = int(model.about.notes.get("points", kept.num_points))
    # Beside new points stand kept ones: negatives of new labels, and a reminder of the old ones.
    idf = None if grown.idf is None else np.asarray(grown.idf)
    weighted = weighting.apply(weighting.Weighting(idf), data.concatenate(points, kept))
    if grown.buckets is not None:
        grown = mach_update.learn(
            grown, weighted, seed=seed, interrupt=interrupt, progress=progress
        )
        mixed = memory.mix(kept, seen, points, seed=seed)
        return dataclasses.replace(grown, memory=memory.keep(mixed, seed=seed))
    share = PRESETS.get(model.about.preset, PRESETS["fast"]).min_share
    job = _Job(share, seed, interrupt or Interrupt(), progress)
    has_points = np.bincount(points.label_ids, minlength=num_labels) > 0
    new = np.flatnonzero(has_points & ~_known_labels(model, num_labels))
    trees, linear = grown.trees, grown.wide
    if new.size:
        alone = numbered(weighted, new)
        with ThreadPoolExecutor(1) as pool:  # much of a tree's work is one thread's
            own = pool.submit(label_tree.fit, alone, seed=seed)
            # Fewer points stand against the new labels than the model has seen: half of what that
            # adds to the log-odds of a label is taken back.
            share = (seen + points.num_points) / weighted.num_points
            slope = max(float(model.mix.curve[1]) * float(model.mix.weight), 0.5)
            linear = _learn_labels(job, linear, alone, new, -0.5 * np.log(max(share, 1.0)) / slope)
            linear = wide.add_weights(linear, closed_form.names_of(grown.about, new, weighted))
            trees = tuple(grow_tree.add_labels(t, own.result(), new, num_labels) for t in trees)
    linear = _learn_points(job, linear, points, kept, new, idf)
    order = np.lexsort((np.arange(num_labels), -np.asarray(linear.bias)))
    grown = dataclasses.replace(
        grown,
        wide=linear,
        by_bias=jnp.asarray(np.asarray(order, np.int32)),
        trees=trees,
        memory=memory.keep(memory.mix(kept, seen, points, seed=seed), seed=seed),
    )
    if grown.neighbours is not None:
        fresh = Weighted(weighted.take(np.arange(points.num_points)))
        usual = np.bincount(kept.feature_ids, minlength=num_features) > 0
        near = neighbours.add(grown.neighbours, fresh, num_labels, usual=usual)
        grown = dataclasses.replace(grown, neighbours=near)
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
        idf = jnp.asarray(np.concatenate([np.asarray(idf), fresh.astype(np.float32)]))
    trees = tuple(grow_tree.widen(tree, more_features, more_labels) for tree in model.trees)
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
        wide=wide.widen(model.wide, more_features, 0 if model.buckets else more_labels),
        trees=trees,
        encoders=encoders,
        about=about,
        buckets=model.buckets and dataclasses.replace(model.buckets, num_labels=num_labels),
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
        names.check(f"{kind}_names", given)
        for i, (old, new) in enumerate(zip(before or (), given, strict=False)):
            if old not in (new, f"{kind} {i}"):
                raise ValueError(
                    f"{kind}_names[{i}] = {new!r}: must be {old!r}, its name in the model; ids of "
                    "other data mean something else: give points and names numbered as the model's"
                )
        return tuple(given)
    if before is None:
        return None
    return before + tuple(f"{kind} {i}" for i in range(len(before), size))


@dataclasses.dataclass(frozen=True)
class _Job:
    """What each part of an update is given."""

    min_share: float
    seed: int
    interrupt: Interrupt
    progress: Progress

    def fit(
        self, points: XmcData, model: wide.WideModel, epochs: int, rate: float
    ) -> wide.WideModel:
        """Epochs of the wide part."""
        return wide.fit(
            points,
            model,
            epochs=epochs,
            learning_rate=rate,
            seed=self.seed,
            interrupt=self.interrupt,
            progress=self.progress,
        )


def _learn_labels(
    job: _Job, model: wide.WideModel, alone: XmcData, new: np.ndarray, shift: float
) -> wide.WideModel:
    """The wide part with new labels, learned apart, their bias shifted: the others don't move."""
    fresh = wide.zeros(alone, min_share=job.min_share)
    fresh = job.fit(alone, fresh, EPOCHS, wide.LEARNING_RATE)
    shifted = jnp.asarray(np.asarray(fresh.bias) + np.float32(shift))
    return wide.merge(model, dataclasses.replace(fresh, bias=shifted), new)


def _learn_points(
    job: _Job,
    model: wide.WideModel,
    points: XmcData,
    kept: XmcData,
    new: np.ndarray,
    idf: np.ndarray | None,
) -> wide.WideModel:
    """The wide part after a gentle pass over the points that bring no new label.

    As many kept points go with them, so that labels which the new points lack are not forgotten.
    """
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    brings = np.zeros(points.num_points, bool)
    brings[rows[np.isin(points.label_ids, new)]] = True
    known = points.take(np.flatnonzero(~brings))
    if not known.num_points:
        return model
    count = min(known.num_points, kept.num_points)
    chosen = np.random.default_rng([job.seed, 3]).permutation(kept.num_points)[:count]
    both = data.concatenate(known, kept.take(np.sort(chosen)))
    both = weighting.apply(weighting.Weighting(idf), both)
    pairs = wide.add_pairs(model, wide.zeros(both, min_share=job.min_share))
    return job.fit(both, pairs, 1, GENTLE)


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
    hidden = inference.hidden_of_all(model, points)
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
