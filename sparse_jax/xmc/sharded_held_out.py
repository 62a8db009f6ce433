"""Points that no shard trains on: they tell what the scores of a sharded network mean."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.xmc import offsets_of
from sparse_jax.sharding import AXIS, processes
from sparse_jax.xmc import calibration

MOST = 2000


def rows_of(counts: list[int], seed: int) -> list[np.ndarray]:
    """Which rows of each share are held out; of all together the same, however they are shared.

    Args:
      counts: points of each share, in the order of the file.
      seed: of the choice.

    Returns:
      int64, ascending, for each share.

    Example:
      >>> one, two = rows_of([100], 0), rows_of([30, 70], 0)
      >>> one[0].tolist() == [*two[0], *(two[1] + 30)], one[0].size
      (True, 5)
    """
    total = sum(counts)
    count = calibration.held_out(total, MOST)
    chosen = np.random.default_rng([seed, 3]).choice(total, count, replace=False)
    ordered, ends = np.sort(chosen), np.cumsum(counts)
    parts = np.split(ordered, np.searchsorted(ordered, ends[:-1]))
    return [part - (end - count) for part, end, count in zip(parts, ends, counts, strict=True)]


def own_shards(mesh: Any) -> list[int]:
    """The shards of this process."""
    here = jax.process_index()
    return [n for n, device in enumerate(mesh.devices.flat) if device.process_index == here]


def on_mesh(pieces: list[np.ndarray], mesh: Any) -> jax.Array:
    """Arrays of this process's shards, of equal shapes, as one of all shards."""
    devices = [mesh.devices.flat[shard] for shard in own_shards(mesh)]
    arrays = [jax.device_put(x, d) for x, d in zip(pieces, devices, strict=True)]
    shape = (mesh.size * len(pieces[0]), *pieces[0].shape[1:])
    sharding = jax.NamedSharding(mesh, jax.P(AXIS))
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def gather(held: list[XmcData], mesh: Any) -> XmcData:
    """The points of all shards, in their order, on all processes.

    Args:
      held: points of each of this process's shards.
      mesh: of the shards.
    """
    packed = [_pack(points) for points in held]
    sizes = processes.collect("held-out points", [x.size for x in packed])
    length = max(size for process in sizes for size in process)
    padded = [np.pad(x, (0, length - x.size))[None] for x in packed]
    words = processes.whole(on_mesh(padded, mesh))
    parts = [_unpack(row) for row in words]
    features, ids, values, labels, label_ids = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return XmcData(
        offsets_of(features),
        ids,
        values,
        offsets_of(labels),
        label_ids,
        num_features=held[0].num_features,
        num_labels=held[0].num_labels,
    )


def _pack(points: XmcData) -> np.ndarray:
    """int32 words."""
    counts = np.diff(points.feature_offsets), np.diff(points.label_offsets)
    sizes = [points.num_points, points.feature_ids.size, points.label_ids.size]
    values = points.feature_values.view(np.int32)
    found = [sizes, counts[0], points.feature_ids, values, counts[1], points.label_ids]
    return np.concatenate([np.asarray(x, np.int32) for x in found])


def _unpack(words: np.ndarray) -> list[np.ndarray]:
    """(features of each point, their ids, their values, labels of each point, their ids)."""
    n, features, labels = words[:3]
    ends = 3 + np.cumsum([n, features, features, n, labels])
    counts, ids, values, label_counts, label_ids = np.split(words[: ends[-1]], [3, *ends[:-1]])[1:]
    return [counts, ids, values.view(np.float32), label_counts, label_ids]
