"""Whether most points have a near copy among the others.

A near copy has most of its twin's labels, and which of them depends on a few words taken together:
label trees learn that, where the linear part, that leaves out the weakest pairs, falls short.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from sparse_jax.data import XmcData, to_csr

NEAR = 0.8  # cosine
_ASKED, _AT_ONCE = 400, 50  # points that are looked at, and of these at once


def are_usual(some: XmcData, others: XmcData) -> bool:
    """Whether half of some points, or more, have another one within a cosine of `NEAR`.

    Args:
      some: weighted points; the first 400 are looked at.
      others: weighted points, of the same features, none of the same.

    Returns:
      Whether most have a near copy; False without points.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32),
      ...     np.array([0, 1, 2]), np.array([0, 0], np.int32), num_features=2, num_labels=1)
      >>> are_usual(points.take(np.array([0])), points)
      True
      >>> are_usual(points.take(np.array([0])), points.take(np.array([1])))
      False
    """
    if not some.num_points or not others.num_points:
        return False
    asked = unit_rows(some.take(np.arange(min(_ASKED, some.num_points))))
    columns = unit_rows(others).T.tocsr()
    near = 0
    for start in range(0, asked.shape[0], _AT_ONCE):
        likeness = asked[start : start + _AT_ONCE] @ columns
        # Not its `max`, which sorts all entries first.
        found = np.flatnonzero(likeness.data >= NEAR)
        near += np.unique(np.searchsorted(likeness.indptr, found, side="right")).size
    return near >= asked.shape[0] / 2


def unit_rows(points: XmcData) -> sp.csr_array:
    """Rows divided by their length; rows of zeros stay."""
    features = to_csr(points).features
    rows = np.repeat(np.arange(points.num_points), np.diff(features.indptr))
    squares = np.bincount(rows, features.data.astype(np.float64) ** 2, points.num_points)
    lengths = np.sqrt(squares)
    lengths[lengths == 0] = 1
    features.data = (features.data / lengths[rows]).astype(np.float32)
    return features
