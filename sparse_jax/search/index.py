"""The index: documents, search, feedback and the disk, under one lock.

On disk it is a directory: a snapshot, a log of what happened since, and a manifest that names both.
Every change is in the log, on the disk, before it is made and acknowledged; loading reads the
snapshot and repeats the log. `save` writes a new snapshot and changes the manifest in one step.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.search import snapshot, taught
from sparse_jax.search.documents import (
    Document,
    check_distinct,
    check_documents,
    check_k,
    check_query,
)
from sparse_jax.search.engine import MAX_QUERIES
from sparse_jax.search.explain import explain
from sparse_jax.search.journal import Journal, read_journal, take_lock
from sparse_jax.search.result import Result
from sparse_jax.search.state import State, brief, feedback_in_force, is_same
from sparse_jax.text.postings import best

__all__ = ["Index"]


class Index:
    """An index in memory, and on disk once `save` was given a path. Made by `fit` and `load`.
    Its methods may be called from several threads.

    Example:
      >>> from sparse_jax import search
      >>> documents = [Document("a", "red apples grow on trees"), Document("b", "cars need fuel")]
      >>> config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
      >>> index = search.fit(documents, config=config)
      >>> index.insert([Document("c", "boats float")])
      >>> event = index.upvote("ship", "c")
      >>> index.search("ship", k=1)[0].id
      'c'
    """

    def __init__(
        self,
        state: State,
        *,
        path: Path | None = None,
        lock_file: int | None = None,
        records: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._state, self._path, self._lock_file = state, path, lock_file
        self._read_only = path is not None and lock_file is None
        self._journal: Journal | None = None
        self._lock = threading.RLock()
        self._events = [brief(record) for record in records]  # since the snapshot
        self._made = len(records)  # as many as these, unless making one failed

    _documents = property(lambda self: self._state.documents)
    _engine = property(lambda self: self._state.engine)

    def __len__(self) -> int:
        return len(self._documents)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(
        self, query: str, *, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[Result]:
        """The best documents for a query.

        Args:
          query: words; at most `MAX_QUERY` characters.
          k: how many.
          where: only documents with this metadata: for each key a value, a list of which one must
            be, or operators, as in ``{"year": {">": 2005}}``: see `documents.filters`.

        Returns:
          At most k results, best first; equal scores in order of insertion.

        Raises:
          ValueError: if the query has no letter or digit or is too long, k is below 1, or an
            operator unknown. KeyError: if no document has a key of `where`. TypeError: if a value
            of it can't be metadata, or is of another type than the documents' in a range.
        """
        check_query(query)
        check_k(k)
        with self._lock:
            self._settle()
            allowed = self._documents.matching(where)
            scores = np.where(allowed, self._engine.score(self._engine.read(query)), -np.inf)
            found = best(scores, k)
            return [self._result(n, scores[n], query) for n in found[found >= 0]]

    def search_batch(
        self, queries: Sequence[str], *, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[list[Result]]:
        """`search` for several queries, faster; none is answered if one is refused.

        Args:
          queries: any number.
          k: how many for each.
          where: as for `search`.

        Returns:
          What `search` returns, for each query.

        Raises:
          ValueError: as `search`.
        """
        for query in queries:
            check_query(query)
        check_k(k)
        out = []
        with self._lock:
            self._settle()
            allowed = self._documents.matching(where)
            for first in range(0, len(queries), MAX_QUERIES):
                part = queries[first : first + MAX_QUERIES]
                scores = self._engine.score_batch(self._engine.read_batch(part))
                scores[:, ~allowed] = -np.inf
                for query, row in zip(part, scores, strict=True):
                    found = best(row, k)
                    out.append([self._result(n, row[n], query) for n in found[found >= 0]])
        return out

    def get(self, id: str) -> Document:
        """A document by its id.

        Args:
          id: of the document.

        Returns:
          The `Document`.

        Raises:
          KeyError: if there is none.
        """
        with self._lock:
            return self._documents.item(self._documents.number(id))

    def explain(self, query: str, id: str) -> list[tuple[str, float]]:
        """How much each word of the query adds to the score of a document.

        Every part of a score is a sum over features; a feature's share goes to the words it was
        made from, in equal parts.

        Args:
          query: words.
          id: of a document, found by the query or not.

        Returns:
          (word, contribution) in the order of the query; the contributions sum to the score.

        Raises:
          ValueError: as `search`. KeyError: if there is no such document.
        """
        check_query(query)
        with self._lock:
            number = self._documents.number(id)
            self._settle()
            return explain(self._engine, query, number)

    def insert(self, documents: Iterable[Document]) -> None:
        """Adds documents, found at once, and scored as if they had been there from the start.

        It trains nothing. Where the network knows less than half of them then, the next search lays
        it anew first; `refresh` does so before.

        Args:
          documents: any number, of ids that aren't taken.

        Raises:
          ValueError: if an id is taken or comes twice; nothing is added then.
        """
        new = check_documents(documents)
        with self._lock:
            self._documents.check_new(new)
            if new:
                self._do({"do": "insert", "documents": [d.record() for d in new]})

    def upsert(self, documents: Iterable[Document]) -> None:
        """Adds documents, in place of those that have their ids; equal ones stay as they are.

        Args:
          documents: any number.

        Raises:
          ValueError: if an id comes twice; nothing is changed then.
        """
        new = check_documents(documents)
        with self._lock:
            check_distinct(new)
            items, numbers = self._documents.items, self._documents.numbers
            old = {d.id: items[numbers[d.id]] for d in new if d.id in numbers}
            new = [d for d in new if (o := old.get(d.id)) is None or not is_same(d, o)]
            if new:
                self._do({"do": "upsert", "documents": [d.record() for d in new]})

    def delete(self, id: str) -> None:
        """Takes a document out, of all statistics too; its id becomes free.

        Args:
          id: of the document.

        Raises:
          KeyError: if there is none.
        """
        with self._lock:
            self._documents.number(id)
            self._do({"do": "delete", "id": id})

    def refresh(self) -> bool:
        """Lays the network anew now, where the next search would have to do so; see `state`.

        That takes as long as `fit`, and as all feedback took; `load` repeats it until `save`.

        Returns:
          Whether it was due.
        """
        with self._lock:
            return self._settle()

    def upvote(self, query: str, id: str) -> int:
        """Learns that a document answers a query.

        Args:
          query: words.
          id: of the document that answers them.

        Returns:
          The number of the event, for `undo`.

        Raises:
          ValueError: as `search`. KeyError: if there is no such document.
        """
        check_query(query)
        with self._lock:
            self._documents.number(id)
            self._settle()
            return self._do({"do": "upvote", "query": query, "id": id})

    def associate(self, source: str, target: str) -> int:
        """Learns that a text means another: it then finds what the other one finds.

        Args:
          source: a text that people search for.
          target: what it means.

        Returns:
          The number of the event, for `undo`.

        Raises:
          ValueError: as `search`, for either text.
        """
        check_query(source, "source")
        check_query(target, "target")
        with self._lock:
            if not len(self):
                raise ValueError("the index holds no document: insert some before it can learn")
            self._settle()
            return self._do({"do": "associate", "source": source, "target": target})

    def learn_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[int]:
        """Supervised pairs of (query, id): upvotes, all checked before the first is learned.

        Args:
          pairs: of a query and the id of a document that answers it.

        Returns:
          The numbers of the events, for `undo`.

        Raises:
          ValueError: as `search`. KeyError: if there is no such document; nothing is learned then.
        """
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
            open_ = feedback_in_force(self._events)
            event = open_[-1] if event is None and open_ else event
            if event is None or event not in open_:
                what = "no feedback" if event is None else f"no feedback with number {event}"
                raise ValueError(f"{what} since the last save is left to undo; open: {open_}")
            self._do({"do": "undo", "event": event})
            return event

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Writes a snapshot and begins a new log; feedback until now can't be undone any more.

        Args:
          path: a directory, new or that of an index, which is then replaced; None for the
            directory the index came from.

        Raises:
          ValueError: if there is no path, or it is read only. LockError: if another process writes
            to it. OSError: if the disk fails; what was acknowledged stays.
        """
        with self._lock:
            target = Path(path) if path is not None else self._path
            if target is None:
                raise ValueError("save needs a path: this index has none yet")
            if self._read_only and target == self._path:
                raise ValueError(f"{target} was opened with read_only=True: load it without")
            target.mkdir(parents=True, exist_ok=True)
            stays = self._lock_file if target == self._path else None
            taken = take_lock(target) if stays is None else stays
            try:
                self._settle()
                self._state.compact()
                journal = snapshot.write(target, self._state)
            except BaseException:
                if stays is None:
                    os.close(taken)
                elif self._journal and not snapshot.is_current(target, self._journal.path):
                    self.close()  # what the old log took from now on, no one would read
                raise
            if stays is not None:
                self._lock_file = None
            self._events, self._made = [], 0
            self.close()
            self._path, self._lock_file, self._journal = target, taken, journal
            self._read_only = False
            self._state.is_settled = False  # it may be due, and can be laid anew from now on
            snapshot.clean(target)

    def close(self) -> None:
        """Closes the log and lets others write; the index can still be searched."""
        with self._lock:
            if self._journal is not None:
                if self._made == len(self._events):
                    taught.keep(self._state, self._events, self._journal.path)
                self._journal.close()
                self._journal, self._read_only = None, True
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def _do(self, record: dict[str, Any]) -> int:
        """Logs a change that was found right, makes it, and returns its number."""
        if self._read_only:
            raise ValueError("this index is read only: load it with read_only=False to change it")
        if self._journal is not None:
            self._journal.append(record)
        number = len(self._events)
        self._events.append(brief(record))
        if record["do"] == "undo":
            assert self._path is not None
            self._state, log = snapshot.read(self._path)
            self._state.replay(read_journal(log)[0])  # all but what is undone
            self._made = number
        else:
            self._state.apply(record)
        self._made += self._made == number
        return number

    def _settle(self) -> bool:
        """Does what is due before scoring, unless the disk is full: a change, logged as one."""
        is_new = False
        if not self._state.is_settled and self._state.is_due() and not self._read_only:
            with contextlib.suppress(OSError):
                is_new = self._do({"do": "refresh"}) >= 0
        self._state.settle()
        return is_new

    def _result(self, number: int, score: float, query: str) -> Result:
        found = self._documents.item(number)
        return Result(found.id, float(score), found, query)
