"""The documents of an index: by number and by id, which are alive, and which a filter allows."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.search.documents import filters
from sparse_jax.search.documents.document import Document, check_distinct

__all__ = ["Documents", "Lines"]


class Lines:
    """Documents of a JSON line file, each parsed when it is asked for.

    Args:
      path: the file, which nothing changes.
      offsets: int64 [documents + 1], where lines begin.

    Raises:
      ValueError: if the file is not as long as the offsets say.
    """

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        self.path, self.offsets = path, offsets
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not offsets.size or size != offsets[-1]:
                raise ValueError(f"{path.name} has {size:,} bytes: must have {offsets[-1:]}")
            # An empty file can't be mapped.
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, number: int) -> Document:
        line = self._data[self.offsets[number] : self.offsets[number + 1]]
        try:
            return Document(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path}, line {number + 1} is damaged ({error}): restore it from a backup"
            ) from None


class Documents:
    """Documents by number and by id; deleted ones keep their number until `compact`.

    Args:
      lines: what they are read from when they are asked for; None for none.
    """

    def __init__(self, lines: Lines | None = None, digests: np.ndarray | None = None) -> None:
        self._lines = lines
        self._items: list[Document | None] = []
        self._numbers: dict[str, int] = {}
        count = len(lines) if lines is not None else 0
        self.alive = np.ones(count, np.bool_)
        # Of what is searched of each.
        self.digests = np.zeros(0, np.uint64) if digests is None else digests

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def items(self) -> list[Document | None]:
        """All documents by number, None for deleted ones."""
        self._read_all()
        return self._items

    @property
    def numbers(self) -> dict[str, int]:
        """Numbers by id."""
        self._read_all()
        return self._numbers

    def item(self, number: int) -> Document:
        """The document with a number, read alone if the others aren't needed."""
        found = self.items[number] if self._lines is None else self._lines[number]
        assert found is not None
        return found

    def _read_all(self) -> None:
        if self._lines is None:
            return
        found = [self._lines[number] for number in range(len(self._lines))]
        check_distinct(found)
        self._numbers = {document.id: number for number, document in enumerate(found)}
        self._items, self._lines = list(found), None

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
        self._items += new
        self.alive = np.concatenate([self.alive, np.ones(len(new), np.bool_)])
        digests = np.array([_digest(document) for document in new], np.uint64)
        self.digests = np.concatenate([self.digests, digests])

    def living(self) -> list[Document]:
        """The documents alive, in order of number, which is that of insertion."""
        return [item for item in self.items if item is not None]

    def compact(self) -> None:
        """Numbers the documents alive anew, in order."""
        living = self.living()
        self._items = list(living)
        self._numbers = {item.id: n for n, item in enumerate(living)}
        self.digests = self.digests[self.alive]
        self.alive = np.ones(len(living), np.bool_)

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
            if living and key not in known:
                listed = f"known: {sorted(known)}" if known else "none has any"
                raise KeyError(f"no document has the metadata {key!r}; {listed}")
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
