"""What an index holds, and how changes make it.

Scores of words are those of the documents alive, whatever came before. The network is laid on the
documents of a moment, and anew (`State.is_due`, `State.refresh`) when these are no longer most of
what there is; feedback is then given again, in its order. That is a change like the others, and in
the log: it is made before the first search, save or lesson after it is due. So:

* fewer than `Config.train_from` documents, no feedback: nothing is trained, and the network follows
  every change; scores are exactly those of an index made at once from what is there;
* otherwise the network stays until more than half of the documents were not among those that it was
  laid on, until there are enough to train on, or until there are fewer than half of enough.

Training sees the documents in order of their ids: it depends on what they are, not on how they
came.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_jax.search.config import Config
from sparse_jax.search.documents import Document, Documents
from sparse_jax.search.engine import Engine
from sparse_jax.search.feedback import Learner

__all__ = ["State", "brief", "feedback_in_force", "is_same"]


class State:
    """Documents, the engine that scores them, and what it was taught.

    Args:
      documents: of the index.
      engine: that has scored them so far.
      learner: on this engine.
      feedback: all that was given and not undone, in order.
      known: uint64 [n], digests of the documents that the network was laid on.
    """

    def __init__(
        self,
        documents: Documents,
        engine: Engine,
        learner: Learner,
        *,
        feedback: Sequence[dict[str, Any]] = (),
        known: np.ndarray | None = None,
    ) -> None:
        self.documents, self.engine, self.learner = documents, engine, learner
        self.feedback = list(feedback)
        self.known = np.zeros(0, np.uint64) if known is None else known
        self.is_settled = True  # whether nothing is left to do before scoring

    @classmethod
    def fit(cls, documents: Sequence[Document], config: Config) -> State:
        """Of the first documents, at least one."""
        store, engine = Documents(), Engine(config)
        store.check_new(documents)
        store.add(documents)
        state = cls(store, engine, Learner(engine))
        train = len(documents) >= config.train_from
        texts, titles = _fields(documents)
        engine.fit(texts, titles, order=_order(documents), train=train)
        state._laid(documents)
        return state

    def apply(self, record: dict[str, Any], *, learn: bool = True) -> None:
        """Makes a change.

        Args:
          record: of the log.
          learn: False leaves the learning to a `refresh` that comes later.

        Raises:
          ValueError: if it is of an unknown kind.
        """
        match record["do"]:
            case "insert" | "upsert":
                new = [Document(**fields) for fields in record["documents"]]
                for document in new:
                    if document.id in self.documents.numbers:
                        self._remove(document.id)
                texts, titles = _fields(new)
                self.engine.insert(texts, titles)
                self.documents.add(new)
                self._changed()
                if learn:
                    self._teach_again({document.id for document in new})
            case "delete":
                self._remove(record["id"])
                self._changed()
            case "upvote" | "associate":
                self.feedback.append(record)
                if learn:
                    self._teach(record)
            case "refresh":
                self.refresh()
            case other:
                raise ValueError(f"the log holds {other!r}, which this version doesn't know")

    def replay(self, records: Sequence[dict[str, Any]], *, done: int = 0) -> None:
        """Makes the changes of a log, but those undone, and those that are `done` already.

        What was learned before the last `refresh` is learned then, not twice.
        """
        undone = {record["event"] for record in records if record["do"] == "undo"}
        last = max((n for n, r in enumerate(records) if r["do"] == "refresh"), default=-1)
        for number, record in enumerate(records):
            skipped = number < done or record["do"] == "undo" or number in undone
            if not skipped and (record["do"] != "refresh" or number == last):
                self.apply(record, learn=number > last)

    def is_due(self) -> bool:
        """Whether the network should be laid anew, on what there is now."""
        engine, documents = self.engine, self.documents
        enough, count = engine.config.train_from, len(documents)
        if not count:
            return False
        if count < enough / 2 if engine.trained else count >= enough:
            return True
        if engine.pristine:
            return False
        unknown = ~np.isin(documents.digests[documents.alive], self.known)
        return 2 * int(np.count_nonzero(unknown)) > count

    def settle(self) -> None:
        """Has an untrained network follow the documents, so that scores are right."""
        if not self.is_settled and self.engine.pristine:
            self._lay(train=False)
        self.is_settled = True

    def refresh(self) -> None:
        """Lays the network on what there is, and gives all feedback again."""
        self.learner.reset()
        self._lay(train=len(self.documents) >= self.engine.config.train_from)
        self._laid(self.documents.living())
        for record in self.feedback:
            if record["do"] != "upvote" or record["id"] in self.documents.numbers:
                self._teach(record)

    def compact(self) -> None:
        """Gives back what dead documents take."""
        if not self.documents.alive.all():
            self.learner.renumber(self.engine.compact())
            self.documents.compact()

    def _changed(self) -> None:
        self.is_settled = False
        if 4 * np.count_nonzero(~self.documents.alive) > self.documents.alive.size:
            self.compact()

    def _remove(self, id: str) -> None:
        number = self.documents.number(id)
        document = self.documents.items[number]
        assert document is not None
        self.engine.delete(number, document.text, document.title)
        self.documents.remove(id)

    def _lay(self, *, train: bool) -> None:
        living = self.documents.living()
        texts, titles = _fields(living)
        numbers = np.flatnonzero(self.documents.alive)
        self.engine.lay(texts, titles, numbers, order=_order(living), train=train)
        self.is_settled = True

    def _laid(self, living: Sequence[Document]) -> None:
        """Notes what the network was laid on; of a trained one, also answers to keep."""
        self.known = np.sort(self.documents.digests[self.documents.alive])
        if self.engine.trained:
            self._remember(living)

    def _remember(self, living: Sequence[Document]) -> None:
        ordered = [living[i] for i in _order(living)]
        texts = _pieces(ordered, self.learner.config.remembered, self.engine.config.seed)
        self.learner.remember(texts, self.documents.alive)

    def _teach(self, record: dict[str, Any]) -> None:
        self.settle()
        if self.engine.pristine:  # from now on the network stays until it is due
            self.known = np.sort(self.documents.digests[self.documents.alive])
        if self.learner.base is None:
            self._remember(self.documents.living())
        alive = self.documents.alive
        if record["do"] == "upvote":
            self.learner.upvote(record["query"], self.documents.number(record["id"]), alive)
        else:
            self.learner.associate(record["source"], record["target"], alive)

    def _teach_again(self, ids: set[str]) -> None:
        """Upvotes belong to an id: a document that comes back under it is found as before."""
        for record in self.feedback:
            if record["do"] == "upvote" and record["id"] in ids:
                self._teach(record)


def is_same(a: Document, b: Document) -> bool:
    """Whether two documents are equal as JSON, where true is not 1."""
    return json.dumps(a.record(), sort_keys=True) == json.dumps(b.record(), sort_keys=True)


def brief(record: dict[str, Any]) -> dict[str, Any]:
    """What `undo` must know of a change; documents stay on the disk."""
    return {name: value for name, value in record.items() if name != "documents"}


def feedback_in_force(records: Sequence[dict[str, Any]]) -> list[int]:
    """Which of the changes taught something and weren't undone."""
    undone = {record["event"] for record in records if record["do"] == "undo"}
    teaching = (n for n, r in enumerate(records) if r["do"] in ("upvote", "associate"))
    return [number for number in teaching if number not in undone]


def _fields(documents: Sequence[Document]) -> tuple[list[str], list[str]]:
    return [d.text for d in documents], [d.title for d in documents]


def _order(documents: Sequence[Document]) -> np.ndarray:
    """By ids, in order of code points."""
    return np.array(sorted(range(len(documents)), key=lambda i: documents[i].id), np.int64)


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
