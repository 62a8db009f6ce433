"""Generated batches in the shape of Amazon-670K, the same for every peer of a benchmark."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparse_jax import data


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the problem; the defaults are those of Amazon-670K."""

    num_features: int = 135_909
    num_labels: int = 670_091
    hidden: int = 128
    features: int = 75  # of a point
    labels: int = 5  # of a point
    batch_size: int = 1024
    active: int = 4096
    learning_rate: float = 1e-3

    @property
    def parameters(self) -> int:
        """Scalars of all weights and biases."""
        return (self.num_features + self.num_labels) * self.hidden + self.hidden + self.num_labels


def make_batches(shape: Shape, count: int, *, seed: int = 0) -> list[data.Batch]:
    """`count` batches of points whose features and labels follow Zipf's law.

    The rank of an id is its place in a seeded permutation, so that frequent rows do not lie
    together in memory.
    """
    rng = np.random.default_rng(seed)
    points = count * shape.batch_size
    features = _draw(rng, points, shape.features, shape.num_features)
    labels = _draw(rng, points, shape.labels, shape.num_labels)
    values = rng.random(features.size, np.float32) + np.float32(0.1)
    values /= np.sqrt(np.sum(values.reshape(points, -1) ** 2, axis=1)).repeat(shape.features)
    made = data.XmcData(
        np.arange(0, features.size + 1, shape.features),
        features.reshape(-1),
        values,
        np.arange(0, labels.size + 1, shape.labels),
        labels.reshape(-1),
        num_features=shape.num_features,
        num_labels=shape.num_labels,
    )
    return list(data.batches(made, shape.batch_size))


def most_distinct(batches: list[data.Batch]) -> tuple[int, int]:
    """Distinct features and labels of the fullest batch."""
    features = max(np.unique(b.feature_ids[b.feature_ids >= 0]).size for b in batches)
    labels = max(np.unique(b.label_ids[b.label_ids >= 0]).size for b in batches)
    return features, labels


def _draw(rng: np.random.Generator, points: int, each: int, most: int) -> np.ndarray:
    """int32 [points, each]: distinct within a point, Zipf-distributed ids below `most`."""
    weights = 1.0 / np.arange(1, most + 1)
    edges = np.cumsum(weights / weights.sum())
    names = rng.permutation(most).astype(np.int32)
    drawn = np.searchsorted(edges, rng.random((points, each)))
    while True:
        # Repeats within a point are drawn again until there are none.
        drawn.sort(axis=1)
        repeats = np.zeros(drawn.shape, bool)
        repeats[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        if not repeats.any():
            return names[np.minimum(drawn, most - 1)]
        drawn[repeats] = np.searchsorted(edges, rng.random(int(repeats.sum())))
