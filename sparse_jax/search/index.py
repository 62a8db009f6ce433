"""The index: documents, search, feedback and the disk, under one lock.

On disk an index is a directory: a snapshot, a log of what happened since, and a manifest that names
the two. Every change is in the log, on the disk, before it is made in memory and acknowledged;
loading reads the snapshot and repeats the log. `save` writes a new snapshot and changes the
manifest in one step. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.search import snapshot
from sparse_jax.search.config import Config
from sparse_jax.search.documents import Document, Documents, check_documents, check_query
from sparse_jax.search.engine import MAX_QUERIES, Engine
from sparse_jax.search.feedback import Learner
from sparse_jax.search.journal import Journal, read_journal, take_lock
from sparse_jax.text.postings import best

__all__ = ["Index", "Result", "fit", "load"]

_FEEDBACK = ("upvote", "associate")


class Result(NamedTuple):
    """A document found."""

    id: str
    score: float
    document: Document


class Index:
    """An index in memory, and on disk once `save` was given a path. Made by `fit` and `load`.

    Its methods may be called from several threads.
    """

    def __init__(self, documents: Documents, engine: Engine, learner: Learner) -> None:
        self._documents, self._engine, self._learner = documents, engine, learner
        self._path: Path | None = None
        self._journal: Journal | None = None
        self._lock_file: int | None = None
        self._read_only = False
        self._lock = threading.RLock()
        self._events: list[dict[str, Any]] = []  # since the snapshot, in order

    def __len__(self) -> int:
        return len(self._documents)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------- searching

    def search(
        self, query: str, *, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[Result]:
        """The best documents for a query.

        Args:
          query: words; at most `MAX_QUERY` characters.
          k: how many.
          where: only documents with this metadata: for each key a value, or several of which one
            must be.

        Returns:
          At most k results, best first; equal scores in order of insertion.

        Raises:
          ValueError: if the query has no letter or digit, or is too long, or k is below 1.
          KeyError: if no document has a key of `where`.
        """
        check_query(query)
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        with self._lock:
            allowed = self._documents.matching(where)
            scores = np.where(allowed, self._engine.score(self._engine.read(query)), -np.inf)
            found = best(scores, k)
            return [self._result(n, scores[n]) for n in found[found >= 0]]

    def search_batch(
        self, queries: Sequence[str], *, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[list[Result]]:
        """`search` for several queries, faster; none is answered if one is refused."""
        for query in queries:
            check_query(query)
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        out = []
        with self._lock:
            allowed = self._documents.matching(where)
            for first in range(0, len(queries), MAX_QUERIES):
                read = self._engine.read_batch(queries[first : first + MAX_QUERIES])
                scores = self._engine.score_batch(read)
                scores[:, ~allowed] = -np.inf
                for row in scores:
                    found = best(row, k)
                    out.append([self._result(n, row[n]) for n in found[found >= 0]])
        return out

    def get(self, id: str) -> Document:
        """A document by its id.

        Raises:
          KeyError: if there is none.
        """
        with self._lock:
            found = self._documents.items[self._documents.number(id)]
            assert found is not None
            return found

    def explain(self, query: str, id: str) -> list[tuple[str, float]]:
        """How much each word of the query adds to the score of a document.

        Every part of a score is a sum over features; a feature's share goes to the words it was
        made from, in equal parts.

        Returns:
          (word, contribution) in the order of the query; the contributions sum to the score.

        Raises:
          ValueError: as `search`. KeyError: if there is no such document.
        """
        check_query(query)
        with self._lock:
            number = self._documents.number(id)
            return self._engine.explain(query, number)

    # ----------------------------------------------------------------------------------- changing

    def insert(self, documents: Iterable[Document]) -> None:
        """Adds documents, found at once; trains nothing.

        Raises:
          ValueError: if an id is taken or comes twice; nothing is added then.
        """
        new = check_documents(documents)
        with self._lock:
            self._documents.check_new(new)
            if new:
                self._do({"do": "insert", "documents": [d.record() for d in new]})

    def delete(self, id: str) -> None:
        """Takes a document out; its id becomes free.

        Raises:
          KeyError: if there is none.
        """
        with self._lock:
            self._documents.number(id)
            self._do({"do": "delete", "id": id})

    def upvote(self, query: str, id: str) -> int:
        """Learns that a document answers a query.

        Returns:
          The number of the event, for `undo`.

        Raises:
          ValueError: as `search`. KeyError: if there is no such document.
        """
        check_query(query)
        with self._lock:
            self._documents.number(id)
            return self._do({"do": "upvote", "query": query, "id": id})

    def associate(self, source: str, target: str) -> int:
        """Learns that a text means another: it then finds what the other one finds.

        Returns:
          The number of the event, for `undo`.

        Raises:
          ValueError: as `search`, for either text.
        """
        check_query(source, "source")
        check_query(target, "target")
        with self._lock:
            return self._do({"do": "associate", "source": source, "target": target})

    def learn_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[int]:
        """Supervised pairs of (query, id): upvotes, all checked before the first is learned."""
        pairs = list(pairs)
        with self._lock:
            for query, id in pairs:
                check_query(query)
                self._documents.number(id)
            return [self.upvote(query, id) for query, id in pairs]

    def undo(self, event: int | None = None) -> int:
        """Takes feedback back, exactly: the snapshot is loaded and all else repeated.

        Args:
          event: a number that `upvote` or `associate` returned since the last `save`; None for the
            last one that still holds.

        Returns:
          The number of the event undone.

        Raises:
          ValueError: if there is no such feedback since the last save, or the index has no path.
        """
        with self._lock:
            if self._path is None:
                raise ValueError("undo needs an index on disk: call save(path) before the feedback")
            undone = {e["event"] for e in self._events if e["do"] == "undo"}
            open_ = [
                i for i, e in enumerate(self._events) if e["do"] in _FEEDBACK and i not in undone
            ]
            if event is None and open_:
                event = open_[-1]
            if event not in open_:
                what = "no feedback" if event is None else f"no feedback with number {event}"
                raise ValueError(f"{what} since the last save is left to undo; open: {open_}")
            assert event is not None
            self._do({"do": "undo", "event": event})
            return event

    # ------------------------------------------------------------------------------------ the disk

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Writes a snapshot and begins a new log; feedback until now can't be undone any more.

        Args:
          path: a directory, new or that of an index, which is then replaced; None for the
            directory the index came from.

        Raises:
          ValueError: if there is no path, or the index was opened to be read only.
          LockError: if another process writes to it.
        """
        with self._lock:
            target = Path(path) if path is not None else self._path
            if target is None:
                raise ValueError("save needs a path: this index has none yet")
            if self._read_only and target == self._path:
                raise ValueError(f"{target} was opened with read_only=True: load it without")
            target.mkdir(parents=True, exist_ok=True)
            if self._lock_file is None or target != self._path:
                taken = take_lock(target)
                self.close()
                self._lock_file = taken
            log = snapshot.write(target, self._documents, self._engine, self._learner)
            if self._journal is not None:
                self._journal.close()
            self._path, self._journal, self._events = target, Journal(log), []
            self._read_only = False
            snapshot.clean(target)

    def close(self) -> None:
        """Closes the log and lets others write. The index can still be searched."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal, self._read_only = None, True
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    # ------------------------------------------------------------------------------------- inside

    def _do(self, record: dict[str, Any]) -> int:
        """Logs a change that was found right, makes it, and returns its number."""
        if self._read_only:
            raise ValueError("this index is read only: load it with read_only=False to change it")
        if self._journal is not None:
            self._journal.append(record)
        self._events.append(record)
        if record["do"] == "undo":
            self._rebuild()
        else:
            self._apply(record)
        return len(self._events) - 1

    def _apply(self, record: dict[str, Any]) -> None:
        documents, engine, learner = self._documents, self._engine, self._learner
        match record["do"]:
            case "insert":
                new = [Document(**fields) for fields in record["documents"]]
                engine.insert([d.text for d in new], [d.title for d in new])
                documents.add(new)
            case "delete":
                documents.remove(record["id"])
            case "upvote":
                number = documents.number(record["id"])
                learner.upvote(record["query"], number, documents.alive)
            case "associate":
                learner.associate(record["source"], record["target"], documents.alive)
            case other:
                raise ValueError(f"the log holds {other!r}, which this version doesn't know")

    def _rebuild(self) -> None:
        """Loads the snapshot and repeats all events but those undone."""
        assert self._path is not None
        self._documents, self._engine, self._learner, _ = snapshot.read(self._path)
        undone = {e["event"] for e in self._events if e["do"] == "undo"}
        for number, event in enumerate(self._events):
            if event["do"] != "undo" and number not in undone:
                self._apply(event)

    def _result(self, number: int, score: float) -> Result:
        document = self._documents.items[number]
        assert document is not None
        return Result(document.id, float(score), document)


def fit(documents: Iterable[Document], *, config: Config | None = None) -> Index:
    """Makes an index of documents, and trains its network on their own texts.

    Args:
      documents: at least one.
      config: what it computes.

    Returns:
      An `Index`, in memory; `save` gives it a place on disk.

    Raises:
      ValueError: if there is no document, or ids repeat.

    Example:
      >>> docs = [Document("a", "red apples grow on trees"), Document("b", "cars need fuel")]
      >>> index = fit(docs, config=Config(num_features=1 << 12, dim=8, cold_steps=2))
      >>> index.search("apple tree", k=1)[0].id
      'a'
    """
    new = check_documents(documents)
    if not new:
        raise ValueError("documents is empty: an index learns from its first documents; give one")
    store, engine = Documents(), Engine(config or Config())
    store.check_new(new)
    engine.fit([d.text for d in new], [d.title for d in new])
    store.add(new)
    learner = Learner(engine)
    learner.remember(_pieces(new, learner.config.remembered, engine.config.seed))
    return Index(store, engine, learner)


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
    """
    place = Path(path)
    snapshot.check(place)
    taken = None if read_only else take_lock(place)
    try:
        documents, engine, learner, log = snapshot.read(place)
        index = Index(documents, engine, learner)
        index._path, index._read_only, index._lock_file = place, read_only, taken
        index._events = read_journal(log)[0] if log.exists() else []
        undone = {e["event"] for e in index._events if e["do"] == "undo"}
        for number, event in enumerate(index._events):
            if event["do"] != "undo" and number not in undone:
                index._apply(event)
        if not read_only:
            index._journal = Journal(log)
            snapshot.clean(place)
    except BaseException:
        if taken is not None:
            os.close(taken)
        raise
    return index


def _pieces(documents: Sequence[Document], count: int, seed: int) -> list[str]:
    """Titles, and beginnings of texts: queries whose answers feedback should leave alone."""
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = rng.choice(len(documents), min(count, len(documents)), replace=False)
    found = []
    for i, n in enumerate(chosen):
        document = documents[n]
        text = document.title if document.title and i % 2 else document.text
        found.append(" ".join(text.split()[:12]))
    return found
