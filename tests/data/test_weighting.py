"""Which weighting is chosen, and that each gives the right values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from points import assert_same, make_data

from sparse_jax.data import XmcData, apply_tfidf, fit_idf, weighting
from sparse_jax.data.xmc import with_values


def points_of(rows, num_features=40) -> XmcData:
    """Points with these values of features 0, 1, 2, ..."""
    counts = np.array([len(row) for row in rows], np.int64)
    return XmcData(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([np.arange(c) for c in counts] or [[]]).astype(np.int32),
        np.array([v for row in rows for v in row], np.float32),
        np.zeros(len(rows) + 1, np.int64),
        np.zeros(0, np.int32),
        num_features=num_features,
        num_labels=3,
    )


WORDS = make_data(np.random.default_rng(0), points=200, features=80)
TAGS = with_values(WORDS, np.ones_like(WORDS.feature_values))


def unit(points: XmcData) -> XmcData:
    return weighting.apply(weighting.Weighting(None), points)


@pytest.mark.parametrize(
    ("points", "name", "reason"),
    [
        (WORDS, "tfidf", "all feature values are whole numbers up to 5"),
        (TAGS, "tfidf", "all feature values are 0 or 1"),
        (with_values(WORDS, WORDS.feature_values * 3), "tfidf", "whole numbers up to 15"),
        (with_values(WORDS, WORDS.feature_values * 0), "tfidf", "0 or 1"),
        (with_values(WORDS, WORDS.feature_values / 2), "none", "have fractions"),
        (apply_tfidf(WORDS, fit_idf(WORDS)), "none", "have fractions, so they are weights already"),
        (apply_tfidf(TAGS, fit_idf(TAGS)), "none", "have fractions"),
        (unit(WORDS), "none", "have fractions"),
        (unit(TAGS), "none", "have fractions"),
        (points_of([[1, 2], [1, 2.5]]), "none", "1 of the 4 feature values have fractions"),
        (points_of([[1, 2], [1, -2]]), "none", "1 of the 4 feature values are negative"),
        (points_of([[1, 2], [1, 2**24]]), "tfidf", "whole numbers up to 1.67772e+07"),
        (points_of([[1, 2], [1, 2**24 + 2]]), "none", "among the feature values is no count"),
        (points_of([[1, 2], [1, 0]]), "tfidf", "whole numbers up to 2"),
        (points_of([[1, 2], [1, 2e9]]), "none", "2e+09 among the feature values is no count"),
        (points_of([[1, 2, 1], [1, 2]], num_features=3), "none", "83% of all features"),
        (points_of([[]]), "none", "there are no feature values"),
        (points_of([]), "none", "there are no feature values"),
    ],
)
def test_choice(points, name, reason):
    choice = weighting.choose(points)
    assert choice.name == name
    assert reason in choice.reason
    assert (weighting.fit(points).idf is None) == (name == "none")
    assert weighting.fit(points, "auto").name == name


def test_the_choice_of_real_sets():
    """Shapes and values as in bibtex and delicious: 0 or 1, 4 % of the features present."""
    rng = np.random.default_rng(1)
    rows = [np.ones(rng.integers(0, 40)) for _ in range(50)]
    assert weighting.choose(points_of(rows, 500)).name == "tfidf"


def test_tfidf_is_what_it_was():
    got = weighting.apply(weighting.fit(WORDS, "tfidf"), WORDS)
    assert_same(got, apply_tfidf(WORDS, fit_idf(WORDS)))
    assert weighting.fit(WORDS, "tfidf").idf.dtype == np.float32
    # Forced where it wouldn't be chosen; new points get the training points' frequencies.
    half = with_values(WORDS, WORDS.feature_values / 2)
    learned = weighting.fit(half, "tfidf")
    some = half.take([3, 1])
    assert_same(weighting.apply(learned, some), apply_tfidf(some, fit_idf(WORDS)))


VALUES = st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(VALUES, max_size=5), max_size=5), st.sampled_from([1e-3, 1, 100, 1e30]))
def test_without_weighting_rows_have_unit_length(rows, factor):
    points = points_of(rows)
    learned = weighting.fit(points, "none")
    scaled = with_values(points, (points.feature_values * np.float32(factor)))
    got = weighting.apply(learned, scaled)
    expected = []
    for row in rows:
        row = np.array(row, np.float64)
        norm = np.sqrt((row * row).sum())
        expected += list(row / norm if norm else row)
    np.testing.assert_allclose(got.feature_values, np.array(expected), rtol=1e-5)
    assert got.feature_values.dtype == np.float32
    assert_same(dataclasses.replace(got, feature_values=scaled.feature_values), scaled)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
    good = points_of([[1, 2], [], [1, 2, 3]])
    bad = points_of([[1, 2], [], [1, value, 3]])
    message = f"feature_values = {value} in point 2, feature 1: must be finite"
    for name in weighting.NAMES:
        with pytest.raises(ValueError, match=message):
            weighting.fit(bad, name)
        with pytest.raises(ValueError, match=message):
            weighting.apply(weighting.fit(good, name), bad)
    with pytest.raises(ValueError, match=message):
        weighting.choose(bad)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="name = 'idf': must be one of auto, tfidf, none"):
        weighting.fit(WORDS, "idf")
    learned = weighting.fit(WORDS, "tfidf")
    with pytest.raises(ValueError, match=r"feature_values = -1.0: must be counts"):
        weighting.apply(learned, points_of([[-1]], num_features=80))
    with pytest.raises(ValueError, match=r"idf.shape = \(80,\): must be \(40,\)"):
        weighting.apply(learned, points_of([[1]]))
    with pytest.raises(ValueError, match="must be counts"):
        weighting.fit(points_of([[-1]]), "tfidf")
