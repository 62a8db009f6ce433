"""Training one classifier by many processes, each its share of the parts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.sharding import processes
from sparse_jax.xmc import soft_labels
from sparse_jax.xmc.crew import Crew
from sparse_jax.xmc.fit import fit_by
from sparse_jax.xmc.model import Model

__all__ = ["fit_together"]

_OF_A_PROCESS = ("interrupt", "progress", "on_network", "checkpoint_directory", "resume")


def fit_together(points: XmcData, **arguments: Any) -> Model | None:
    """`fit` by all processes of a run, which each call it with the same points and arguments.

    Each trains some labels of the linear part and some of the trees, and the last one a network,
    where there are any; the model is the same, bit for bit, as that of one process. Each holds all
    points, and weights of its share; the first one weighs and calibrates the whole.

    Args:
      points: as of `fit`.
      arguments: as of `fit`, but for `checkpoint_directory` and `resume`: Orbax saves arrays of all
        processes, and these have their own.

    Returns:
      A `Model` on process 0, None on the others.

    Raises:
      ValueError: as `fit`; if processes differ in points or arguments, which it names; if several
        are to keep checkpoints.

    Example:
      >>> from sparse_jax import data
      >>> points = data.XmcData(
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), np.ones(8, np.float32),
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), num_features=2, num_labels=2)
      >>> fit_together(points).num_labels  # this process is alone
      2
    """
    crew, directory = Crew(*processes.here()), arguments.get("checkpoint_directory")
    if crew.count > 1 and directory is not None:
        raise ValueError(
            f"checkpoint_directory = {directory!r} among {crew.count} processes: must be None; let "
            "one process train alone to go on from checkpoints"
        )
    said = {name: value for name, value in arguments.items() if name not in _OF_A_PROCESS}
    weights = said.pop("label_weights", None)
    digest = soft_labels.fingerprint(points, None if weights is None else np.asarray(weights))
    named = {name: said.pop(name, None) for name in ("label_names", "feature_names")}
    digests = {"points": digest} | {name: _digest(value) for name, value in named.items()}
    processes.agree("digests of data", digests, timeout=processes.LATE)
    processes.agree("arguments", said)
    return fit_by(crew, points, **arguments)


def _digest(names: Sequence[str] | None) -> int | None:
    return None if names is None else zlib.crc32("\n".join(names).encode())
