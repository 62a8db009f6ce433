"""Numbers as targets: a classifier of the sides of quantiles, and the expectation over them.

    fitted = regression.fit_number(points, prices)
    prices = regression.predict_number(fitted, others)

A point's labels say on which side of each of 15 quantiles its number lies. The chance to lie at or
above one is `sigmoid(c0 + c1 (above - below))` of the scores of its two labels; a line through the
expectation and the mean of those differences undoes that both shrink. A twentieth of the points is
held out for these five numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from sparse_jax.data import XmcData
from sparse_jax.data.features.regression import Bins, expectation, fit_bins, with_numbers
from sparse_jax.xmc.fit import fit
from sparse_jax.xmc.inference import best_of_all, prepare
from sparse_jax.xmc.model import Model

HELD_OUT = (50, 2000)  # points at least and at most; a twentieth between
_RIDGE = 1e-6


class NumberModel(NamedTuple):
    """A trained predictor of a number."""

    model: Model  # over the `bins.num_labels` sides
    bins: Bins
    curve: np.ndarray  # float64 [2]: c0, c1
    line: np.ndarray  # float64 [3], of 1, the expectation, and the mean difference
    mean: float  # of the training numbers, which any prediction has to beat


def fit_number(
    points: XmcData,
    values: Any,
    *,
    num_bins: int = 16,
    preset: str = "fast",
    seed: int = 0,
    weighting: str = "none",
) -> NumberModel:
    """Trains on points with a number each.

    Args:
      points: n training points, of `data.features.transform` for example; at least 100.
      values: float [n], finite.
      num_bins: between quantiles of the values.
      preset: as for `fit`.
      seed: as for `fit`, and of which points are held out.
      weighting: as for `fit`.

    Returns:
      A `NumberModel`.

    Raises:
      ValueError: too few points, or arguments out of range.

    Example:
      >>> from sparse_jax.data import features
      >>> table = {"x": np.arange(400) % 20.0}
      >>> points = features.transform(features.fit(table), table)
      >>> fitted = fit_number(points, table["x"] ** 2)
      >>> found = predict_number(fitted, points)
      >>> bool(np.sqrt(np.mean((found - table["x"] ** 2) ** 2)) < 30)
      True

    References:
      Frank and Hall, A simple approach to ordinal classification, 2001.
    """
    least, most = HELD_OUT
    if points.num_points < 2 * least:
        raise ValueError(
            f"points.num_points = {points.num_points}: must be at least {2 * least}, of which "
            f"{least} are held out"
        )
    bins = fit_bins(values, num_bins=num_bins)
    sided = with_numbers(points, bins, values)
    order = np.random.default_rng(seed).permutation(points.num_points)
    held = min(max(points.num_points // 20, least), most)
    kept, held_out = np.sort(order[held:]), np.sort(order[:held])
    model = fit(sided.take(kept), preset=preset, seed=seed, weighting=weighting)
    differences = _differences(model, bins, points.take(held_out))
    target = np.asarray(values, np.float64)[held_out]
    curve = _fit_curve(differences, target[:, None] >= bins.cuts)
    columns = _columns(bins, curve, differences)
    # Ridge towards the expectation alone, for columns that are nearly one.
    prior = np.array([0.0, 1.0, 0.0])
    gram = np.array([[np.sum(a * b) for b in columns.T] for a in columns.T]) / target.size
    right = np.array([np.sum(a * (target - columns[:, 1])) for a in columns.T]) / target.size
    scale = _RIDGE * np.trace(gram)
    line = prior + np.linalg.solve(gram + scale * np.eye(3), right)
    mean = float(np.mean(np.asarray(values, np.float64)))
    return NumberModel(model, bins, curve, line, mean)


def predict_number(fitted: NumberModel, points: XmcData) -> np.ndarray:
    """The number of each point.

    Args:
      fitted: of `fit_number`.
      points: any.

    Returns:
      float64 [n], between the least and the largest mean of the bins.

    Example:
      See `fit_number`.
    """
    columns = _columns(fitted.bins, fitted.curve, _differences(fitted.model, fitted.bins, points))
    return np.clip((columns * fitted.line).sum(axis=1), fitted.bins.means[0], fitted.bins.means[-1])


def _differences(model: Model, bins: Bins, points: XmcData) -> np.ndarray:
    """Scores for at or above each cut less those for below it, float64 [n, b - 1]."""
    found = best_of_all(model, prepare(model, points), k=bins.num_labels)
    scores = np.zeros((points.num_points, bins.num_labels))
    row, place = np.nonzero((found.ids >= 0) & np.isfinite(found.scores))
    scores[row, found.ids[row, place]] = found.scores[row, place]
    above, below = np.split(scores, 2, axis=1)
    return above - below


def _columns(bins: Bins, curve: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """1, the expectation, and the mean difference, float64 [n, 3]."""
    chances = 1 / (1 + np.exp(-np.clip(curve[0] + curve[1] * differences, -500, 500)))
    means = differences.mean(axis=1)
    return np.stack([np.ones(means.size), expectation(bins, chances), means], axis=1)


def _fit_curve(differences: np.ndarray, above: np.ndarray) -> np.ndarray:
    """c0 and c1 by logistic regression."""

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        z = c[0] + c[1] * differences
        error = 1 / (1 + np.exp(-np.clip(z, -500, 500))) - above
        slope = np.array([error.mean(), (error * differences).mean()])
        value = np.mean(np.logaddexp(0, z) - above * z)
        return value + _RIDGE * float(c @ c), slope + 2 * _RIDGE * c

    return np.asarray(minimize(loss, np.array([0.0, 1.0]), jac=True, method="L-BFGS-B").x)
