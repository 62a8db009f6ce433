"""Ragged batches of static shape, with no feature or label dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from sparse_jax.data.xmc import XmcData, gather_index

__all__ = [
    "Batch",
    "Capacity",
    "batches",
    "epoch_order",
    "make_batch",
    "num_batches",
    "plan_capacity",
    "stack",
]

# Capacities are multiples of this, so that nearly equal data share one compiled step.
_ROUND_TO = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """`B` points as lists of entries, sorted by row, padded to one shape; `batches` makes it.

    Padding entries have id -1, value 0 and row `B - 1`, so that rows never decrease. Points
    beyond the last one of a short batch have no entries and `row_mask` false.
    """

    feature_ids: Any  # int32 [F], padding -1
    feature_values: Any  # float32 [F], padding 0
    feature_rows: Any  # int32 [F], nondecreasing, which point of the batch
    label_ids: Any  # int32 [P], padding -1
    label_rows: Any  # int32 [P], nondecreasing
    label_counts: Any  # int32 [B]
    row_mask: Any  # bool [B], true for real points


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What the fullest batch holds, sizes for arrays that lose nothing; `plan_capacity` finds it.

    Args:
        features: feature entries of a batch, a multiple of 64.
        labels: label entries of a batch, a multiple of 64.
        distinct_labels: different labels in a batch, exactly.
        distinct_features: different features in a batch, exactly.
    """

    features: int
    labels: int
    distinct_labels: int
    distinct_features: int


def num_batches(num_points: int, batch_size: int, *, drop_remainder: bool = False) -> int:
    """Number of batches in one epoch.

    Args:
        num_points: points of the data.
        batch_size: points of a batch.
        drop_remainder: leave out the last batch if it isn't full.

    Returns:
        `num_points / batch_size`, rounded up, or down if the remainder is dropped.

    Raises:
        ValueError: batch_size below 1.

    Example:
        >>> num_batches(10, 4), num_batches(10, 4, drop_remainder=True)
        (3, 2)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: must be at least 1")
    return num_points // batch_size if drop_remainder else -(-num_points // batch_size)


def epoch_order(num_points: int, *, seed: int | None, epoch: int) -> np.ndarray:
    """The order of the points in an epoch: a function of `seed` and `epoch` alone.

    It ranks the raw 64-bit output of Philox, a stream that NumPy keeps equal across versions
    (unlike that of `Generator.permutation`).

    Args:
        num_points: points of the data.
        seed: at least 0; None keeps the order of the data.
        epoch: at least 0.

    Returns:
        int64 [num_points], a permutation.

    Raises:
        ValueError: a seed or an epoch below 0.

    Example:
        >>> epoch_order(4, seed=None, epoch=3).tolist()
        [0, 1, 2, 3]
        >>> sorted(epoch_order(4, seed=1, epoch=3).tolist())
        [0, 1, 2, 3]

    References:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
    """
    if seed is None:
        return np.arange(num_points)
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed, epoch = {seed}, {epoch}: must be at least 0")
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_points)
    return np.argsort(bits, kind="stable")


def plan_capacity(
    data: XmcData,
    batch_size: int,
    *,
    seed: int | None,
    epochs: int | Iterable[int],
    drop_remainder: bool = False,
) -> Capacity:
    """The fullest batch that `batches` makes in the given epochs.

    Args:
        data: the points.
        batch_size: points of a batch.
        seed: as for `batches`.
        epochs: how many epochs from 0 on, or which ones.
        drop_remainder: as for `batches`.

    Returns:
        The exact maxima over all batches of all epochs; entry counts rounded up to 64.

    Raises:
        ValueError: batch_size below 1.

    Example:
        >>> data = XmcData(
        ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 0, 1]), np.array([2], np.int32), num_features=2, num_labels=3)
        >>> plan_capacity(data, 2, seed=0, epochs=5)
        Capacity(features=64, labels=64, distinct_labels=1, distinct_features=2)
    """
    count = num_batches(data.num_points, batch_size, drop_remainder=drop_remainder)
    chosen = range(epochs) if isinstance(epochs, int) else epochs
    if seed is None:
        chosen = list(chosen)[:1]  # every epoch has the same order
    most = np.zeros(4, np.int64)
    seen_features = np.zeros(data.feature_ids.max(initial=0) + 1, np.bool_)
    seen_labels = np.zeros(data.label_ids.max(initial=0) + 1, np.bool_)
    for epoch in chosen:
        order = epoch_order(data.num_points, seed=seed, epoch=epoch)
        for b in range(count):
            rows = order[b * batch_size : (b + 1) * batch_size]
            features, _ = gather_index(data.feature_offsets, rows)
            labels, _ = gather_index(data.label_offsets, rows)
            sizes = (
                features.size,
                labels.size,
                _count_distinct(data.label_ids[labels], seen_labels),
                _count_distinct(data.feature_ids[features], seen_features),
            )
            np.maximum(most, sizes, out=most)
    features_max, labels_max, distinct_labels, distinct_features = (int(size) for size in most)
    return Capacity(
        features=_round_up(features_max),
        labels=_round_up(labels_max),
        distinct_labels=distinct_labels,
        distinct_features=distinct_features,
    )


def batches(
    data: XmcData,
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    capacity: Capacity | None = None,
    drop_remainder: bool = False,
    start: int = 0,
) -> Iterator[Batch]:
    """The batches of one epoch: each point once, with all its features and labels.

    Args:
        data: the points.
        batch_size: points of a batch, B.
        seed: shuffles, together with `epoch`; None keeps the order of the data.
        epoch: number of the epoch, from 0.
        capacity: sizes of the arrays, from `plan_capacity` over all epochs, so that every epoch
            runs the same compiled step. None plans for this epoch alone.
        drop_remainder: leave out the last batch if it isn't full, rather than pad it.
        start: the first batch to make, for resuming in the middle of an epoch.

    Returns:
        An iterator of `Batch` with NumPy arrays: F = `capacity.features` feature entries,
        P = `capacity.labels` label entries.

    Raises:
        ValueError: batch_size below 1, or (while iterating) a batch that `capacity` can't hold.

    Example:
        >>> data = XmcData(
        ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 0, 1]), np.array([2], np.int32), num_features=2, num_labels=3)
        >>> (batch,) = batches(data, 4, seed=0)
        >>> batch.feature_ids.shape, batch.row_mask.tolist(), int(batch.label_counts.sum())
        ((64,), [True, True, False, False], 1)
    """
    count = num_batches(data.num_points, batch_size, drop_remainder=drop_remainder)
    if capacity is None:
        capacity = plan_capacity(
            data, batch_size, seed=seed, epochs=[epoch], drop_remainder=drop_remainder
        )
    order = epoch_order(data.num_points, seed=seed, epoch=epoch)
    return (
        make_batch(data, order[b * batch_size : (b + 1) * batch_size], batch_size, capacity)
        for b in range(start, count)
    )


def make_batch(data: XmcData, rows: np.ndarray, batch_size: int, capacity: Capacity) -> Batch:
    """The points at `rows` as one batch.

    Args:
        data: the points.
        rows: int64 [n], at most `batch_size` indices of points.
        batch_size: points of the batch, B.
        capacity: sizes of its arrays.

    Returns:
        A `Batch` of NumPy arrays; see there for the padding.

    Raises:
        ValueError: too many rows, or more entries than `capacity` allows.

    Example:
        >>> data = XmcData(
        ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 0, 1]), np.array([2], np.int32), num_features=2, num_labels=3)
        >>> capacity = plan_capacity(data, 2, seed=None, epochs=1)
        >>> make_batch(data, np.array([1]), 2, capacity).feature_ids[:3].tolist()
        [0, 1, -1]
    """
    if rows.size > batch_size:
        raise ValueError(f"rows.size = {rows.size}: must be at most batch_size, {batch_size}")
    feature_index, feature_counts = gather_index(data.feature_offsets, rows)
    label_index, label_counts = gather_index(data.label_offsets, rows)
    for name, size in (("features", feature_index.size), ("labels", label_index.size)):
        limit = getattr(capacity, name)
        if size > limit:
            raise ValueError(
                f"capacity.{name} = {limit}: must be at least {size}, the entries of a batch; give "
                "plan_capacity the same batch_size and seed, and every epoch"
            )
    return Batch(
        feature_ids=_pad(data.feature_ids[feature_index], capacity.features, -1),
        feature_values=_pad(data.feature_values[feature_index], capacity.features, 0),
        feature_rows=_pad(_row_numbers(feature_counts), capacity.features, batch_size - 1),
        label_ids=_pad(data.label_ids[label_index], capacity.labels, -1),
        label_rows=_pad(_row_numbers(label_counts), capacity.labels, batch_size - 1),
        label_counts=_pad(label_counts.astype(np.int32), batch_size, 0),
        row_mask=np.arange(batch_size) < rows.size,
    )


def stack(batches: Sequence[Batch]) -> Batch:
    """Stack k batches along a new first axis, for `jax.lax.scan` over k steps.

    Args:
        batches: at least one, of equal shapes (give `batches` a common capacity).

    Returns:
        A `Batch` whose arrays have the shape [k, ...].

    Raises:
        ValueError: no batches, or unequal shapes.

    Example:
        >>> one = Batch(*[np.zeros(3)] * 7)
        >>> stack([one, one]).feature_ids.shape
        (2, 3)
    """
    if not batches:
        raise ValueError("batches = []: must be at least one")
    shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch)) for batch in batches}
    if len(shapes) != 1:
        raise ValueError(
            "batches = arrays of unequal shapes: must be equal; make them with one capacity, from "
            "plan_capacity over all epochs"
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _count_distinct(ids: np.ndarray, seen: np.ndarray) -> int:
    """Number of different ids; `seen` is all false before and after."""
    seen[ids] = True
    count = int(np.count_nonzero(seen))
    seen[ids] = False
    return count


def _round_up(size: int) -> int:
    return max(1, -(-size // _ROUND_TO)) * _ROUND_TO


def _row_numbers(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(counts.size, dtype=np.int32), counts)


def _pad(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    padded = np.full(size, fill, values.dtype)
    padded[: values.size] = values
    return padded
