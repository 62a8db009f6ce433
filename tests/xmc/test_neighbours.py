"""Neighbours in a model: chosen where copies say more than words, kept, saved, and added to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_points import points_of

from sparse_jax import xmc
from sparse_jax.data import to_csr
from sparse_jax.xmc import metrics, neighbours
from sparse_jax.xmc.soft_labels import Weighted

WORDS, LABELS, EACH = 50, 30, 40
pytestmark = pytest.mark.usefixtures("quick_compiles")


def copies(seed: int, count: int, *, alike: bool):
    """Points of 8 words of 50, and near copies of these: labels at random, but alike for copies."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(7).permuted(np.tile(np.arange(WORDS), (300, 1)), axis=1)[:, :8]
    rows = []
    for _ in range(count):
        kind = int(rng.integers(300))
        words = {int(w) for w in kinds[kind]} | {int(rng.integers(WORDS))}
        label = kind * 7919 % LABELS if alike else int(kinds[kind][0]) % LABELS
        rows.append(({label}, dict.fromkeys(words, 1.0)))
    return points_of(rows, WORDS, LABELS)


@pytest.fixture(scope="module")
def model():
    return xmc.fit(copies(0, 3000, alike=True))


def precision(model: xmc.Model, points) -> float:
    found = xmc.predict(model, points, k=1).labels
    return metrics.precision_at_k(found, points.label_offsets, points.label_ids, 1)


def test_copies_are_asked_where_words_know_less(model):
    test = copies(1, 500, alike=True)
    assert model.neighbours is not None and model.neighbours.num_points == 3000
    assert model.neighbours.weight > 0
    without = dataclasses.replace(model, neighbours=None)
    assert precision(model, test) > precision(without, test) + 0.05
    assert model.nbytes() > without.nbytes()


def test_a_model_that_gains_nothing_keeps_no_points():
    points = points_of([({i % 3}, {i % 3: 1.0, 3 + i % 5: 1.0}) for i in range(400)], 8, 3)
    assert xmc.fit(points).neighbours is None


def test_a_saved_model_is_the_same(model, tmp_path):
    xmc.save(model, tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, xmc.load(tmp_path / "m"), model)


def test_an_update_adds_its_points(model):
    fresh = points_of([({LABELS}, {0: 1.0, WORDS: 1.0})] * EACH, WORDS + 1, LABELS + 1)
    grown = xmc.update(model, fresh)
    near = grown.neighbours
    assert near.num_points == 3000 + EACH and near.offsets.size == WORDS + 2
    assert np.asarray(near.label_ids)[-EACH:].tolist() == [LABELS] * EACH
    assert precision(grown, fresh) == 1.0
    assert (
        precision(grown, copies(1, 500, alike=True))
        > precision(model, copies(1, 500, alike=True)) - 0.02
    )


def test_points_added_are_as_if_all_were_indexed():
    points = copies(3, 400, alike=True)
    first, second = points.take(np.arange(300)), points.take(np.arange(300, 400))
    weights = np.linspace(0.1, 2, points.label_ids.size).astype(np.float32)
    whole = neighbours.fit(Weighted(points, weights))
    near = neighbours.fit(Weighted(first, weights[:300]))
    usual = np.ones(WORDS, bool)
    grown = neighbours.add(near, Weighted(second, weights[300:]), LABELS, usual=usual)
    jax.tree.map(np.testing.assert_array_equal, grown, whole)
    assert float(whole.label_weights.max()) == 1.0


def test_features_of_too_many_points_are_left_out(monkeypatch):
    monkeypatch.setattr(neighbours, "_LONGEST", 200)
    rows = [({0}, {0: 1.0, 1 + i % 20: 1.0}) for i in range(2200)]
    points = points_of(rows, 21, 1)
    near = neighbours.fit(Weighted(points))
    counts = np.diff(np.asarray(near.offsets))
    assert counts[0] == 0 and (counts[1:] == 110).all()
    # The length is that of all features.
    np.testing.assert_allclose(near.values, np.sqrt(0.5), rtol=1e-6)
    usual = np.ones(21, bool)
    later = neighbours.add(near, Weighted(points.take(np.arange(5))), 1, usual=usual)
    assert np.diff(np.asarray(later.offsets))[0] == 0
    # A list that grows too long is left out as well.
    later = neighbours.add(near, Weighted(points), 1, usual=usual)
    assert not np.diff(np.asarray(later.offsets)).any()
    monkeypatch.setattr(neighbours, "_VISITS", 1)
    assert neighbours.fit(Weighted(points)) is None


def test_a_feature_that_no_point_had_is_indexed_with_the_first_that_has_it():
    """Its id may lie within the model's: hashed features, a vocabulary from elsewhere."""
    first = dataclasses.replace(copies(0, 3000, alike=True), num_features=WORDS + 9)
    fresh = points_of([({3}, {0: 1.0, WORDS + 4: 1.0})] * EACH, WORDS + 9, LABELS)
    near = xmc.update(xmc.fit(first), fresh).neighbours
    counts = np.diff(np.asarray(near.offsets))
    assert counts[WORDS + 4] == EACH and not counts[WORDS + 5 :].any()


def test_few_held_out_points_choose_nothing(model):
    bare, points = dataclasses.replace(model, neighbours=None), copies(5, 60, alike=True)
    assert neighbours.choose(bare, Weighted(points), points.take(np.arange(19))) is bare
    assert neighbours.choose(bare, Weighted(points), points).neighbours is not None


def test_dense_points_have_no_index():
    rng = np.random.default_rng(0)
    rows = [({0}, dict(enumerate(rng.random(4).tolist()))) for _ in range(2100)]
    assert neighbours.fit(Weighted(points_of(rows, 4, 1))) is None


def test_the_index_holds_the_points():
    points = copies(5, 50, alike=True)
    near = neighbours.fit(Weighted(points))
    dense = to_csr(points).features.toarray()
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    found = np.zeros_like(dense)
    features = np.repeat(np.arange(WORDS), np.diff(np.asarray(near.offsets)))
    found[np.asarray(near.point_ids), features] = near.values
    np.testing.assert_allclose(found, dense, rtol=1e-6)


def test_without_held_out_points_nothing_is_chosen(model):
    points = copies(5, 50, alike=True)
    near = neighbours.fit(Weighted(points))
    assert float(near.weight) == 0.0
    bare = dataclasses.replace(model, neighbours=None)
    assert neighbours.choose(bare, Weighted(points), points.take(np.arange(0))) is bare
    nobody = Weighted(points.take(np.arange(0)))  # of whom there is no index
    assert neighbours.choose(bare, nobody, points) is bare


def test_a_weight_of_nothing_changes_no_score(model):
    test = copies(1, 50, alike=True)
    off = dataclasses.replace(model.neighbours, weight=jnp.float32(0))
    found = xmc.predict(dataclasses.replace(model, neighbours=off), test)
    want = xmc.predict(dataclasses.replace(model, neighbours=None), test)
    np.testing.assert_array_equal(found.labels, want.labels)
    np.testing.assert_array_equal(found.scores, want.scores)
