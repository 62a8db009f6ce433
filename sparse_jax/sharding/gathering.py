"""Arrays of any sizes, brought from all processes to the first."""

from __future__ import annotations

import io

import numpy as np

from sparse_jax.runtime import npz
from sparse_jax.sharding import processes
from sparse_jax.sharding.placing import (
    Dealing,
    ShardedRows,
    gather_to_first,
    mesh,
    on_mesh,
    own_shards,
)

__all__ = ["gather_arrays"]

_BLOCK = 1 << 8  # words that travel together


def gather_arrays(
    name: str, arrays: dict[str, np.ndarray], *, timeout: int = processes.LATE
) -> list[dict[str, np.ndarray]] | None:
    """Named arrays of every process, on process 0. All processes call it, however late.

    Args:
      name: what they are, the same on all processes.
      arrays: of numbers, by name; other processes may have others.
      timeout: seconds to wait for the others.

    Returns:
      Those of each process, in the order of the processes; None but on process 0.

    Raises:
      ValueError: if those of all processes take 2 TB or more.

    Example:
      >>> gather_arrays("sizes", {"a": np.arange(3)})[0]["a"].tolist()
      [0, 1, 2]
    """
    _, count = processes.here()
    if count == 1:
        return [arrays]
    file = io.BytesIO()
    npz.write(file, arrays)
    sizes = processes.collect(name, file.tell(), timeout=timeout)
    blocks = -(-max(sizes) // (4 * _BLOCK))
    file.write(bytes(4 * _BLOCK * blocks - file.tell()))
    words = np.frombuffer(file.getbuffer(), np.int32).reshape(blocks, _BLOCK)
    shards = mesh()
    dealing = Dealing(shards.size * blocks, shards.size)
    # Everything of a process lies on the first of its shards.
    own = own_shards(shards)
    table = on_mesh([words] + [np.zeros_like(words)] * (len(own) - 1), shards)
    found = gather_to_first(ShardedRows(table, dealing))
    if found is None:
        return None
    found = found.reshape(shards.size, blocks * _BLOCK)
    owner = [device.process_index for device in shards.devices.flat]
    return [_read(found[owner.index(other)], sizes[other]) for other in range(count)]


def _read(words: np.ndarray, size: int) -> dict[str, np.ndarray]:
    file = io.BytesIO(words.tobytes()[:size])
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
