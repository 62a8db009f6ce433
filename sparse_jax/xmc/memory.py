"""A sample of the training points that a model keeps: the negatives of labels it learns later."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from sparse_jax.data import XmcData, concatenate
from sparse_jax.runtime.trees import owned

KEPT = 16384  # points, at most


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Points in compressed sparse rows, their features as they were read."""

    feature_offsets: jax.Array  # int32 [n + 1]
    feature_ids: jax.Array  # int32
    feature_values: jax.Array  # float32
    label_offsets: jax.Array  # int32 [n + 1]
    label_ids: jax.Array  # int32


def keep(points: XmcData, *, seed: int) -> Memory:
    """At most KEPT of the points, each as likely as any other."""
    chosen = points
    if points.num_points > KEPT:
        chosen = points.take(sample(points.num_points, seed=seed))
    return Memory(
        owned(np.asarray(chosen.feature_offsets, np.int32)),
        owned(chosen.feature_ids),
        owned(chosen.feature_values),
        owned(np.asarray(chosen.label_offsets, np.int32)),
        owned(chosen.label_ids),
    )


def sample(total: int, *, seed: int) -> np.ndarray:
    """Which of so many points are kept: at most KEPT, ascending."""
    return np.sort(np.random.default_rng([seed, 1]).permutation(total)[:KEPT])


def recall(memory: Memory, num_features: int, num_labels: int) -> XmcData:
    """The points kept, of so many features and labels."""
    return XmcData(
        np.asarray(memory.feature_offsets, np.int64),
        np.array(memory.feature_ids),
        np.array(memory.feature_values),
        np.asarray(memory.label_offsets, np.int64),
        np.array(memory.label_ids),
        num_features=num_features,
        num_labels=num_labels,
    )


def mix(old: XmcData, seen: int, new: XmcData, *, seed: int) -> XmcData:
    """Points to keep after an update: of the old and the new ones as many as each stands for.

    Args:
      old: points kept before, a sample of `seen` points.
      seen: points that the model has been trained on.
      new: points of the update, of the same sizes.
      seed: of the choice.
    """
    total = min(KEPT, old.num_points + new.num_points)
    of_new = min(new.num_points, max(1, round(total * new.num_points / (seen + new.num_points))))
    of_old = min(old.num_points, total - of_new)
    rng = np.random.default_rng([seed, 2])
    parts = [
        points.take(np.sort(rng.permutation(points.num_points)[:count]))
        for points, count in ((old, of_old), (new, of_new))
    ]
    return concatenate(*parts)
