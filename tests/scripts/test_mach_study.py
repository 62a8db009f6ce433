"""The study of labels that share rows: its points, and what it tells."""

from __future__ import annotations

import json
import sys

import mach
import numpy as np
import pytest

from sparse_jax.ops.mach import Buckets


def test_points_are_of_their_seed_and_tell_their_labels():
    points = mach.clustered(3000, 400, seed=1, features=5000)
    again = mach.clustered(3000, 400, seed=1, features=5000)
    assert points.feature_ids.tobytes() == again.feature_ids.tobytes()
    counts = np.bincount(points.label_ids, minlength=400)
    assert counts[:40].sum() > counts[-200:].sum()  # a power law
    for point in range(200):
        labels = points.label_ids[slice(*points.label_offsets[point : point + 2])]
        assert labels.size == 1 or labels[0] % 8 == labels[1] % 8  # of one cluster
        features = points.feature_ids[slice(*points.feature_offsets[point : point + 2])]
        which = np.arange(mach.OWN)
        for label in labels:
            own = mach.feature_of(np.full(mach.OWN, label), which, 2, 5000)
            assert np.isin(own, features).any()


def test_buckets_of_points():
    points = mach.clustered(50, 40, seed=1, features=5000)
    buckets = Buckets(40, 16, repetitions=3)
    hashed = mach.as_buckets(points, buckets)
    assert hashed.num_labels == 48 and hashed.num_points == 50
    assert (np.diff(hashed.label_offsets) <= 3 * np.diff(points.label_offsets)).all()


@pytest.mark.slow
@pytest.mark.parametrize("merged", [[], ["--merged"]])
def test_it_tells_what_it_found(merged, monkeypatch, capsys):
    options = "made --labels 300 --points 900 --test-points 100 --buckets 64 --hidden 16".split()
    monkeypatch.setattr(sys, "argv", ["mach.py", *options, *merged])
    assert mach.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 256 and told["labels"] == 300 and told["p@1"] >= 0
