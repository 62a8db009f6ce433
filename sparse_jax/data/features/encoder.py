"""What a spec learned, and the features it gives; a table of the kinds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data.features.schema import Spec
from sparse_jax.data.features.table import Columns


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What a spec learned of a table."""

    spec: Spec
    width: int  # features it has
    names: tuple[str, ...] = ()  # values that are known, most frequent first
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


class Block(NamedTuple):
    """Features of some rows; a row may have several, each once."""

    rows: np.ndarray  # int64 [m]
    ids: np.ndarray  # int64 [m], in [0, width)
    values: np.ndarray  # float32 [m]


class Codes(NamedTuple):
    """The value of each row for crosses: one code, or two that it lies between."""

    values: np.ndarray  # int64 [n, w], in [0, size)
    weights: np.ndarray  # float32 [n, w], above 0 in the first column; 0 for no code
    size: int


class Kind(NamedTuple):
    """How a kind of spec is learned and applied. `codes` is None where a row has several values.

    A cross is given the codes of its two sides; for others they are empty.
    """

    fit: Callable[[Any, Columns, tuple[Codes, ...]], Encoder]
    apply: Callable[[Encoder, Columns, tuple[Codes, ...]], Block]
    codes: Callable[[Encoder, Columns], Codes] | None = None


def one_each(ids: np.ndarray) -> Block:
    """A block of one feature in each row, of the value 1."""
    return Block(np.arange(ids.size), ids, np.ones(ids.size, np.float32))


def one_code(values: np.ndarray, size: int) -> Codes:
    """Codes of rows that have one each."""
    return Codes(values[:, None], np.ones((values.size, 1), np.float32), size)


def join(blocks: list[Block]) -> Block:
    """Blocks as one; their ids mean the same."""
    return Block(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def shifted(block: Block, by: int) -> Block:
    """A block behind `by` other features."""
    return block._replace(ids=block.ids + by)


def rank_values(values: list[str | None], min_count: int) -> tuple[str, ...]:
    """Values of enough rows, most frequent first, equal ones by name."""
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    ranked = sorted((-count, value) for value, count in counts.items() if count >= min_count)
    return tuple(value for _, value in ranked)


def places_of(values: list[str | None], names: tuple[str, ...]) -> np.ndarray:
    """Where values are among names; len(names) for others, and one more for missing ones."""
    known: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    known[None] = len(names) + 1
    return np.fromiter((known.get(value, len(names)) for value in values), np.int64, len(values))


def quantile_points(values: np.ndarray, count: int) -> np.ndarray:
    """Distinct quantiles of values, the least and the largest included; NaN is left out.

    Example:
      >>> quantile_points(np.array([0.0, 1, 1, 1, 1, 2, np.nan]), 5).tolist()
      [0.0, 1.0, 2.0]
    """
    known = np.sort(values[~np.isnan(values)])
    if not known.size:
        return np.zeros(1)
    at = np.round(np.linspace(0, known.size - 1, count)).astype(np.int64)
    return np.unique(known[at])


def between(values: np.ndarray, points: np.ndarray) -> Codes:
    """A number's shares in the two points it lies between.

    Args:
      values: float64 [n], NaN where missing.
      points: float64 [p], ascending.

    Returns:
      `Codes` with w = 2 and size p + 1: the last code is that of missing values.

    Example:
      >>> found = between(np.array([0.25, 5, np.nan]), np.array([0.0, 1]))
      >>> found.values.tolist(), found.weights.tolist()
      ([[0, 1], [1, 1], [2, 2]], [[0.75, 0.25], [1.0, 0.0], [1.0, 0.0]])
    """
    missing = np.isnan(values)
    x = np.clip(np.where(missing, points[0], values), points[0], points[-1])
    left = np.searchsorted(points, x, side="right") - 1
    right = np.minimum(left + 1, points.size - 1)
    gap = points[right] - points[left]
    share = np.divide(x - points[left], gap, out=np.zeros_like(x), where=gap > 0)
    share[missing] = 0
    ids = np.where(missing[:, None], points.size, np.stack([left, right], axis=1))
    return Codes(ids, np.stack([1 - share, share], axis=1).astype(np.float32), points.size + 1)


def hats(values: np.ndarray, points: np.ndarray) -> Block:
    """`between` as features, of which a linear model makes a curve of straight pieces.

    Example:
      >>> block = hats(np.array([0.25, 5, np.nan]), np.array([0.0, 1]))
      >>> block.rows.tolist(), block.ids.tolist(), block.values.tolist()
      ([0, 0, 1, 2], [0, 1, 1, 2], [0.75, 0.25, 1.0, 1.0])
    """
    found = between(values, points)
    rows, side = np.nonzero(found.weights > 0)
    return Block(rows, found.values[rows, side], found.weights[rows, side])
