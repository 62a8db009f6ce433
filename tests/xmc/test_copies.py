"""Near copies among the points, and what they buy: label trees beyond the usual budget."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_points import points_of

from sparse_jax import xmc
from sparse_jax.data import to_csr
from sparse_jax.data.csr import concatenate
from sparse_jax.xmc import copies, mixing, presets

WORDS, LABELS = 60, 8


def drawn(rng, count, *, kinds):
    """Points of four words each: of so many kinds, if kinds, each word of its own otherwise."""
    models = [np.sort(rng.choice(WORDS, 4, replace=False)) for _ in range(kinds or count)]
    rows = [models[i % len(models)] for i in range(count)]
    return points_of(
        [([int(row.sum()) % LABELS], dict.fromkeys(map(int, row), 1.0)) for row in rows],
        num_features=WORDS,
        num_labels=LABELS,
    )


@pytest.mark.parametrize("near", [0.25, 0.5, 0.75])
def test_half_of_the_points_must_have_a_near_copy(near):
    rng = np.random.default_rng(0)
    others = drawn(rng, 90, kinds=0)
    dense = to_csr(others).features.toarray()
    fresh = drawn(np.random.default_rng(1), 400, kinds=0)
    like = (to_csr(fresh).features.toarray() @ dense.T).max(axis=1) / 4
    strange = np.flatnonzero(like < copies.NEAR)
    count = round(40 * near)
    # It is their direction that counts, not their length.
    found = others.take(np.arange(count))
    shorter = found.feature_values * np.float32(1e-31)
    found = dataclasses.replace(found, feature_values=shorter)
    rest = fresh.take(strange[: 40 - count])
    assert copies.are_usual(concatenate(found, rest), others) == (near >= 0.5)


def test_points_without_words_have_no_copies():
    empty = points_of([([0], {})] * 4, num_features=WORDS, num_labels=LABELS)
    assert not copies.are_usual(empty, empty)
    assert not copies.are_usual(empty.take(np.arange(0)), empty)
    assert not copies.are_usual(empty, empty.take(np.arange(0)))


@pytest.mark.parametrize(("kinds", "trees"), [(20, 3), (0, 0)])
def test_copies_buy_trees_beyond_the_usual_budget(monkeypatch, kinds, trees):
    points = drawn(np.random.default_rng(2), 400, kinds=kinds)
    small = dataclasses.replace(presets.PRESETS["fast"], tree_labels=400)
    monkeypatch.setitem(presets.PRESETS, "fast", small)
    chosen = []

    def choose(model, held_out):
        chosen.append(held_out.num_points)
        return model

    monkeypatch.setattr(mixing, "choose_tree_weight", choose)
    model = xmc.fit(points, weighting="none")
    assert len(model.trees) == trees
    assert bool(chosen) == bool(trees), "their weight follows held-out points"
