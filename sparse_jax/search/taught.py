"""What lessons changed since the snapshot, kept beside the log, so that opening repeats none.

Repeating a log of lessons needs JAX, and seconds of compiling; a query alone needs neither. An
index that is closed writes what its lessons moved: rows of the network and the learner's memory.
The file names how much of the log it stands for, with a checksum; where it doesn't fit, is damaged
or missing, the log is repeated as if it had never been there: it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.runtime.files import write_atomically
from sparse_jax.search import snapshot
from sparse_jax.search.parameters import Stored
from sparse_jax.search.state import State

__all__ = ["keep", "restore"]

_LESSONS = ("upvote", "associate", "undo")


def path_of(log: Path) -> Path:
    """Where it is kept: `taught-3` beside `log-3`."""
    return log.with_name(log.name.replace("log", "taught"))


def keep(state: State, events: Sequence[dict[str, Any]], log: Path) -> None:
    """Writes what was taught, if the log holds lessons alone; a disk that is full is no error.

    Args:
      state: after all of the log.
      events: of the log, in order.
      log: that is on the disk.
    """
    if not events or any(event["do"] not in _LESSONS for event in events):
        return
    if snapshot.is_rebuilt(log.parent):
        return
    with contextlib.suppress(OSError):
        header, place = _header(log.read_bytes(), len(events)), path_of(log)
        if _read(place).get("header", np.zeros(0)).tolist() == header.tolist():
            return
        base, _ = snapshot.read(log.parent)
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, header=header, **_changes(base, state))
        write_atomically(place, out.getvalue())


def restore(state: State, records: Sequence[dict[str, Any]], log: Path) -> int:
    """Takes over what was taught.

    Args:
      state: of the snapshot; changed.
      records: of the log.
      log: that is on the disk.

    Returns:
      The number of records that need not be repeated.
    """
    found = _read(path_of(log))
    if not found or snapshot.is_rebuilt(log.parent):
        return 0
    try:
        size, _, count = found["header"].tolist()
        fits = found["header"].tolist() == _header(log.read_bytes()[:size], count).tolist()
        if not fits or any(record["do"] not in _LESSONS[:2] for record in records[count:]):
            return 0
        _apply(state, found)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0
    return int(count)


def _header(log: bytes, events: int) -> np.ndarray:
    """Bytes, their checksum, and the records in them: int64 [3]."""
    return np.array([len(log), zlib.crc32(log), events], np.int64)


def _read(place: Path) -> dict[str, np.ndarray]:
    """Its arrays; none if there is no such file, or it is damaged."""
    try:
        with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as found:
            return dict(found)
    except MemoryError:
        raise
    except Exception:  # zipfile and NumPy raise of many kinds at what is damaged
        return {}


def _changes(base: State, state: State) -> dict[str, np.ndarray]:
    before, after = base.engine.pack(), state.engine.pack()
    ids = [before.ids, before.taught_ids, after.ids, after.taught_ids]
    union = np.unique(np.concatenate(ids)).astype(np.int32)
    rows = after.embedding_rows(union)
    moved = (rows != before.embedding_rows(union)).any(axis=1)
    turned = np.flatnonzero((after.output != before.output).any(axis=1)).astype(np.int32)
    return {
        "ids": union[moved],
        "rows": rows[moved],
        "gain_ids": after.gain_ids,
        "gain_values": after.gain_values,
        "output_ids": turned,
        "output_rows": after.output[turned],
        "known": state.known,
        **snapshot.memory(state),
    }


def _apply(state: State, found: dict[str, np.ndarray]) -> None:
    """Raises what it comes across before it changes anything."""
    old = state.engine.pack()
    union = np.union1d(old.taught_ids, found["ids"]).astype(np.int32)
    rows = np.empty((union.size, old.rows.shape[1]), np.float32)
    rows[np.searchsorted(union, old.taught_ids)] = old.taught_rows
    rows[np.searchsorted(union, found["ids"])] = found["rows"]
    output = np.array(old.output)
    output[found["output_ids"]] = found["output_rows"]
    gains = found["gain_ids"], found["gain_values"]
    kept = old.seed, old.num_features, old.ids, old.rows, old.scales
    stored = Stored(*kept, union, rows, *gains, output)
    snapshot.remember(state, json.loads(found["settings"].tobytes()), found)
    state.engine.stored, state.known = stored, found["known"]
