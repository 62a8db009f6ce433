"""Labels that hold in part: weights from 0 to 1 of a point's labels, as some files have them.

A label of weight w counts as w of a yes and 1 - w of a no. Every part's loss is a sum over labels,
so that its mean over draws is that loss: each pass over the points sees a label with probability w,
drawn anew. All parts then learn from plain sets of labels, and weights of 1 change no bit.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from sparse_jax.data import XmcData, xmc
from sparse_jax.data.xmc import gather_index
from sparse_jax.xmc import seen

__all__ = ["Weighted", "check", "draw", "fingerprint"]


class Weighted(NamedTuple):
    """Points, and how far each of their labels holds."""

    points: XmcData
    weights: np.ndarray | None = None  # float32 [labels]; None for ones

    def take(self, rows: np.ndarray) -> Weighted:
        """Some of the points, int [n]."""
        points, weights = self
        if weights is not None:
            weights = weights[gather_index(points.label_offsets, rows)[0]]
        return Weighted(points.take(rows), weights)

    def draw(self, seed: int, number: int) -> XmcData:
        """See `draw`."""
        return draw(self.points, self.weights, seed=seed, number=number)


def check(points: XmcData, weights: np.ndarray | None) -> np.ndarray | None:
    """The weights as they are used: None if all are 1.

    Args:
      points: whose labels they belong to.
      weights: float [labels], above 0; above 1 they count as 1.

    Raises:
      ValueError: if there aren't as many as labels, or one is not above 0.
    """
    if weights is None:
        return None
    weights = np.asarray(weights, np.float32)
    if weights.shape != points.label_ids.shape:
        raise ValueError(
            f"label_weights has shape {weights.shape}: must be {points.label_ids.shape}, one for "
            "each of points.label_ids"
        )
    if not np.all(weights > 0):  # NaN, too
        raise ValueError(
            f"label_weights = {weights[~(weights > 0)][0]}: must be above 0; leave out the labels "
            "that don't hold"
        )
    return None if np.all(weights >= 1) else weights


def draw(points: XmcData, weights: np.ndarray | None, *, seed: int, number: int) -> XmcData:
    """The points with each label as likely as it is heavy.

    Args:
      points: any.
      weights: float32 [labels]; None for ones.
      seed: of the training.
      number: of the pass, at least 0; each draws anew.

    Returns:
      The same points, with fewer labels perhaps.

    Example:
      >>> points = XmcData(
      ...     np.array([0, 1]), np.array([0], np.int32), np.ones(1, np.float32),
      ...     np.array([0, 2]), np.array([7, 2], np.int32), num_features=1, num_labels=10)
      >>> draw(points, np.array([1, 1e-6], np.float32), seed=0, number=0).label_ids.tolist()
      [7]
    """
    if weights is None:
        return points
    generator = np.random.Generator(np.random.Philox([seed, number]))
    return seen.keep(points, generator.random(weights.size, np.float32) < weights)


def fingerprint(points: XmcData, weights: np.ndarray | None) -> str:
    """A digest of points and weights; of ones, that of the points."""
    more = "" if weights is None else f"-{zlib.crc32(weights.tobytes()):08x}"
    return xmc.fingerprint(points) + more
