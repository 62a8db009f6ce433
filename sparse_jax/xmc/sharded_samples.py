"""Points taken from the shares of all shards: those held out, and those that the model keeps.

Which they are depends on the seed and the number of points alone: they are the same, in the same
order, however the points are shared.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.xmc import offsets_of
from sparse_jax.sharding import AXIS, Dealing, ShardedRows, gather_to_first, processes
from sparse_jax.xmc import calibration

HELD_OUT = 2000  # points, at most


def held_out(total: int, seed: int) -> np.ndarray:
    """Which of all points tell what scores mean, and are not trained on: ascending."""
    count = calibration.held_out(total, HELD_OUT)
    return np.sort(np.random.default_rng([seed, 3]).choice(total, count, replace=False))


def of_shares(chosen: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """Rows of all points, as rows of each share.

    Args:
      chosen: ascending, of all points in the order of the file.
      counts: points of each share, in that order.

    Returns:
      int64, ascending, for each share.

    Example:
      >>> [rows.tolist() for rows in of_shares(np.array([1, 2, 7]), [2, 3, 0, 4])]
      [[1], [0], [], [2]]
    """
    ends = np.cumsum(counts)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
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


def gather(samples: list[XmcData], mesh: Any) -> XmcData | None:
    """The samples of all shards, in their order, on process 0; None on the others, which help.

    Args:
      samples: points of each of this process's shards.
      mesh: of the shards.
    """
    packed = [_pack(points) for points in samples]
    sizes = processes.collect("samples of points", [x.size for x in packed])
    length = max(size for process in sizes for size in process)
    padded = [np.pad(x, (0, length - x.size)) for x in packed]
    lies = Dealing(mesh.size * length, mesh.size)
    words = gather_to_first(ShardedRows(on_mesh(padded, mesh), lies))
    if words is None:
        return None
    parts = [_unpack(row) for row in words.reshape(mesh.size, length)]
    features, ids, values, labels, label_ids = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return XmcData(
        offsets_of(features),
        ids,
        values,
        offsets_of(labels),
        label_ids,
        num_features=samples[0].num_features,
        num_labels=samples[0].num_labels,
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
