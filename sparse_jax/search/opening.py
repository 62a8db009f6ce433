"""Making an index, and opening one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sparse_jax.search import snapshot, taught
from sparse_jax.search.config import Config
from sparse_jax.search.documents import Document, check_documents
from sparse_jax.search.index import Index
from sparse_jax.search.journal import Journal, LockError, read_journal, take_lock
from sparse_jax.search.state import State

__all__ = ["fit", "load"]


def fit(documents: Iterable[Document], *, config: Config | None = None) -> Index:
    """Makes an index of documents, and trains its network on their own texts.

    What comes and goes later counts as if it had been there, or not, from the start: see
    `sparse_jax.search.state`. A network is trained where there are `Config.train_from` documents.

    Args:
      documents: at least one.
      config: what it computes.

    Returns:
      An `Index`, in memory; `save` gives it a place on disk.

    Raises:
      ValueError: if there is no document, or ids repeat.

    Example:
      >>> docs = [Document("a", "red apples grow on trees"), Document("b", "cars need fuel")]
      >>> index = fit(docs, config=Config(num_features=1 << 12, dim=32, cold_steps=2))
      >>> index.search("apple tree", k=1)[0].id
      'a'
    """
    new = check_documents(documents)
    if not new:
        raise ValueError("documents is empty: an index learns from its first documents; give one")
    return Index(State.fit(new, config or Config()))


def load(path: str | os.PathLike[str], *, read_only: bool = False) -> Index:
    """Opens an index: its snapshot, and all that was acknowledged since.

    Args:
      path: the directory.
      read_only: don't take the right to write; changes are refused.

    Returns:
      An `Index`.

    Raises:
      FileNotFoundError: if there is no index. ValueError: if it is damaged, or was written by
        another version. LockError: if another process writes to it.

    Example:
      >>> import tempfile
      >>> docs = [Document("a", "red apples grow on trees"), Document("b", "cars need fuel")]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with fit(docs, config=Config(num_features=1 << 12, dim=8, cold_steps=2)) as index:
      ...         index.save(folder)
      ...     load(folder, read_only=True).get("b").text
      'cars need fuel'
    """
    place = Path(path)
    while True:
        manifest = snapshot.check(place)
        try:
            index = _open(place, read_only=read_only)
        except LockError:
            raise
        except (OSError, ValueError):
            if snapshot.check(place) == manifest:
                raise
        else:
            if not read_only or snapshot.check(place) == manifest:
                return index
        # A writer saved meanwhile: what the manifest named may be gone, and its log seem empty.


def _open(place: Path, *, read_only: bool) -> Index:
    """The index that the manifest names now."""
    taken = None if read_only else take_lock(place)
    try:
        state, log = snapshot.read(place)
        records = read_journal(log)[0] if log.exists() else []
        state.replay(records, done=taught.restore(state, records, log) if records else 0)
        index = Index(state, path=place, lock_file=taken, records=records)
        if not read_only:
            index._journal = Journal(log)
            snapshot.clean(place)
    except BaseException:
        if taken is not None:
            os.close(taken)
        raise
    return index
