"""The network's parameters: as arrays of JAX while it changes, or as they are on disk.

This module needs NumPy alone, and so does a query of an index that was just opened.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.search import draw

__all__ = ["Network", "Stored", "narrow", "widen"]

_LEVELS = 127
_KEPT_BITS = np.int32(-1 << 13)  # of a scale: few enough that its products are exact


@dataclasses.dataclass(frozen=True)
class Network:
    """Parameters. Rows of `output` beyond the documents there are hold zeros."""

    embedding: Any  # float32 [num_features, d]; a RowSparse in a gradient
    gain: Any  # float32 [num_features]
    output: Any  # float32 [capacity, d]


class Stored(NamedTuple):
    """Parameters that take no more space than what was learned, and the documents.

    Example:
      >>> fresh = Stored.fresh(seed=0, num_features=100, dim=4)
      >>> fresh.embedding_rows(np.array([3, 99])).shape, fresh.gains(np.array([3])).tolist()
      ((2, 4), [0.0])
    """

    seed: int
    num_features: int
    ids: np.ndarray  # int32 [m], ascending: rows of the embedding that aren't as they were drawn
    rows: np.ndarray  # int8 [m, d], as training leaves them
    scales: np.ndarray  # float32 [m], by which they are multiplied
    taught_ids: np.ndarray  # int32 [t], ascending: further ones, which feedback moved
    taught_rows: np.ndarray  # float32 [t, d]
    gain_ids: np.ndarray  # int32 [g], ascending
    gain_values: np.ndarray  # float32 [g]; all others are 0
    output: np.ndarray  # float32 [documents, d]

    @classmethod
    def fresh(cls, *, seed: int, num_features: int, dim: int) -> Stored:
        """As they are before any document."""
        none, rows = np.zeros(0, np.int32), np.zeros((0, dim), np.float32)
        narrow, floats = rows.astype(np.int8), np.zeros(0, np.float32)
        return cls(seed, num_features, none, narrow, floats, none, rows, none, floats, rows)

    def embedding_rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the embedding: float32 [n, d] of ids int [n]."""
        out = np.empty((ids.size, self.rows.shape[1]), np.float32)
        drawn = np.ones(ids.size, np.bool_)
        for have, rows, scales in (
            (self.ids, self.rows, self.scales),
            (self.taught_ids, self.taught_rows, None),
        ):
            if not have.size:
                continue
            at, found = _find(have, ids)
            out[found] = rows[at[found]] if scales is None else widen(rows, scales, at[found])
            drawn &= ~found
        if drawn.any():  # few: documents have most words that are asked for
            out[drawn] = draw.rows(self.seed, ids[drawn], out.shape[1])
        return out

    def gains(self, ids: np.ndarray) -> np.ndarray:
        """Gains: float32 [n] of ids int [n]."""
        out = np.zeros(ids.size, np.float32)
        at, found = _find(self.gain_ids, ids)
        out[found] = self.gain_values[at[found]]
        return out


def narrow(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in eight bits, each with a scale of its own.

    What `widen` makes of them comes back from here, bit for bit: the largest value of a row is 127
    times its scale.

    Args:
      rows: float32 [m, d], finite.

    Returns:
      int8 [m, d] and float32 [m].

    Example:
      >>> narrow(np.float32([[0.5, -0.25], [0, 0]]))[0].tolist()
      [[127, -64], [0, 0]]
    """
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(_LEVELS)
    scales = (scales.view(np.int32) & _KEPT_BITS).view(np.float32)
    levels = np.rint(rows / np.where(scales > 0, scales, 1)[:, None])
    return np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8), scales


def widen(rows: np.ndarray, scales: np.ndarray, at: np.ndarray | slice) -> np.ndarray:
    """Rows that `narrow` made: float32 [n, d] of those asked for."""
    return rows[at].astype(np.float32) * scales[at][:, None]


def _find(have: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places among ids that ascend, and which are there."""
    at = np.searchsorted(have, wanted)
    found = np.zeros(wanted.size, np.bool_)
    inside = at < have.size
    found[inside] = have[at[inside]] == wanted[inside]
    return at, found
