"""Teaching a model new points, labels and features, without training the rest anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from small_points import points_of

from sparse_jax import data, xmc
from sparse_jax.xmc import metrics
from sparse_jax.xmc.wide import is_unseen

FIXTURES = Path(__file__).parents[1] / "fixtures"


def keep_labels(points: data.XmcData, kept: np.ndarray) -> data.XmcData:
    """The points without the other labels; those that lose all of theirs go."""
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    stays = kept[points.label_ids]
    counts = np.bincount(rows[stays], minlength=points.num_points)
    fewer = dataclasses.replace(
        points,
        label_offsets=data.xmc.offsets_of(counts),
        label_ids=points.label_ids[stays],
    )
    return fewer.take(np.flatnonzero(counts))


def precision_on(model: xmc.Model, test: data.XmcData) -> float:
    found = xmc.predict(model, test, k=1).labels
    return metrics.precision_at_k(found, test.label_offsets, test.label_ids, 1)


@pytest.fixture(scope="module")
def parts():
    """(training points of the first labels, points of the new ones, test points, new labels)."""
    train, test = (data.read_xmc(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
    old = np.arange(train.num_labels) < 450
    rows = np.repeat(np.arange(train.num_points), np.diff(train.label_offsets))
    brings = np.bincount(rows[train.label_ids >= 450], minlength=train.num_points) > 0
    first = data.with_sizes(keep_labels(train, old), num_labels=450)
    return train, first, train.take(np.flatnonzero(brings)), test


def test_new_labels_are_learned_and_old_ones_kept(parts):
    train, first, more, test = parts
    before = xmc.fit(first)
    after, whole = xmc.update(before, more), xmc.fit(train)
    assert after.num_labels == train.num_labels
    rows = np.repeat(np.arange(test.num_points), np.diff(test.label_offsets))
    new = np.bincount(rows[test.label_ids >= 450], minlength=test.num_points) > 0
    of_new = keep_labels(test, np.arange(test.num_labels) >= 450)
    assert of_new.num_points > 10
    assert precision_on(after, test.take(np.flatnonzero(new))) > 0.2
    found = [precision_on(m, test) for m in (before, after, whole)]
    assert found[1] > found[2] - 0.05


def test_the_model_before_stays_as_it_was(parts):
    _, first, more, _ = parts
    model = xmc.fit(first)
    copied = jax.tree.map(np.array, model)
    xmc.update(model, more)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, model), copied)


def test_equal_updates_have_equal_bits(parts):
    _, first, more, _ = parts
    model = xmc.fit(first)
    jax.tree.map(np.testing.assert_array_equal, xmc.update(model, more), xmc.update(model, more))


def test_a_grown_model_is_whole(parts, tmp_path):
    """Trees, names and sizes fit each other, on disk as well, and it can grow again."""
    _, first, more, test = parts
    model = xmc.fit(first, label_names=[f"l{i}" for i in range(450)])
    grown = xmc.update(model, more)
    assert grown.about.label_names[:450] == model.about.label_names
    assert grown.about.label_names[470] == "label 470"
    for tree in grown.trees:
        assert sorted(np.asarray(tree.labels).tolist()) == list(range(grown.num_labels))
        assert tree.bias.size == tree.children.size - 1 + grown.num_labels
        assert (np.diff(np.asarray(tree.children)) >= 0).all()
        for f in range(tree.offsets.size - 1):
            nodes = np.asarray(tree.nodes[tree.offsets[f] : tree.offsets[f + 1]])
            assert (np.diff(nodes) > 0).all()
    xmc.save(grown, tmp_path / "m")
    again = xmc.update(xmc.load(tmp_path / "m"), more)
    assert precision_on(again, test) > 0.4


def test_new_features_count():
    """A feature that the model hasn't had is the only sign of a new label."""
    first = points_of([({i % 2}, {i % 2: 1, 2: 1}) for i in range(80)], 3, 2)
    more = points_of([({2}, {2: 1, 3: 1}) for _ in range(40)], 4, 3)
    model = xmc.update(xmc.fit(first), more)
    test = points_of([({2}, {3: 1}), ({0}, {0: 1}), ({1}, {1: 1, 2: 1})], 4, 3)
    assert xmc.predict(model, test, k=1).labels[:, 0].tolist() == [2, 0, 1]


def test_labels_that_had_no_point_get_their_first():
    first = points_of([({i % 2}, {i % 2: 1}) for i in range(80)], 3, 4)
    model = xmc.fit(first)
    assert is_unseen(np.asarray(model.wide.bias)).tolist() == [False, False, True, True]
    grown = xmc.update(model, points_of([({2}, {2: 1})] * 40, 3, 4))
    assert is_unseen(np.asarray(grown.wide.bias)).tolist() == [False, False, False, True]
    test = points_of([({2}, {2: 1}), ({0}, {0: 1})], 3, 4)
    assert xmc.predict(grown, test, k=1).labels[:, 0].tolist() == [2, 0]


def test_bad_arguments(parts):
    _, first, more, _ = parts
    model = xmc.fit(first.take(slice(0, 100)))
    with pytest.raises(ValueError, match="points is empty"):
        xmc.update(model, more.take([]))
    with pytest.raises(ValueError, match="label_names has 2 names: must have 500"):
        xmc.update(model, more, label_names=["a", "b"])
