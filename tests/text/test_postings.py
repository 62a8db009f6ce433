"""Postings score like a matrix, whatever came and went."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.text.postings import Postings, best, inverse_document_frequency


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), min_size=1, max_size=25))
def test_postings_in_segments_score_like_a_matrix(seed, sizes):
    check_postings(seed, sizes)


def test_frequent_features_are_spread_out():
    check_postings(0, [5000, 3000, 10])


def check_postings(seed, sizes):
    rng = np.random.default_rng(seed)
    dense = rng.random((sum(sizes), 20), np.float32) * (rng.random((sum(sizes), 20)) < 0.3)
    postings = Postings(20)
    first = 0
    for size in sizes:
        block = dense[first : first + size]
        rows, columns = np.nonzero(block)
        offsets = np.searchsorted(rows, np.arange(size + 1))
        postings.add(offsets, columns.astype(np.int32), block[rows, columns])
        first += size
    query = np.array([3, 7, 11, 19], np.int32)
    weights = rng.random(4, np.float32)
    np.testing.assert_allclose(
        postings.score(query, weights), dense[:, query] @ weights, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(postings.document_frequency, np.count_nonzero(dense, axis=0))
    if sum(sizes):
        again = Postings.restore(20, postings.arrays())
        np.testing.assert_array_equal(again.score(query, weights), postings.score(query, weights))


def rows_of(rng, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of 20 features, the first of which most documents have, some of them twice."""
    counts = rng.integers(1, 5, (count, 20)) * (
        rng.random((count, 20)) < np.geomspace(0.9, 0.02, 20)
    )
    rows, columns = np.nonzero(counts)
    again = rng.integers(1, 3, rows.size)
    values = np.repeat(counts[rows, columns], again).astype(np.float32)
    rows, columns = np.repeat(rows, again), np.repeat(columns, again)
    return np.searchsorted(rows, np.arange(count + 1)), columns.astype(np.int32), values


@pytest.mark.parametrize("compact", [False, True])
def test_weights_follow_every_change(compact):
    """Lists that are spread out and others, weighed all at once or when they are asked for."""
    rng = np.random.default_rng(0)
    postings = Postings(20, k1=1.2, b=0.75)
    parts = [rows_of(rng, count) for count in (4000, 2500, 3, 1)]
    query, weights = np.arange(0, 20, 3, dtype=np.int32), rng.random(7, np.float32)
    texts = []
    for offsets, features, values in parts:
        postings.add(offsets, features, values)
        texts += [(features[a:b], values[a:b]) for a, b in itertools.pairwise(offsets)]
        if len(texts) > 6500:
            for number in (7, 3999, 5000, len(texts) - 1):
                if postings.alive[number]:
                    postings.remove(number, texts[number][0])
        alive = np.flatnonzero(postings.alive)
        if compact and len(texts) > 6500:
            numbers = postings.compact()
            np.testing.assert_array_equal(numbers[alive], np.arange(alive.size))
            texts = [texts[n] for n in alive]
            alive = np.arange(alive.size)
        fresh = Postings(20, k1=1.2, b=0.75)
        sizes = [texts[n][0].size for n in alive]
        fresh.add(
            np.concatenate([[0], np.cumsum(sizes)]),
            np.concatenate([texts[n][0] for n in alive]),
            np.concatenate([texts[n][1] for n in alive]),
        )
        assert postings.num_alive == fresh.num_alive == alive.size
        assert postings.mean_length == fresh.mean_length
        np.testing.assert_array_equal(postings.document_frequency, fresh.document_frequency)
        ours, right = postings.score(query, weights), fresh.score(query, weights)
        np.testing.assert_array_equal(ours[alive], right)
        for number in (0, 4, alive.size - 1):
            found = postings.weights_in(int(alive[number]), query)
            np.testing.assert_array_equal(found, fresh.weights_in(number, query))
            assert np.dot(found, weights) == pytest.approx(right[number], rel=1e-5)
    assert max(len(segment.dense) for segment in postings.segments) > 3


@pytest.mark.parametrize("count", [1, 2048, 2049, 70_000, 3e6])
def test_counts_of_any_size_are_kept(count):
    postings = Postings(4)
    postings.add(np.array([0, 1]), np.array([2], np.int32), np.array([count], np.float32))
    assert postings.score(np.array([2], np.int32), np.ones(1, np.float32)).tolist() == [count]


def test_inverse_document_frequency():
    np.testing.assert_allclose(
        inverse_document_frequency(np.array([0, 1, 10]), 10),
        np.log(1 + np.array([10.5 / 0.5, 9.5 / 1.5, 0.5 / 10.5])),
        rtol=1e-6,
    )


def test_best_ranks_equal_scores_by_number():
    scores = np.array([1, 2, 2, -np.inf, 2, 0], np.float32)
    assert best(scores, 10).tolist() == [1, 2, 4, 0, 5, -1]
    for k in range(1, 6):
        assert best(scores, k).tolist() == [1, 2, 4, 0, 5][:k]
    many = np.random.default_rng(0).integers(0, 500, 20_001).astype(np.float32)
    for k in (1, 10, 77, 20_000):
        assert best(many, k).tolist() == np.argsort(-many, kind="stable")[:k].tolist()
