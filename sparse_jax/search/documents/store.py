"""The documents of an index: by number and by id, which are alive, and which a filter allows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparse_jax.search.documents import filters
from sparse_jax.search.documents.document import Document, check_distinct

__all__ = ["Documents"]


class Documents:
    """Documents by number and by id; deleted ones keep their number until `compact`."""

    def __init__(self) -> None:
        self.items: list[Document | None] = []
        self.numbers: dict[str, int] = {}
        self.alive = np.zeros(0, np.bool_)
        self.digests = np.zeros(0, np.uint64)  # of what is searched of each

    def __len__(self) -> int:
        return len(self.numbers)

    def check_new(self, documents: Iterable[Document]) -> None:
        """Refuses ids that are taken or given twice."""
        new = list(documents)
        for document in new:
            if document.id in self.numbers:
                raise ValueError(
                    f"id {document.id!r} is already in the index: delete it first, use upsert, or "
                    f"give the document another id"
                )
        check_distinct(new)

    def add(self, documents: Iterable[Document]) -> None:
        new = list(documents)
        for number, document in enumerate(new, len(self.items)):
            self.numbers[document.id] = number
        self.items += new
        self.alive = np.concatenate([self.alive, np.ones(len(new), np.bool_)])
        digests = np.array([_digest(document) for document in new], np.uint64)
        self.digests = np.concatenate([self.digests, digests])

    def living(self) -> list[Document]:
        """The documents alive, in order of number, which is that of insertion."""
        return [item for item in self.items if item is not None]

    def compact(self) -> None:
        """Numbers the documents alive anew, in order."""
        self.items = list(self.living())
        self.numbers = {item.id: n for n, item in enumerate(self.items) if item is not None}
        self.digests = self.digests[self.alive]
        self.alive = np.ones(len(self.items), np.bool_)

    def number(self, identifier: str) -> int:
        """The number of an id.

        Raises:
          KeyError: if there is no such document.
        """
        try:
            return self.numbers[identifier]
        except (KeyError, TypeError):
            raise KeyError(
                f"no document has the id {identifier!r}; the index holds {len(self):,}"
            ) from None

    def remove(self, identifier: str) -> None:
        number = self.number(identifier)
        del self.numbers[identifier]
        self.items[number] = None
        self.alive[number] = False

    def matching(self, where: Mapping[str, Any] | None) -> np.ndarray:
        """bool [documents]: alive, and with the metadata asked for.

        Args:
          where: conditions by key: see `filters.parse`. A document without the key meets none.

        Raises:
          KeyError: if no document has a key. TypeError, ValueError: as `filters.parse`; also if a
            range is of strings where all values are numbers, or the other way round.
        """
        if not where:
            return self.alive
        conditions = filters.parse(where)
        living = [(n, item.metadata) for n, item in enumerate(self.items) if item is not None]
        known = {key for _, metadata in living for key in metadata}
        for key in conditions:
            if known and key not in known:
                raise KeyError(f"no document has the metadata {key!r}; known: {sorted(known)}")
        for condition in conditions.values():
            condition.check_ranges(m[condition.key] for _, m in living if condition.key in m)
        out = np.zeros(len(self.items), np.bool_)
        for number, metadata in living:
            out[number] = all(
                key in metadata and condition.allows(metadata[key])
                for key, condition in conditions.items()
            )
        return out


def _digest(document: Document) -> int:
    """64 bits of id, title and text: what a network can have learned of a document."""
    parts = (document.id, document.title, document.text)
    data = b"".join(len(p).to_bytes(8) + p for p in (part.encode() for part in parts))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
