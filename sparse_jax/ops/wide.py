"""One-vs-rest over pairs that occur together: scores, one step, and the pairs themselves.

Weights lie by feature: those of feature f from offsets[f] to offsets[f + 1], each with the label
it speaks for. Points are entries (feature id, point, value), −1 for padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi


class Entries(NamedTuple):
    """The feature entries of B points."""

    feature_ids: jax.Array  # int32 [E]; -1 is padding
    feature_rows: jax.Array  # int32 [E], the point of each, ascending
    feature_values: jax.Array  # float32 [E]


def wide_scores(
    offsets: jax.Array,
    label_ids: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    entries: Entries,
    num_points: int,
) -> jax.Array:
    """bias_l + Σ value · weight over a point's features and their labels, float32 [B, N]."""
    if ffi.AVAILABLE:
        shape = jax.ShapeDtypeStruct((num_points, bias.size), jnp.float32)
        scores: jax.Array = ffi.call("wide_scores", shape)(
            offsets, label_ids, weights, bias, *entries
        )
        return scores
    features = _features_of(offsets, weights.size)
    points = _dense_points(entries, num_points, offsets.size - 1)
    return _scores_jax(features, label_ids, weights, bias, points)


def wide_step(
    offsets: jax.Array,
    label_ids: jax.Array,
    state: list[jax.Array],
    entries: Entries,
    labels: tuple[jax.Array, jax.Array],
    learning_rate: jax.Array,
    *,
    num_points: int,
    group: int,
) -> tuple[list[jax.Array], jax.Array]:
    """Adagrad on the squared hinge of all labels; see `xmc.wide.step`.

    Args:
      offsets: int32 [F + 1].
      label_ids: int32 [E].
      state: weights, their slots [E], bias, its slots [N], float32; donated.
      entries: of B points.
      labels: label ids int32 [P], −1 for padding, and the point of each, int32 [P].
      learning_rate: float32 [].
      num_points: B.
      group: points scored before their updates.

    Returns:
      (the new state, the loss of each point float32 [B]).
    """
    if ffi.AVAILABLE:
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in state]
        results.append(jax.ShapeDtypeStruct((num_points,), jnp.float32))
        call = ffi.call("wide_step", results, aliases={2: 0, 3: 1, 4: 2, 5: 3})
        *state, losses = call(
            offsets, label_ids, *state, *entries, *labels, learning_rate, group=np.int64(group)
        )
        return list(state), losses
    points = _dense_points(entries, num_points, offsets.size - 1)
    features = _features_of(offsets, state[0].size)
    has_features = (
        jnp.zeros(num_points, bool).at[entries.feature_rows].max(entries.feature_ids >= 0)
    )
    return _step_jax(features, label_ids, state, points, has_features, labels, learning_rate, group)


def co_occurring(
    feature_offsets: np.ndarray,
    feature_ids: np.ndarray,
    label_offsets: np.ndarray,
    label_ids: np.ndarray,
    num_features: int,
    num_labels: int,
    min_share: float,
) -> tuple[np.ndarray, np.ndarray]:
    """By feature, the labels of more than `min_share` of the points that hold it.

    Args:
      feature_offsets: int64 [n + 1], of n points.
      feature_ids: int32.
      label_offsets: int64 [n + 1].
      label_ids: int32.
      num_features: F.
      num_labels: N.
      min_share: from 0 to 1.

    Returns:
      (offsets int32 [F + 1], label ids int32 [E], ascending in a feature).
    """
    if ffi.AVAILABLE:
        pairs: tuple[np.ndarray, np.ndarray] = ffi.native().co_occurring(
            feature_offsets,
            feature_ids,
            label_offsets,
            label_ids,
            num_features,
            num_labels,
            min_share,
        )
        return pairs
    points = np.repeat(np.arange(feature_offsets.size - 1), np.diff(feature_offsets))
    counts = np.diff(label_offsets)[points]
    first = np.repeat(label_offsets[:-1][points] - np.cumsum(counts) + counts, counts)
    own = label_ids[first + np.arange(counts.sum())]
    features = np.repeat(feature_ids.astype(np.int64), counts)
    pairs_seen, together = np.unique(features * num_labels + own, return_counts=True)
    held = np.bincount(feature_ids, minlength=num_features)
    kept = pairs_seen[together > min_share * held[pairs_seen // num_labels]]
    offsets = np.searchsorted(kept, np.arange(num_features + 1) * num_labels)
    return offsets.astype(np.int32), (kept % num_labels).astype(np.int32)


def _features_of(offsets: jax.Array, size: int) -> jax.Array:
    """The feature of each weight, [E]."""
    rows = jnp.arange(offsets.size - 1, dtype=jnp.int32)
    return jnp.repeat(rows, jnp.diff(offsets), total_repeat_length=size)


def _dense_points(entries: Entries, num_points: int, num_features: int) -> jax.Array:
    ids = jnp.where(entries.feature_ids < 0, num_features, entries.feature_ids)
    zeros = jnp.zeros((num_points, num_features), jnp.float32)
    return zeros.at[entries.feature_rows, ids].add(entries.feature_values, mode="drop")


def _scores_jax(
    features: jax.Array,
    label_ids: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    points: jax.Array,
) -> jax.Array:
    def one(point: jax.Array) -> jax.Array:
        return bias.at[label_ids].add(point[features] * weights)

    return jax.lax.map(one, points)


def _step_jax(
    features: jax.Array,
    label_ids: jax.Array,
    state: list[jax.Array],
    points: jax.Array,
    has_features: jax.Array,
    labels: tuple[jax.Array, jax.Array],
    learning_rate: jax.Array,
    group: int,
) -> tuple[Any, jax.Array]:
    examples, num_labels = points.shape[0], state[2].size
    ids = jnp.where(labels[0] < 0, num_labels, labels[0])
    own = jnp.zeros((examples, num_labels), bool).at[labels[1], ids].set(True, mode="drop")
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
        rows = adagrad(weights, slots, gradient[label_ids] * point[features])
        return rows + adagrad(bias, bias_slots, gradient), None

    def one_group(
        state: list[jax.Array], given: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[list, jax.Array]:
        points, own, real = given
        sign = jnp.where(own, jnp.float32(1), jnp.float32(-1))
        found = _scores_jax(features, label_ids, state[0], state[2], points)
        short = jnp.maximum(jnp.float32(1) - sign * found, jnp.float32(0))
        short = jnp.where(real, short, jnp.float32(0))
        state, _ = jax.lax.scan(update, state, (points, jnp.float32(-2) * sign * short))
        return state, jnp.sum(short * short, axis=1)

    # Padding has neither labels nor features; a point without labels is a negative of all.
    real = (jnp.any(own, axis=1) | has_features)[:, None]
    given = (grouped(points), grouped(own), grouped(real))
    state, losses = jax.lax.scan(one_group, list(state), given)
    return state, losses.reshape(-1)[:examples]
