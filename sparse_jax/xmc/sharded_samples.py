"""Points taken from the shares of all shards: those held out, and those that the model keeps.

Which they are depends on the seed and the number of points alone: they are the same, in the same
order, however the points are shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.xmc import offsets_of
from sparse_jax.sharding.gathering import gather_arrays
from sparse_jax.sharding.placing import own_shards
from sparse_jax.xmc import calibration

_ARRAYS = ("feature_offsets", "feature_ids", "feature_values", "label_offsets", "label_ids")
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


def gather(samples: list[XmcData], mesh: Any) -> XmcData | None:
    """The samples of all shards, in their order, on process 0; None on the others, which help.

    Args:
      samples: points of each of this process's shards.
      mesh: of the shards.
    """
    arrays = {
        f"{shard}/{name}": getattr(points, name)
        for shard, points in zip(own_shards(mesh), samples, strict=True)
        for name in _ARRAYS
    }
    of_all = gather_arrays("samples of points", arrays, timeout=300)
    if of_all is None:
        return None
    found = {name: array for of_one in of_all for name, array in of_one.items()}
    shards = range(mesh.size)

    def joined(name: str) -> np.ndarray:
        parts = [found[f"{shard}/{name}"] for shard in shards]
        if name.endswith("offsets"):
            return offsets_of(np.concatenate([np.diff(part) for part in parts]))
        return np.concatenate(parts)

    return XmcData(
        **{name: joined(name) for name in _ARRAYS},
        num_features=samples[0].num_features,
        num_labels=samples[0].num_labels,
    )
