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

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import _ffi
from sparse_jax.data import Batch, XmcData

_FIRST_BIAS = -1.0  # a label that nothing speaks for starts, and mostly stays, at the margin
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


def init(train: XmcData, *, min_share: float = 0.002) -> WideModel:
    """A model with a weight of 0 for each pair of a feature and a label that occur together.

    Args:
      train: the training points.
      min_share: a pair gets a weight if the label is one of more than this share of the points
        that hold the feature. It shortens the rows of frequent words, which take most of the time;
        0 keeps every pair.

    Returns:
      A `WideModel`.

    Raises:
      ValueError: if min_share is not in [0, 1), or the pairs exceed 2^31 - 1.

    Example:
      >>> train = XmcData(
      ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
      ...     np.array([0, 1, 2]), np.array([4, 2], np.int32), num_features=2, num_labels=5)
      >>> init(train).label_ids.tolist()
      [2, 4, 2]
    """
    if not 0 <= min_share < 1:
        raise ValueError(f"min_share = {min_share}: must be at least 0 and below 1")
    offsets, label_ids = _co_occurring(train, min_share)
    return WideModel(
        offsets=jnp.asarray(offsets),
        label_ids=jnp.asarray(label_ids),
        weights=jnp.zeros(label_ids.size, jnp.float32),
        slots=jnp.full(label_ids.size, _FIRST_SLOT, jnp.float32),
        bias=jnp.full(train.num_labels, _FIRST_BIAS, jnp.float32),
        bias_slots=jnp.full(train.num_labels, _FIRST_SLOT, jnp.float32),
    )


def scores(model: WideModel, batch: Batch) -> jax.Array:
    """The scores of all labels: 1 says yes, -1 says no.

    Args:
      model: the model.
      batch: B points.

    Returns:
      float32 [B, N].
    """
    shape = jax.ShapeDtypeStruct((batch.row_mask.shape[0], model.bias.size), jnp.float32)
    arguments = (batch.feature_ids, batch.feature_rows, batch.feature_values)
    if _ffi.AVAILABLE:
        call = _ffi.call("wide_scores", shape)
        return call(model.offsets, model.label_ids, model.weights, model.bias, *arguments)
    return _scores_jax(model, batch)


def step(
    model: WideModel, batch: Batch, learning_rate: jax.Array, *, group: int = 32
) -> tuple[WideModel, jax.Array]:
    """Adagrad on the squared hinge of all labels, one versus the rest, a group of points at a time.

    loss_b = Σ_l max(0, 1 - y_bl score_bl)², y = ±1. The scores of a group are taken first; then its
    updates follow in order of the points, so that it still learns like single points. Jit it with
    `model` donated: it is updated in place.

    Args:
      model: the model.
      batch: B points; those without labels teach nothing.
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
    examples = batch.row_mask.shape[0]
    if _ffi.AVAILABLE:
        state = [model.weights, model.slots, model.bias, model.bias_slots]
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in state]
        results.append(jax.ShapeDtypeStruct((examples,), jnp.float32))
        call = _ffi.call("wide_step", results, aliases={2: 0, 3: 1, 4: 2, 5: 3})
        *state, losses = call(
            model.offsets, model.label_ids, *state,
            batch.feature_ids, batch.feature_rows, batch.feature_values,
            batch.label_ids, batch.label_rows, learning_rate, group=np.int64(group),
        )  # fmt: skip
    else:
        *state, losses = _step_jax(model, batch, learning_rate, group)
    weights, slots, bias, bias_slots = state
    model = WideModel(model.offsets, model.label_ids, weights, slots, bias, bias_slots)
    # A mean as a product: XLA:CPU may split a long sum by the number of threads.
    total = (losses[None, :] @ jnp.ones((examples, 1), jnp.float32))[0, 0]
    real = jnp.sum(batch.row_mask, dtype=jnp.int32).astype(jnp.float32)
    return model, total / jnp.maximum(real, jnp.float32(1))


def _co_occurring(train: XmcData, min_share: float) -> tuple[np.ndarray, np.ndarray]:
    if _ffi.AVAILABLE:
        return _ffi.co_occurring(
            train.feature_offsets.astype(np.int64), train.feature_ids,
            train.label_offsets.astype(np.int64), train.label_ids,
            train.num_features, train.num_labels, min_share,
        )  # fmt: skip
    labels = np.diff(train.label_offsets)
    points = np.repeat(np.arange(train.num_points), np.diff(train.feature_offsets))
    counts = labels[points]
    first = np.repeat(train.label_offsets[:-1][points] - np.cumsum(counts) + counts, counts)
    own = train.label_ids[first + np.arange(counts.sum())]
    features = np.repeat(train.feature_ids.astype(np.int64), counts)
    pairs, together = np.unique(features * train.num_labels + own, return_counts=True)
    held = np.bincount(train.feature_ids, minlength=train.num_features)
    pairs = pairs[together > min_share * held[pairs // train.num_labels]]
    offsets = np.searchsorted(pairs, np.arange(train.num_features + 1) * train.num_labels)
    return offsets.astype(np.int32), (pairs % train.num_labels).astype(np.int32)


def _features_of(model: WideModel) -> jax.Array:
    """The feature of each weight, [E]."""
    rows = jnp.arange(model.offsets.size - 1, dtype=jnp.int32)
    return jnp.repeat(rows, jnp.diff(model.offsets), total_repeat_length=model.weights.size)


def _dense_points(model: WideModel, batch: Batch) -> jax.Array:
    shape = (batch.row_mask.shape[0], model.offsets.size - 1)
    ids = jnp.where(batch.feature_ids < 0, shape[1], batch.feature_ids)
    zeros = jnp.zeros(shape, jnp.float32)
    return zeros.at[batch.feature_rows, ids].add(batch.feature_values, mode="drop")


def _scores_jax(model: WideModel, batch: Batch) -> jax.Array:
    return _scores_of(model, model.weights, model.bias, _dense_points(model, batch))


def _scores_of(
    model: WideModel, weights: jax.Array, bias: jax.Array, points: jax.Array
) -> jax.Array:
    features = _features_of(model)

    def one(point: jax.Array) -> jax.Array:
        return bias.at[model.label_ids].add(point[features] * weights)

    return jax.lax.map(one, points)


def _step_jax(
    model: WideModel, batch: Batch, learning_rate: jax.Array, group: int
) -> tuple[jax.Array, ...]:
    features, points = _features_of(model), _dense_points(model, batch)
    examples, num_labels = points.shape[0], model.bias.size
    ids = jnp.where(batch.label_ids < 0, num_labels, batch.label_ids)
    own = jnp.zeros((examples, num_labels), bool).at[batch.label_rows, ids].set(True, mode="drop")
    groups = -(-examples // group)

    def grouped(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, groups * group - examples), (0, 0)))
        return x.reshape(groups, group, x.shape[1])

    def adagrad(weight: jax.Array, slot: jax.Array, gradient: jax.Array) -> list[jax.Array]:
        slot = slot + gradient * gradient
        return [weight - learning_rate * gradient / jnp.sqrt(slot), slot]

    def update(state: list[jax.Array], example: tuple[jax.Array, jax.Array]) -> tuple[list, None]:
        weights, slots, bias, bias_slots = state
        point, gradient = example
        rows = adagrad(weights, slots, gradient[model.label_ids] * point[features])
        return rows + adagrad(bias, bias_slots, gradient), None

    def one_group(
        state: list[jax.Array], given: tuple[jax.Array, jax.Array]
    ) -> tuple[list, jax.Array]:
        points, own = given
        sign = jnp.where(own, jnp.float32(1), jnp.float32(-1))
        found = _scores_of(model, state[0], state[2], points)
        short = jnp.maximum(jnp.float32(1) - sign * found, jnp.float32(0))
        short = jnp.where(jnp.any(own, axis=1)[:, None], short, jnp.float32(0))
        state, _ = jax.lax.scan(update, state, (points, jnp.float32(-2) * sign * short))
        return state, jnp.sum(short * short, axis=1)

    state = [model.weights, model.slots, model.bias, model.bias_slots]
    state, losses = jax.lax.scan(one_group, state, (grouped(points), grouped(own)))
    return (*state, losses.reshape(-1)[:examples])
