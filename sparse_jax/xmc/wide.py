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

from sparse_jax.data import Batch, XmcData
from sparse_jax.ops.fixed_order import weighted_total
from sparse_jax.ops.wide import Entries, co_occurring, wide_scores, wide_step

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
    offsets, label_ids = co_occurring(
        train.feature_offsets, train.feature_ids, train.label_offsets, train.label_ids,
        train.num_features, train.num_labels, min_share,
    )  # fmt: skip
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
    return wide_scores(
        model.offsets, model.label_ids, model.weights, model.bias, entries(batch),
        batch.row_mask.shape[0],
    )  # fmt: skip


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
    state = [model.weights, model.slots, model.bias, model.bias_slots]
    state, losses = wide_step(
        model.offsets, model.label_ids, state, entries(batch), (batch.label_ids, batch.label_rows),
        learning_rate, num_points=batch.row_mask.shape[0], group=group,
    )  # fmt: skip
    real = jnp.sum(batch.row_mask, dtype=jnp.int32).astype(jnp.float32)
    mean = weighted_total(losses) / jnp.maximum(real, jnp.float32(1))
    return WideModel(model.offsets, model.label_ids, *state), mean
