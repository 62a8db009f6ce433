"""TF-IDF against loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from points import make_data

from sparse_jax.data import XmcData, apply_tfidf, fit_idf


def test_tfidf_against_loops():
    data = make_data(np.random.default_rng(1))
    dense = np.zeros((data.num_points, data.num_features))
    rows = np.repeat(np.arange(data.num_points), np.diff(data.feature_offsets))
    dense[rows, data.feature_ids] = data.feature_values
    idf = np.log((1 + data.num_points) / (1 + (dense > 0).sum(0))) + 1
    np.testing.assert_allclose(fit_idf(data), idf, rtol=1e-6)
    weighted = np.log1p(dense) * idf
    norms = np.linalg.norm(weighted, axis=1, keepdims=True)
    weighted /= np.where(norms > 0, norms, 1)
    got = apply_tfidf(data, fit_idf(data))
    assert got.feature_values.dtype == np.float32
    np.testing.assert_allclose(got.feature_values, weighted[rows, data.feature_ids], rtol=1e-6)


def test_tfidf_edges():
    data = make_data(np.random.default_rng(1))
    zeros = dataclasses.replace(data, feature_values=np.zeros_like(data.feature_values))
    assert not apply_tfidf(zeros, fit_idf(zeros)).feature_values.any()
    with pytest.raises(ValueError, match=r"idf.shape = \(3,\): must be \(50,\)"):
        apply_tfidf(data, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="must be counts, at least 0"):
        negative = dataclasses.replace(data, feature_values=-data.feature_values)
        apply_tfidf(negative, fit_idf(data))


def test_idf_counts_a_feature_once_a_point():
    """The right value, which points with an id twice would spoil: they can't be made."""
    points = XmcData(
        np.array([0, 1, 3]),
        np.array([0, 0, 1], np.int32),
        np.array([1, 5, 0], np.float32),  # a stored zero is no occurrence
        np.array([0, 0, 0]),
        np.array([], np.int32),
        num_features=3,
        num_labels=1,
    )
    expected = np.log(3 / np.array([3, 1, 1])) + 1
    np.testing.assert_allclose(fit_idf(points), expected, rtol=1e-6)
    empty = points.take([])
    assert fit_idf(empty).tolist() == [1, 1, 1]
    assert apply_tfidf(empty, fit_idf(points)).num_points == 0
