"""Points from plain Python."""

from __future__ import annotations

import numpy as np

from sparse_jax import data


def points_of(rows, num_features, num_labels):
    """XmcData of (labels, {feature: value}) pairs."""
    labels = [sorted(own) for own, _ in rows]
    features = [sorted(own.items()) for _, own in rows]
    return data.XmcData(
        data.xmc.offsets_of(np.array([len(f) for f in features])),
        np.array([i for f in features for i, _ in f], np.int32),
        np.array([v for f in features for _, v in f], np.float32),
        data.xmc.offsets_of(np.array([len(own) for own in labels])),
        np.array([i for own in labels for i in own], np.int32),
        num_features=num_features,
        num_labels=num_labels,
    )
