"""Labels that have a training point, where few have: ids from a list larger than the data.

What costs by the label (trees, a network's rows) is then made for those alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.xmc import offsets_of

_FEW = 4  # the others are left out where fewer than one label in so many has a point


def few(points: XmcData) -> np.ndarray | None:
    """The labels that have a point, int64 [m] ascending, if they are few; None if many or none."""
    found = np.unique(points.label_ids).astype(np.int64)
    return found if 0 < found.size < points.num_labels // _FEW else None


def numbered(points: XmcData, labels: np.ndarray) -> XmcData:
    """The points with some labels alone, numbered anew.

    Args:
      points: any.
      labels: int [m], ascending; labels[i] becomes i.

    Returns:
      The same points over m labels.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1, 1]), np.array([0], np.int32), np.ones(1, np.float32),
      ...     np.array([0, 1, 3]), np.array([7, 2, 9], np.int32), num_features=1, num_labels=10)
      >>> numbered(points, np.array([7, 9])).label_ids.tolist()
      [0, 1]
    """
    points = keep(points, np.isin(points.label_ids, labels))
    return dataclasses.replace(
        points,
        label_ids=np.searchsorted(labels, points.label_ids).astype(np.int32),
        num_labels=labels.size,
    )


def keep(points: XmcData, kept: np.ndarray) -> XmcData:
    """The points with some of their labels.

    Args:
      points: any.
      kept: bool [labels], one for each of `points.label_ids`.
    """
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    return dataclasses.replace(
        points,
        label_offsets=offsets_of(np.bincount(rows[kept], minlength=points.num_points)),
        label_ids=points.label_ids[kept],
    )
