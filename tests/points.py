"""Points for tests of the data room: random ones, and their comparison bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.xmc import offsets_of


def assert_same(a: XmcData, b: XmcData) -> None:
    for field in dataclasses.fields(XmcData):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes(), field.name
        else:
            assert x == y, field.name


def make_data(rng, *, points=37, features=50, labels=20, most=9) -> XmcData:
    """Random ragged data in which some points have no features or no labels."""

    def sides(width, highest):
        counts = rng.integers(0, highest + 1, points)
        ids = [rng.permutation(width)[:c].astype(np.int32) for c in counts]
        return offsets_of(counts), np.concatenate([*ids, np.zeros(0, np.int32)])

    feature_offsets, feature_ids = sides(features, most)
    label_offsets, label_ids = sides(labels, 3)
    values = rng.integers(1, 6, feature_ids.size).astype(np.float32)
    return XmcData(feature_offsets, feature_ids, values, label_offsets, label_ids, features, labels)
