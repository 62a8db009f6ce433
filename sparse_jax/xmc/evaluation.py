"""How good predictions are, as a dict of figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.xmc import calibration, metrics
from sparse_jax.xmc.inference import Predictions


def evaluate(
    predicted: Predictions,
    points: XmcData,
    *,
    inverse_propensities: np.ndarray | None = None,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """Ranking metrics of predictions, and how true their scores are as probabilities.

    Args:
      predicted: of `xmc.predict`, for these points.
      points: with their true labels. A point without labels counts: nothing is right for it.
      inverse_propensities: float [N], of `metrics.inverse_propensities` over the training points;
        None leaves out the propensity-scored precision.
      ks: cut-offs; those beyond the labels predicted are left out.

    Returns:
      "p@k", "r@k", "ndcg@k" and "psp@k" for each k, from 0 to 1, and "ece", the expected
      calibration error of all predictions.

    Raises:
      ValueError: if there are no points, none of them has a label, or the predictions are of
        another number of points.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1]), np.array([0], np.int32), np.ones(1, np.float32),
      ...     np.array([0, 1]), np.array([1], np.int32), num_features=1, num_labels=2)
      >>> predicted = Predictions(np.array([[1, 0]], np.int32), np.array([[0.75, 0.25]]))
      >>> found = evaluate(predicted, points)
      >>> found["p@1"], found["ece"]
      (1.0, 0.25)
    """
    if not points.num_points:
        raise ValueError("points is empty: must have points; a mean over none is undefined")
    if not points.label_ids.size:
        raise ValueError(
            f"none of the {points.num_points} points has a label: there is nothing to compare "
            "with; give points with their true labels"
        )
    labels = predicted.labels
    if labels.shape[0] != points.num_points:
        raise ValueError(
            f"predicted is for {labels.shape[0]} points: must be for the {points.num_points} given"
        )
    kept = [k for k in ks if k <= min(labels.shape[1], points.num_labels)]
    scores = metrics.evaluate(
        labels, points.label_offsets, points.label_ids, inverse_propensities, ks=kept
    )
    true = metrics.hits(labels, points.label_offsets, points.label_ids)
    real = labels >= 0
    scores["ece"] = calibration.expected_error(predicted.scores[real], true[real])
    return scores
