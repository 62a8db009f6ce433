"""Refuses points whose sizes no memory holds: a file's first line may promise any number of labels.

Ids need not all be used, and most parts of a model take memory for those that are. But some take a
few numbers for every label and feature there is, and a network takes a row for each.
"""

from __future__ import annotations

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.runtime.machine import memory_bytes

__all__ = ["LEAST", "check"]

LEAST = 64
"""Bytes that training takes at least for a label or a feature, used or not. Measured with `fast`:
180 for a label, 1,060 for a feature."""


def check(points: XmcData, *, needed: int | None = None) -> None:
    """Refuses sizes for which the machine has not the memory.

    Args:
      points: what is to be trained on.
      needed: bytes that training takes at least; None: `LEAST` for each label and feature.

    Raises:
      ValueError: it names the sizes, and how many of them the points use.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1]), np.array([3], np.int32), np.ones(1, np.float32),
      ...     np.array([0, 1]), np.array([7], np.int32), num_features=9, num_labels=8)
      >>> check(points, needed=10**18)
      Traceback (most recent call last):
      ValueError: num_labels = 8, num_features = 9: must fit into memory...
    """
    sizes = points.num_labels + points.num_features
    needed = LEAST * sizes if needed is None else needed
    there = memory_bytes()
    if needed <= there:
        return
    labels, features = (np.unique(ids).size for ids in (points.label_ids, points.feature_ids))
    raise ValueError(
        f"num_labels = {points.num_labels:,}, num_features = {points.num_features:,}: must fit "
        f"into memory, {there / 1e9:,.1f} GB, of which training takes at least "
        f"{needed / 1e9:,.1f} GB; the points use {labels:,} labels and {features:,} features: "
        "correct the sizes in the file's first line, or number anew what is used"
    )
