"""A whole index on disk: documents as JSON lines, arrays as .npy, and a manifest with their names.

The manifest is replaced in one step, after all it names is on the disk: a crash leaves the old
index or the new one. Arrays are read with `allow_pickle=False`, so a file can't run code; they and
the documents are read when they are needed. Of the network's features those alone are stored that
training or feedback moved: see `draw`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.runtime.files import naming, sync_directory, write_atomically
from sparse_jax.search import arrays
from sparse_jax.search.config import Config
from sparse_jax.search.documents import Documents, Lines
from sparse_jax.search.engine import Engine
from sparse_jax.search.feedback import FeedbackConfig, Item, Learner
from sparse_jax.search.journal import Journal
from sparse_jax.search.parameters import Stored
from sparse_jax.search.state import State
from sparse_jax.text.postings import Postings, inverse_document_frequency

__all__ = ["check", "clean", "is_current", "is_rebuilt", "memory", "read", "remember", "write"]

FORMAT = 5
_REBUILT = (3, 4)  # their features were hashed otherwise
# What these left at its default is at today's.
_FORMER = {
    "kind_weights": [1.0, 1.0, 0.5],
    "k1": 0.8,
    "b": 0.5,
    "bm25_k1": 1.2,
    "bm25_b": 0.75,
    "deep_weight": 0.3,
    "strong": 2.0,
}
_STORED = Stored._fields[2:]  # those that are arrays


def check(path: Path) -> dict[str, Any]:
    """The manifest.

    Raises:
      FileNotFoundError: if there is no index. ValueError: if it is not one of this version.
    """
    place = path / "manifest.json"
    if not place.is_file():
        raise FileNotFoundError(f"{path} holds no index: make one first")
    try:
        manifest = json.loads(place.read_bytes())
        found = manifest["format"]
        names = manifest["snapshot"], manifest["log"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is damaged ({error}): restore it from a backup") from None
    if found not in (FORMAT, *_REBUILT):
        raise ValueError(
            f"{path} has format {found}, this version reads {FORMAT}: rebuild the index from its "
            f"documents in an empty directory (they are in {names[0]}/documents.jsonl, one a line, "
            f"and later ones in {names[1]}), and give feedback again"
        )
    # Names must be of siblings: a manifest can't point outside its directory.
    if any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise ValueError(f"{place} is damaged: {names} are no names of siblings")
    return manifest


def write(path: Path, state: State) -> Journal:
    """Writes a snapshot and makes it the current one.

    Args:
      path: the directory.
      state: settled, and without dead documents.

    Returns:
      Its log, which is empty.

    Raises:
      OSError: if it can't be written; nothing of it is left then, unless `is_current` says that the
        disk failed after it took the place of the one before.
    """
    number = 1 + max((_number(p) for p in path.iterdir()), default=0)
    folder, log = path / f"snapshot-{number}", path / f"log-{number}"
    manifest = {"format": FORMAT, "snapshot": folder.name, "log": log.name}
    try:
        folder.mkdir()
        with naming(folder):
            _write_state(folder, state)
        sync_directory(folder)
        with contextlib.ExitStack() as stack:
            journal = stack.enter_context(contextlib.closing(Journal(log)))
            write_atomically(path / "manifest.json", json.dumps(manifest).encode())
            stack.pop_all()
    except BaseException:
        if not is_current(path, log):
            for left in (folder, log):
                _remove(left)
        raise
    return journal


def is_rebuilt(path: Path) -> bool:
    """Whether an index is laid anew each time it is opened: no array of it says anything then."""
    return bool(check(path)["format"] in _REBUILT)


def is_current(path: Path, log: Path) -> bool:
    """Whether the manifest names this log."""
    return (path / "manifest.json").exists() and check(path)["log"] == log.name


def _write_state(folder: Path, state: State) -> None:
    documents, engine, learner = state.documents, state.engine, state.learner
    lines = [f"{json.dumps(d.record(), ensure_ascii=False)}\n".encode() for d in documents.living()]
    _write(folder / "documents.jsonl", b"".join(lines))
    settings = {
        "engine": dataclasses.asdict(engine.config),
        "feedback_config": dataclasses.asdict(learner.config),
        "trained": engine.trained,
        **_settings(state),
    }
    _write(folder / "settings.json", json.dumps(settings, ensure_ascii=False).encode())
    stored, idf = engine.pack(), engine.deep_idf
    is_of_all = np.array_equal(idf, _idf(engine))  # what it was laid on is what there is
    found = {
        "lines": np.cumsum([0, *map(len, lines)], dtype=np.int64),
        "digests": documents.digests,
        "known": state.known,
        **{f"network.{name}": getattr(stored, name) for name in _STORED},
        **({} if is_of_all else _sparse(idf)),
        **{f"wide.{k}": arrays.narrow(v) for k, v in engine.wide.arrays().items()},
        **{f"bm25.{k}": arrays.narrow(v) for k, v in engine.bm25.arrays().items()},
        **_remembered(learner),
    }
    arrays.write(folder, found)


def _idf(engine: Engine) -> np.ndarray:
    return inverse_document_frequency(engine.wide.document_frequency, engine.wide.num_alive)


def _sparse(idf: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of features: that of those no document has, and all others."""
    base = np.max(idf, initial=0)
    rest = np.flatnonzero(idf != base).astype(np.int32)
    return {"deep_idf.others": base, "deep_idf.ids": rest, "deep_idf.values": idf[rest]}


def _settings(state: State) -> dict[str, Any]:
    """What lessons change, beside arrays."""
    learner = state.learner
    return {
        "pristine": state.engine.pristine,
        "feedback": state.feedback,
        "count": learner.count,
        "base": None if learner.base is None else [item.text for item in learner.base],
        "events": [item.text for item in learner.events],
    }


def _remembered(learner: Learner) -> dict[str, np.ndarray]:
    return {
        **_items("base", learner.base or [], learner.config),
        **_items("events", learner.events, learner.config),
    }


def memory(state: State) -> dict[str, np.ndarray]:
    """What lessons left behind them beside the network's rows, as arrays: see `remember`."""
    text = json.dumps(_settings(state), ensure_ascii=False).encode()
    return {"settings": np.frombuffer(text, np.uint8), **_remembered(state.learner)}


def remember(state: State, settings: dict[str, Any], found: dict[str, np.ndarray]) -> None:
    """Takes over what lessons left: the other way round of `memory`.

    Raises:
      KeyError, TypeError, ValueError: if something is missing or doesn't fit; nothing is changed.
    """
    kept: dict[str, list[Item] | None] = {"base": None, "events": []}
    for name in kept:
        if settings[name] is not None:
            columns = [found[f"{name}.{f}"] for f in ("candidates", "lexical", "targets")]
            kept[name] = [Item(t, *row) for t, *row in zip(settings[name], *columns, strict=True)]
    state.engine.pristine, state.feedback = settings["pristine"], list(settings["feedback"])
    state.learner.count, state.learner.base = settings["count"], kept["base"]
    state.learner.events = kept["events"] or []


def read(path: Path) -> tuple[State, Path]:
    """The current snapshot, and the path of its log.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    manifest = check(path)
    folder = path / manifest["snapshot"]
    try:
        if manifest["format"] in _REBUILT:
            return _rebuild(path, folder, manifest["format"]), path / manifest["log"]
        return _read(folder), path / manifest["log"]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{folder} is damaged ({type(error).__name__}: {error}): restore it from a backup"
        ) from error


def clean(path: Path) -> None:
    """Removes what the manifest doesn't name: older snapshots, and those cut short."""
    manifest = check(path)
    number = _number(path / manifest["log"])
    keep = (manifest["snapshot"], manifest["log"], f"taught-{number}")
    for found in path.iterdir():
        if _number(found) and found.name not in keep:
            _remove(found)


def _remove(path: Path) -> None:
    """What can't be removed now, the next `clean` tries again."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _number(path: Path) -> int:
    kind, _, number = path.name.partition("-")
    return int(number) if kind in ("snapshot", "log", "taught") and number.isdigit() else 0


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _items(name: str, items: Sequence[Item], config: FeedbackConfig) -> dict[str, np.ndarray]:
    out = {}
    for field in ("candidates", "lexical", "targets"):
        dtype = np.int32 if field == "candidates" else np.float32
        rows = np.zeros((len(items), config.candidates), dtype)
        for row, item in zip(rows, items, strict=True):
            row[:] = getattr(item, field)
        out[f"{name}.{field}"] = rows
    return out


def _config(settings: dict[str, Any]) -> Config:
    fields = settings["engine"]
    return Config(**{**fields, "kind_weights": tuple(fields["kind_weights"])})


def _without_former(settings: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(Config)}
    found = {k: v for k, v in settings["engine"].items() if k in fields}
    kept = {k: v for k, v in found.items() if _FORMER.get(k) != v}
    return {"engine": {"kind_weights": Config.kind_weights, **kept}}


def _rebuild(path: Path, folder: Path, found: int) -> State:
    """The same documents and lessons, as if they were new."""
    warnings.warn(
        f"{path} has format {found}: it is laid anew from its documents each time it is opened, "
        "until it is saved: sparse-jax search save DIR",
        stacklevel=5,
    )
    settings = json.loads((folder / "settings.json").read_bytes())
    lines = Lines(folder / "documents.jsonl", np.load(folder / "lines.npy", allow_pickle=False))
    living = [lines[number] for number in range(len(lines))]
    state = State.fit(living, _config(_without_former(settings)))
    state.feedback = settings["feedback"]
    if state.feedback:
        state.refresh()
    return state


def _read(folder: Path) -> State:
    settings = json.loads((folder / "settings.json").read_bytes())
    found = arrays.read(folder)
    lines = Lines(folder / "documents.jsonl", found["lines"])
    documents = Documents(lines, found["digests"])
    config = _config(settings)
    engine = Engine(config)
    engine.trained = settings["trained"]
    for name in ("wide", "bm25"):
        parts = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{name}.")}
        old = getattr(engine, name)
        new = Postings.restore(config.num_features, parts, k1=old.k1, b=old.b)
        setattr(engine, name, new)
    if "deep_idf.others" in found:
        engine.deep_idf = np.full(config.num_features, found["deep_idf.others"], np.float32)
        engine.deep_idf[found["deep_idf.ids"]] = found["deep_idf.values"]
    else:
        engine.deep_idf = _idf(engine)
    engine.stored = Stored(
        config.seed, config.num_features, *(found[f"network.{n}"] for n in _STORED)
    )
    learner = Learner(engine, FeedbackConfig(**settings["feedback_config"]))
    counts = len(lines), documents.digests.size, engine.num_documents, len(engine.stored.output)
    if len(set(counts)) > 1:
        raise ValueError(
            f"{counts[0]} documents, {counts[1]} digests, {counts[2]} in the postings, "
            f"{counts[3]} in the network"
        )
    state = State(documents, engine, learner, known=found["known"])
    remember(state, settings, found)
    return state
