"""Numbers as targets: bins and sides by hand, the expectation, and what is learned of a table."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_jax import xmc
from sparse_jax.data import features
from sparse_jax.xmc import regression

pytestmark = pytest.mark.usefixtures("quick_compiles")


def make_table(rows: int, seed: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """(a table, a number, a class): both depend on columns together, the class on the last one."""
    rng = np.random.default_rng(seed)
    x, shop = rng.uniform(0, 4, rows), rng.integers(0, 3, rows)
    y = 3 * np.sin(x) * (shop - 1) + rng.normal(0, 0.2, rows)
    bought = np.zeros(rows, np.int64)
    user = rng.integers(0, 20, rows)
    last: dict[int, int] = {}
    for i, u in enumerate(user.tolist()):
        known = (last[u] + 1 + shop[i]) % 6 if u in last else rng.integers(6)
        bought[i] = last[u] = int(known) if rng.random() < 0.9 else int(rng.integers(6))
    table = {
        "x": x,
        "shop": np.array([f"s{i}" for i in shop], object),
        "user": np.array([f"u{i}" for i in user], object),
        "when": np.arange(rows).astype(float),
        "bought": np.array([f"b{i}" for i in bought], object),
    }
    return table, y, bought


def part(table: dict, rows: slice) -> dict:
    return {name: column[rows] for name, column in table.items()}


SCHEMA = features.Schema(
    (
        features.Number("x"),
        features.Category("shop"),
        features.Cross("shop", "x"),
        features.History("user", "when", "bought", count=2),
        features.Cross("history of bought", "shop"),
    )
)
TRAIN, TEST = slice(0, 1500), slice(1500, None)


@pytest.fixture(scope="module")
def points():
    """(table, number, class, training points, test points)."""
    table, y, bought = make_table(2000, seed=0)
    fitted = features.fit(part(table, TRAIN), SCHEMA)
    return y, bought, *(features.transform(fitted, part(table, rows)) for rows in (TRAIN, TEST))


def test_a_number_is_learned(points):
    y, _, train, test = points
    fitted = regression.fit_number(train, y[TRAIN])
    found = regression.predict_number(fitted, test)
    error = np.sqrt(np.mean((found - y[TEST]) ** 2))
    assert found.dtype == np.float64 and found.shape == (500,)
    assert error < 0.3 * y.std()
    assert fitted.bins.means[0] <= found.min() and found.max() <= fitted.bins.means[-1]
    again = regression.fit_number(train, y[TRAIN])
    assert np.array_equal(regression.predict_number(again, test), found)
    # Each point alone gives what it gives among others.
    alone = regression.predict_number(fitted, test.take(np.array([7])))
    np.testing.assert_allclose(alone, found[7:8], rtol=1e-6)


def test_a_class_is_learned_from_the_history(points):
    _, bought, train, test = points
    model = xmc.fit(features.with_labels(train, bought[TRAIN]), weighting="none")
    found = xmc.predict(model, test, k=1).labels[:, 0]
    assert np.mean(found == bought[TEST]) > 0.8  # at best .92


def test_bins_hold_as_many_each_and_equal_numbers_together():
    bins = features.fit_bins(np.arange(100.0), num_bins=4)
    assert bins.cuts.tolist() == [25, 50, 75] and bins.means.tolist() == [12, 37, 62, 87]
    many = np.array([0.0] * 90 + [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    few = features.fit_bins(many, num_bins=16)
    assert few.cuts[0] == 1 and few.means[0] == 0 and few.cuts.size < 15
    two = features.fit_bins([0.0, 1], num_bins=16)
    assert two.cuts.tolist() == [1] and two.means.tolist() == [0, 1] and two.num_labels == 2


def test_the_expectation_of_certain_sides_is_the_mean_of_the_bin():
    values = np.random.default_rng(0).normal(size=200)
    bins = features.fit_bins(values, num_bins=8)
    above = values[:, None] >= bins.cuts
    found = features.expectation(bins, above)
    at = np.searchsorted(bins.cuts, values, side="right")
    np.testing.assert_allclose(found, bins.means[at], rtol=1e-12)
    np.testing.assert_allclose(bins.means, [values[at == i].mean() for i in range(8)])


def test_each_point_has_one_label_for_each_cut(points):
    y, _, train, _ = points
    bins = features.fit_bins(y[TRAIN])
    sided = features.with_numbers(train, bins, y[TRAIN])
    labels = sided.label_ids.reshape(1500, 15)
    assert sided.num_labels == 30
    assert np.array_equal(np.sort(labels % 15, axis=1), np.tile(np.arange(15), (1500, 1)))
    assert np.array_equal((labels < 15).sum(axis=1), (y[TRAIN][:, None] >= bins.cuts).sum(axis=1))
    assert np.all(np.diff(labels, axis=1) > 0)


def test_mistakes_are_named(points):
    y, _, train, _ = points
    for values, options, message in (
        ([], {}, "must differ to be learned"),
        ([2.0, 2.0], {}, "must differ to be learned"),
        ([1.0, np.nan], {}, "must be finite"),
        ([1.0, 2.0], {"num_bins": 1}, "num_bins = 1: must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            features.fit_bins(values, **options)
    bins = features.fit_bins(y)
    with pytest.raises(ValueError, match="values = 2 numbers: must be 1500"):
        features.with_numbers(train, bins, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"chances.shape = \(2, 3\): must be \(n, 15\)"):
        features.expectation(bins, np.ones((2, 3)))
    with pytest.raises(ValueError, match="num_points = 99: must be at least 100"):
        regression.fit_number(train.take(np.arange(99)), y[:99])
