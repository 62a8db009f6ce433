"""Transitions and the closed form against plain references."""

from __future__ import annotations

import numpy as np
from walks import chains

from sparse_jax import data
from sparse_jax.recommend import pairs
from sparse_jax.recommend.model import Mix


def test_counts_are_those_of_a_loop():
    histories = data.of_lists([["a", "b", "a", "c"], ["c"], ["b", "c"]])
    expected = np.zeros((3, 3))
    for row in range(3):
        items = histories.of(row)
        for j in range(len(items)):
            for i in range(j):
                expected[items[i], items[j]] += (j - i) ** -0.5
    np.testing.assert_allclose(pairs.count(histories, window=20).toarray(), expected)


def test_counts_stop_at_the_window():
    items = [f"i{n:03}" for n in range(30)]
    counts = pairs.count(data.of_lists([items]), window=20).toarray()
    assert counts[0, 20] > 0 and counts[0, 21] == 0


def test_closed_form_is_ease():
    histories = chains(80, 12)
    users = np.repeat(np.arange(80), histories.lengths)
    seen = np.zeros((80, 12))
    seen[users, histories.items] = 1
    precision = np.linalg.inv(seen.T @ seen + 100 * np.eye(12))
    expected = precision / -np.diag(precision)
    np.fill_diagonal(expected, 0)
    found = pairs.to_matrix(pairs.closed_form(histories)).toarray()
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_the_largest_pairs_are_kept(monkeypatch):
    monkeypatch.setattr(pairs, "_KEPT", 2)
    counts = pairs.from_matrix(pairs.count(chains(), window=20))
    kept = pairs.to_matrix(pairs.mixed(counts, None, Mix(1, 0.5, 0))).toarray()
    every = pairs.scaled(pairs.to_matrix(counts)).toarray()
    assert ((kept > 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(
        np.sort(every, axis=1)[:, -2:].sum(axis=1), kept.sum(axis=1), rtol=1e-6
    )
