"""The wide part: a one-vs-rest linear classifier over the pairs that occur together.

score(l | x) = bias_l + Σ_f x_f w_fl, with a weight only where feature f and label l occur together
in training: at most 3.8 million of the 735 million pairs of debian-depends. A feature is the key of
an associative memory and its labels are what it holds, so an example scores, and a step changes,
only what its own features point to; every other label stays at its bias. That makes one-vs-rest
training exact without a sample of negatives. Beside the network's low-rank scores it remembers what
single words mean, as in Wide & Deep learning.

References:
  Cheng et al., Wide & Deep Learning for Recommender Systems, 2016, section 3.
  Babbar and Schölkopf, DiSMEC, 2017: one-vs-rest with the squared hinge for extreme classification.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from sparse_jax.data import Batch, Capacity, XmcData, batches, num_batches, plan_capacity, prefetch
from sparse_jax.data.xmc import with_values
from sparse_jax.ops.fixed_order import weighted_total
from sparse_jax.ops.wide import Entries, co_occurring, wide_scores, wide_step
from sparse_jax.runtime import loop
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.trees import owned
from sparse_jax.xmc import soft_labels
from sparse_jax.xmc.progress import Progress, silent

_FIRST_BIAS = -1.0  # the margin: labels without evidence stay there
UNSEEN = -100.0  # of a label without a training point: it comes behind all others
_FIRST_SLOT = 1.0  # of Adagrad: large, so that a rare pair is not learned by heart at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WideModel:
    """Weights by feature, with Adagrad's sums of squares; a pytree of arrays."""

    offsets: jax.Array  # int32 [F + 1]; weights of feature f: offsets[f] to offsets[f + 1]
    label_ids: jax.Array  # int32 [E], ascending in a feature
    weights: jax.Array  # float32 [E]
    slots: jax.Array  # float32 [E]
    bias: jax.Array  # float32 [N]
    bias_slots: jax.Array  # float32 [N]


def zeros(points: XmcData, *, min_share: float = 0.002) -> WideModel:
    """A model with a weight of 0 for each pair of a feature and a label that occur together.

    Args:
      points: the training points.
      min_share: a pair gets a weight if the label is one of more than this share of the points
        that hold the feature. It shortens the rows of frequent words, which take most of the time;
        0 keeps every pair.

    Returns:
      A `WideModel`. Labels that no point has get the bias `UNSEEN`.

    Raises:
      ValueError: if min_share is not in [0, 1), or the pairs exceed 2^31 - 1.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
      ...     np.array([0, 1, 2]), np.array([4, 2], np.int32), num_features=2, num_labels=5)
      >>> zeros(points).label_ids.tolist()
      [2, 4, 2]
    """
    if not 0 <= min_share < 1:
        raise ValueError(f"min_share = {min_share}: must be at least 0 and below 1")
    offsets, label_ids = co_occurring(
        points.feature_offsets,
        points.feature_ids,
        points.label_offsets,
        points.label_ids,
        points.num_features,
        points.num_labels,
        min_share,
    )
    seen = np.bincount(points.label_ids, minlength=points.num_labels) > 0
    return WideModel(
        offsets=owned(offsets),
        label_ids=owned(label_ids),
        weights=owned(np.zeros(label_ids.size, np.float32)),
        slots=owned(np.full(label_ids.size, _FIRST_SLOT, np.float32)),
        bias=owned(np.where(seen, np.float32(_FIRST_BIAS), np.float32(UNSEEN))),
        bias_slots=owned(np.full(points.num_labels, _FIRST_SLOT, np.float32)),
    )


def scores(model: WideModel, batch: Batch) -> jax.Array:
    """The scores of all labels: 1 says yes, -1 says no.

    Args:
      model: the model.
      batch: B points.

    Returns:
      float32 [B, N].
    """
    return wide_scores(
        model.offsets,
        model.label_ids,
        model.weights,
        model.bias,
        entries(batch),
        batch.row_mask.shape[0],
    )


def entries(batch: Batch) -> Entries:
    """The feature entries of a batch."""
    return Entries(batch.feature_ids, batch.feature_rows, batch.feature_values)


def step(
    model: WideModel, batch: Batch, learning_rate: jax.Array, *, group: int = 32
) -> tuple[WideModel, jax.Array]:
    """Adagrad on the squared hinge of all labels, one versus the rest, a group of points at a time.

    loss_b = Σ_l max(0, 1 - y_bl score_bl)², y = ±1. The scores of a group are taken first; then its
    updates follow in order of the points, so that it still learns like single points. Jit it with
    `model` donated: it is updated in place.

    Args:
      model: the model.
      batch: B points; one without labels is a negative of all that its features point to.
      learning_rate: float32 [].
      group: points scored before their updates, which threads share; more than about 64 overshoot.

    Returns:
      The model, and the mean loss of the real points, float32 [].

    Raises:
      ValueError: if group is below 1.

    References:
      Duchi, Hazan and Singer, Adaptive Subgradient Methods, 2011, figure 1.
    """
    if group < 1:
        raise ValueError(f"group = {group}: must be at least 1")
    state = [model.weights, model.slots, model.bias, model.bias_slots]
    state, losses = wide_step(
        model.offsets,
        model.label_ids,
        state,
        entries(batch),
        (batch.label_ids, batch.label_rows),
        learning_rate,
        num_points=batch.row_mask.shape[0],
        group=group,
    )
    real = jnp.sum(batch.row_mask, dtype=jnp.int32).astype(jnp.float32)
    mean = weighted_total(losses) / jnp.maximum(real, jnp.float32(1))
    return WideModel(model.offsets, model.label_ids, *state), mean


def is_unseen(bias: np.ndarray) -> np.ndarray:
    """Which labels have had no training point, bool [N]."""
    return np.asarray(bias <= UNSEEN)


def zeros_like(model: WideModel) -> WideModel:
    """A model of the same sizes without pairs, that scores 0 for every label."""
    none = jnp.zeros(0, jnp.float32)
    labels, bias = jnp.zeros(0, jnp.int32), jnp.zeros_like(model.bias)
    return WideModel(jnp.zeros_like(model.offsets), labels, none, none, bias, bias)


def widen(model: WideModel, more_features: int, more_labels: int) -> WideModel:
    """The model with room for further features and labels; the latter are unseen."""
    return dataclasses.replace(
        model,
        # In NumPy: each size would be compiled anew.
        offsets=jnp.asarray(np.pad(model.offsets, (0, more_features), mode="edge")),
        bias=jnp.asarray(np.pad(model.bias, (0, more_labels), constant_values=UNSEEN)),
        bias_slots=jnp.asarray(
            np.pad(model.bias_slots, (0, more_labels), constant_values=_FIRST_SLOT)
        ),
    )


def merge(model: WideModel, other: WideModel, labels: np.ndarray) -> WideModel:
    """The model with some labels as another has learned them.

    Args:
      model: trained.
      other: of the same features, its label i being labels[i].
      labels: int [m], ascending; the model's own pairs of them go.
    """
    count = model.bias.size
    is_new = np.zeros(count, bool)
    is_new[labels] = True
    stays = ~is_new[np.asarray(model.label_ids)]
    rows, label_ids, weights, slots = (
        x[stays]
        for x in (_rows(model), *map(np.asarray, (model.label_ids, model.weights, model.slots)))
    )
    more_rows, more_labels = _rows(other), labels[np.asarray(other.label_ids)].astype(np.int32)
    at = np.searchsorted(rows * count + label_ids, more_rows * count + more_labels)
    lengths = np.bincount(rows, minlength=model.offsets.size - 1)
    lengths += np.bincount(more_rows, minlength=lengths.size)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    bias, bias_slots = np.array(model.bias), np.array(model.bias_slots)
    bias[labels], bias_slots[labels] = np.asarray(other.bias), np.asarray(other.bias_slots)
    return WideModel(
        offsets=jnp.asarray(offsets),
        label_ids=jnp.asarray(np.insert(label_ids, at, more_labels)),
        weights=jnp.asarray(np.insert(weights, at, np.asarray(other.weights))),
        slots=jnp.asarray(np.insert(slots, at, np.asarray(other.slots))),
        bias=jnp.asarray(bias),
        bias_slots=jnp.asarray(bias_slots),
    )


def add_weights(model: WideModel, more: sp.csr_matrix) -> WideModel:
    """The model with weights added: float32 [F, N], also to pairs that it hasn't had."""
    matrix = sp.csr_matrix(more)
    matrix.sort_indices()
    offsets, label_ids = (np.asarray(x, np.int32) for x in (matrix.indptr, matrix.indices))
    other = dataclasses.replace(
        model, offsets=jnp.asarray(offsets), label_ids=jnp.asarray(label_ids)
    )
    model = add_pairs(model, other)
    count = model.bias.size
    at = np.searchsorted(
        _rows(model) * count + np.asarray(model.label_ids), _rows(other) * count + label_ids
    )
    weights = np.array(model.weights)
    weights[at] += matrix.data
    return dataclasses.replace(model, weights=jnp.asarray(weights))


def add_pairs(model: WideModel, other: WideModel) -> WideModel:
    """The model with a weight of 0 for each pair that only another of the same sizes has."""
    count = model.bias.size
    keys = _rows(model) * count + np.asarray(model.label_ids)
    more = _rows(other) * count + np.asarray(other.label_ids)
    more = more[~np.isin(more, keys, assume_unique=True)]
    at = np.searchsorted(keys, more)
    lengths = np.diff(np.asarray(model.offsets)) + np.bincount(
        more // count, minlength=model.offsets.size - 1
    )
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    labels = (more % count).astype(np.int32)
    return dataclasses.replace(
        model,
        offsets=jnp.asarray(offsets),
        label_ids=jnp.asarray(np.insert(np.asarray(model.label_ids), at, labels)),
        weights=jnp.asarray(np.insert(np.asarray(model.weights), at, np.float32(0))),
        slots=jnp.asarray(np.insert(np.asarray(model.slots), at, np.float32(_FIRST_SLOT))),
    )


def _rows(model: WideModel) -> np.ndarray:
    """The feature of each pair, int64 [E]."""
    return np.repeat(np.arange(model.offsets.size - 1), np.diff(np.asarray(model.offsets)))


def row_scale(points: XmcData) -> np.float32:
    """What rows are divided by to be of about unit length; 1 if they are.

    Steps, the penalty's strength and the threshold below which a tree's weights are cut are made
    for such rows: the same rows times 100 should give the same model.
    """
    squares = points.feature_values.astype(np.float64) ** 2
    rows = np.repeat(np.arange(points.num_points), np.diff(points.feature_offsets))
    lengths = np.sqrt(np.bincount(rows, squares, minlength=points.num_points))
    usual = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 1.0
    return np.float32(1 if 0.5 < usual < 2 else usual)


BATCH, LEARNING_RATE = 256, 0.3
"""Of `fit`."""


class StepMetrics(NamedTuple):
    """What a step reports."""

    loss: jax.Array  # float32 []


def plan(sets: Sequence[tuple[XmcData, Sequence[int]]], *, seed: int) -> Capacity:
    """Sizes of the batches of `fit` that hold those of (points, epochs) pairs."""
    each = [plan_capacity(points, BATCH, seed=seed, epochs=epochs) for points, epochs in sets]
    return Capacity(*(max(sizes) for sizes in zip(*map(dataclasses.astuple, each), strict=True)))


def fit(
    points: XmcData,
    model: WideModel,
    *,
    epochs: int,
    seed: int = 0,
    label_weights: np.ndarray | None = None,
    learning_rate: float = LEARNING_RATE,
    first_epoch: int = 0,
    last_epoch: int | None = None,
    capacity: Capacity | None = None,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[WideModel, int], None] | None = None,
    watch: Callable[[WideModel], None] | None = None,
    looks: int = 0,
) -> WideModel:
    """Trains by epochs of `step`, with a learning rate that falls to 0 along a line.

    Args:
      points: weighted training points.
      model: of `zeros`, or where an earlier run stopped; donated.
      epochs: of the whole training.
      seed: of the order of the points.
      label_weights: float32 [labels] of the points: see `soft_labels`; None for ones.
      learning_rate: at the start.
      first_epoch: epochs done already.
      last_epoch: stop when so many are done; None: `epochs`.
      capacity: sizes of the batches, so that calls share what they compile; None plans for these.
      interrupt: asked before each step; an epoch that it cuts short is lost to `on_epoch`.
      progress: hears how it goes.
      on_epoch: is given the model, and the epochs done, after each.
      watch: is given the model `looks` times, at last in the end.
      looks: how often.

    Returns:
      The trained model.
    """
    scale = row_scale(points)
    if scale != 1:
        points = with_values(points, points.feature_values / scale)
        model = _rescaled(model, scale)
    capacity = capacity or plan_capacity(points, BATCH, seed=seed, epochs=epochs)
    per_epoch = num_batches(points.num_points, BATCH)
    total = per_epoch * epochs

    def batch_list(first: int) -> Iterator[tuple[Batch, np.float32]]:
        epoch, start = divmod(first, per_epoch)
        for number in range(epoch, epochs):
            done = number * per_epoch + start
            shown = soft_labels.draw(points, label_weights, seed=seed, number=number)
            for batch in batches(
                shown, BATCH, seed=seed, epoch=number, capacity=capacity, start=start
            ):
                yield batch, np.float32(learning_rate * (1 - done / total))
                done += 1
            start = 0

    move = jax.jit(step, donate_argnums=0)

    def run(model: WideModel, given: tuple[Batch, np.float32]) -> tuple[WideModel, StepMetrics]:
        model, loss = move(model, *given)
        return model, StepMetrics(loss)

    def look(seen: loop.Look) -> None:
        progress("wide", seen.step, total, f"loss {seen.metrics['loss']:.3f}")

    def validate(model: WideModel) -> bool:
        if watch is not None and clock.step * looks // total > (clock.step - 1) * looks // total:
            watch(_rescaled(model, 1 / scale))
        return False

    def save(model: WideModel) -> None:
        if on_epoch is not None and clock.step % per_epoch == 0:
            on_epoch(_rescaled(model, 1 / scale), clock.step // per_epoch)

    clock = loop.Clock(step=first_epoch * per_epoch)
    outcome = loop.train(
        model,
        run,
        lambda first: prefetch(batch_list(first), 8),
        steps=per_epoch * (epochs if last_epoch is None else last_epoch),
        clock=clock,
        interrupt=interrupt,
        look=look,
        look_every=100,
        validate=validate,
        validate_every=1 if watch else 0,
        save=save if on_epoch else None,
        save_every=per_epoch,
    )
    return _rescaled(outcome.state, 1 / scale)


def _rescaled(model: WideModel, factor: float | np.floating) -> WideModel:
    """The model for rows that are divided by the factor."""
    if factor == 1:
        return model
    weights = np.asarray(model.weights) * np.float32(factor)
    return dataclasses.replace(model, weights=jnp.asarray(weights))
