"""Centroids and names in the wide part: against NumPy, and that held-out points choose right."""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from small_points import points_of

from sparse_jax import xmc
from sparse_jax.data import to_csr, weighting
from sparse_jax.xmc import closed_form, inference, names, neighbours
from sparse_jax.xmc.soft_labels import Weighted

pytestmark = pytest.mark.usefixtures("quick_compiles")


def some_points(n=60, num_features=30, num_labels=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        labels = rng.choice(num_labels, rng.integers(0, 4), replace=False).tolist()
        values = {int(f): float(rng.integers(1, 4)) for f in rng.choice(num_features, 5)}
        rows.append((labels, values))
    return points_of(rows, num_features, num_labels)


def dense(points):
    x = to_csr(points).features.toarray()
    y = np.zeros((points.num_points, points.num_labels), np.float32)
    for row in range(points.num_points):
        own = slice(points.label_offsets[row], points.label_offsets[row + 1])
        y[row, points.label_ids[own]] = 1
    return x, y


# ------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("weighted", [False, True])
def test_centroids_are_sums_of_points_over_a_power_of_their_length(weighted):
    points = some_points()
    x, y = dense(points)
    scale = np.median(np.linalg.norm(x, axis=1))
    weights = None
    if weighted:
        weights = np.random.default_rng(1).uniform(0.1, 1, points.label_ids.size).astype(np.float32)
        y[y > 0] = weights  # ids ascend in a row, as np.nonzero gives them
    total = (x / scale).T @ y
    total /= np.maximum(np.linalg.norm(total, axis=0), 1e-9) ** 0.75
    total[total < 0.02] = 0
    found = closed_form.centroids_of(Weighted(points, weights)).toarray()
    np.testing.assert_allclose(found, total, rtol=1e-5, atol=1e-6)


def test_features_of_very_many_labels_are_left_out(monkeypatch):
    points = some_points()
    whole = closed_form.centroids_of(Weighted(points))
    longest = np.diff(whole.indptr).max()
    monkeypatch.setattr(closed_form, "_LONGEST", longest - 1)
    found = closed_form.centroids_of(Weighted(points)).toarray()
    long = np.diff(whole.indptr) == longest
    assert long.any() and not found[long].any()
    np.testing.assert_array_equal(found[~long], whole.toarray()[~long])


def cosine_of_grams(a, b):
    """Of weights log(1 + count) · idf, with markers of a word's beginning and end."""
    dot = sum(a[g] * b[g] for g in a)
    return dot / np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))


def test_spelling_is_the_squared_cosine_of_grams():
    words = ["beneficial", "benefit", "whirl", "swirl", "dog"]
    labels = ["Benefice", "whirling", "cat"]
    found = names.pairs(labels, words, np.ones(5, int))["spelling"].toarray()
    grams = []
    for name in [*words, *(label.casefold() for label in labels)]:
        marked = f" {name} "
        sizes = range(3, 6)
        grams.append(Counter(marked[i : i + n] for n in sizes for i in range(len(marked) - n + 1)))
    frequency = Counter(g for own in grams for g in own)
    idf = {g: np.log((1 + len(grams)) / (1 + n)) + 1 for g, n in frequency.items() if n > 1}
    grams = [
        {g: np.log1p(n) * idf[g] if g in idf else 0.0 for g, n in own.items()} for own in grams
    ]
    # The library's rows hold only n-grams that two names share: lengths are of those.
    for i, word in enumerate(grams[:5]):
        for j, label in enumerate(grams[5:]):
            if not any(word.values()) or not any(label.values()):
                assert found[i, j] == 0
                continue
            cosine = cosine_of_grams(Counter(word), Counter(label))
            assert found[i, j] == pytest.approx(cosine**2 if cosine > 0.35 else 0, abs=1e-5)
    assert found[0, 0] > 0 and found[2, 1] > 0 and not found[4].any()


def test_names_that_are_equal_count_once_and_case_does_not():
    found = names.pairs(["Red Apple", "PEAR", "pear"], ["pear", "apple", "plum"], np.ones(3, int))
    assert found["same"].toarray().tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert found["spelling"].toarray()[0, 1:].tolist() == [0, 0]
    assert found["part"].toarray()[1, 0] == 1


def test_names_without_likeness_give_nothing():
    found = names.pairs(["12", "x"], ["abc", "xyz"], np.ones(2, int))
    assert not any(matrix.nnz for matrix in found.values())


# ------------------------------------------------------------------------------------------- choice


def fitted(points, **names):
    model = xmc.fit(points, **names)
    return model, weighting.apply(weighting.fit(points, "auto"), points)


def test_added_weights_add_their_products_to_scores():
    points = some_points()
    model, _ = fitted(points)
    rng = np.random.default_rng(3)
    more = sp.random(30, 12, 0.2, random_state=rng, dtype=np.float32, format="csr")
    more.data[:5] = (0.001, -0.001, 0.01, -0.02, 0.02)  # the first three bring 0.025 at most
    found = closed_form.add(model, {"a": more, "b": 2 * more}, {"a": 0.5, "b": 1.0})
    more.data[:3] = 0
    before = closed_form._as_matrix(model.wide).toarray()
    after = closed_form._as_matrix(found.wide)
    np.testing.assert_allclose(after.toarray(), before + 2.5 * more.toarray(), rtol=1e-5, atol=1e-6)
    for f in range(30):
        own = after.indices[after.indptr[f] : after.indptr[f + 1]]
        assert (np.diff(own) > 0).all()
    assert closed_form.add(model, {"a": more}, {}) is model


def with_network(model, dim=6):
    rng = np.random.default_rng(4)
    labels, features = model.num_labels, model.num_features
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    return dataclasses.replace(
        model,
        encoders=({"embedding": draw(features, dim), "hidden_bias": draw(dim)},),
        output=draw(labels, dim),
        output_bias=draw(labels),
        mix=dataclasses.replace(model.mix, weight=jnp.float32(4)),
    )


@pytest.mark.parametrize("network", [False, True])
def test_candidates_rank_as_the_whole_model_would(network, monkeypatch):
    points = some_points(n=200, num_labels=40, num_features=60)
    model, weighted = fitted(points)
    model = dataclasses.replace(with_network(model) if network else model, trees=())
    rng = np.random.default_rng(3)
    parts = {
        kind: sp.random(60, 40, 0.1, random_state=rng, dtype=np.float32, format="csr")
        for kind in ("centroid", "same")
    }
    known = np.ones(40, bool)
    monkeypatch.setattr(closed_form, "_CANDIDATES", 20)  # the others' scores are estimated
    monkeypatch.setattr(closed_form, "_LEAST", 0.0)  # the ranking is that of all weights
    ranked = closed_form._candidates(model, parts, weighted, known)
    for chosen in ({}, {"centroid": 1.6}, {"centroid": 0.4, "same": 2.0}):
        whole = inference.best_of_all(closed_form.add(model, parts, chosen), weighted, k=5)
        _, y = dense(points)
        hits = np.take_along_axis(y, whole.ids, axis=1)
        expected = hits[:, 0] + hits.mean(axis=1)
        np.testing.assert_allclose(ranked.quality(chosen), expected, atol=1e-6)


def named_points(seed, *, by_name, n=400):
    """Each point holds a few words; its label is the one called like the first, or a fixed one."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        words = rng.choice(200, 4, replace=False)
        label = int(words[0]) if by_name else int(words[0] * 7 % 200)
        rows.append(([label], {int(w): (3.0 if w == words[0] else 1.0) for w in words}))
    return points_of(rows, 200, 200)


NAMES = tuple(f"w{'abcdefghij'[i // 20]}{'klmnopqrstuvwxyzabcd'[i % 20]}q" for i in range(200))


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_names_teach_what_few_points_cannot(preset, monkeypatch):
    monkeypatch.setattr(neighbours, "fit", lambda points: None)  # which know it as well
    n = dict(fast=400, accurate=500)[preset]
    points, test = named_points(0, by_name=True, n=n), named_points(1, by_name=True)
    plain = xmc.fit(points, preset=preset)
    named = xmc.fit(points, preset=preset, label_names=NAMES, feature_names=NAMES)

    def p1(model):
        return float((xmc.predict(model, test, k=1).labels[:, 0] == test.label_ids).mean())

    assert p1(named) > p1(plain) + 0.03, (p1(named), p1(plain))


def test_names_that_mislead_are_left_out():
    points = named_points(0, by_name=False)
    plain = xmc.fit(points)
    named = xmc.fit(points, label_names=NAMES, feature_names=NAMES)
    found = closed_form._as_matrix(named.wide) - closed_form._as_matrix(plain.wide)
    same = names.pairs(NAMES, NAMES, np.ones(200, int))["same"]
    assert found.multiply(same).max() <= 0  # nothing speaks for a label called like the word


def test_labels_that_only_held_out_points_have_do_not_choose():
    points = some_points()
    model, weighted = fitted(points)
    part = sp.csr_matrix(np.eye(30, 12, dtype=np.float32))
    known = np.zeros(12, bool)
    assert closed_form.choose(model, {"same": part}, weighted, known) == {}


def test_a_model_with_parts_is_saved_whole(tmp_path):
    points = named_points(0, by_name=True)
    model = xmc.fit(points, label_names=NAMES, feature_names=NAMES)
    xmc.save(model, tmp_path / "model")
    found = xmc.predict(xmc.load(tmp_path / "model"), points, k=3)
    expected = xmc.predict(model, points, k=3)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_madds_of_centroids_are_counted():
    points = some_points()
    x, y = dense(points)
    expected = ((x != 0).sum(axis=1) * y.sum(axis=1)).sum()
    assert closed_form.madds(points, {"centroid": sp.csr_matrix((1, 1))}) == expected
    assert closed_form.madds(points, {}) == 0


def test_new_labels_are_known_by_their_names(monkeypatch):
    """Points of 40 labels come later; by their names the model knows words that no point had."""
    points = named_points(0, by_name=True, n=1200)
    is_new = points.label_ids >= 160
    first = dataclasses.replace(points.take(np.flatnonzero(~is_new)), num_labels=160)
    model = xmc.fit(first, label_names=NAMES[:160], feature_names=NAMES)
    notes = model.about.notes | {"closed_form": {"centroid": 0.2, "same": 1.0}}
    model = dataclasses.replace(model, about=dataclasses.replace(model.about, notes=notes))
    more = points.take(np.flatnonzero(is_new))
    found = xmc.update(model, more, label_names=NAMES, feature_names=NAMES)
    monkeypatch.setattr(closed_form, "names_of", lambda about, labels, points: none)
    none = sp.csr_matrix((200, 200), dtype=np.float32)
    plain = xmc.update(model, more, label_names=NAMES, feature_names=NAMES)
    weights = [closed_form._as_matrix(m.wide).toarray() for m in (plain, found)]
    same = np.eye(200, dtype=bool)
    added = (weights[1] - weights[0])[same]
    np.testing.assert_allclose(added, [0.0] * 160 + [1.0] * 40, atol=1e-5)


def test_names_that_were_not_chosen_say_nothing():
    points = named_points(0, by_name=False)
    model = xmc.fit(points)
    found = closed_form.names_of(model.about, np.arange(3), points)
    assert found.shape == (200, 200) and not found.nnz
