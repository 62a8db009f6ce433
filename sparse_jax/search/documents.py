"""Documents: what is stored of them, which are alive, and reading them from JSONL."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparse_jax.text.features import normalize

__all__ = [
    "MAX_QUERY",
    "Document",
    "Documents",
    "check_distinct",
    "check_documents",
    "check_k",
    "check_query",
    "check_text",
]

MAX_TEXT = 10_000_000
"""Most characters of one document."""
MAX_QUERY = 10_000
"""Most characters of a query."""


@dataclasses.dataclass(frozen=True)
class Document:
    """What an index keeps: a weak field (text), a strong one (title), and metadata to filter by.

    Args:
      id: not blank, of its own.
      text: what it says.
      title: words that count more than those of the text.
      metadata: JSON values by name, to filter by.

    Raises:
      TypeError: if a text is no string.
      ValueError: if the id is blank, a text too long, or metadata of another kind.

    Example:
      >>> Document("a", "red apples grow", metadata={"kind": "fruit"}).record()["metadata"]
      {'kind': 'fruit'}
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise ValueError(f"id = {self.id!r}: must be a string that isn't blank")
        for name in ("id", "text", "title"):
            check_text(name, getattr(self, name), MAX_TEXT)
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f"metadata = {self.metadata!r}: must be a mapping")
        for key, value in self.metadata.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float | bool | None):
                raise ValueError(
                    f"metadata[{key!r}] = {value!r} of document {self.id!r}: keys must be strings, "
                    f"values strings, numbers, booleans or None"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"metadata[{key!r}] = {value!r} of document {self.id!r}: must be finite, as "
                    f"numbers in JSON are; leave it out or write it as a string"
                )

    def record(self) -> dict[str, Any]:
        """Plain JSON.

        Returns:
          The fields by name.
        """
        return dataclasses.asdict(self)


def check_text(name: str, value: Any, max_characters: int) -> str:
    """Refuses what is no string, has halves of surrogate pairs, or is too long."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if len(value) > max_characters:
        raise ValueError(
            f"{name} has {len(value):,} characters: must be at most {max_characters:,}; shorten it"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half a surrogate pair at character {error.start}: it was decoded with "
            f"the wrong encoding; read it as UTF-8"
        ) from None
    return value


def check_query(query: str, name: str = "query") -> str:
    """Refuses what can't be searched for.

    Raises:
      TypeError: if it is no string. ValueError: if it is too long, wrongly decoded, or empty.

    Example:
      >>> check_query(" ?! ")
      Traceback (most recent call last):
      ValueError: query = ' ?! ': has no letter or digit to search for
    """
    check_text(name, query, MAX_QUERY)
    if not normalize(query).split():
        raise ValueError(f"{name} = {query[:40]!r}: has no letter or digit to search for")
    return query


def check_k(k: int) -> None:
    """Refuses a number of documents that can't be asked for."""
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")


def check_documents(documents: Iterable[Document]) -> list[Document]:
    """Refuses what is no `Document`."""
    new = list(documents)
    for document in new:
        if not isinstance(document, Document):
            raise TypeError(f"documents must be Document, got {type(document).__name__}")
    return new


def check_distinct(documents: Iterable[Document]) -> None:
    """Refuses ids that come twice."""
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise ValueError(f"id {document.id!r} comes twice: give each document one of its own")
        seen.add(document.id)


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
          where: for each key the value, or a list, tuple or set of values, one of which it must be.
            Values are equal as in JSON: 1 is 1.0, but neither True nor "1"; None is null, and no
            document without the key has it.
        """
        if not where:
            return self.alive
        allowed = {key: _allowed(key, value) for key, value in where.items()}
        known = {key for item in self.items if item is not None for key in item.metadata}
        for key in allowed:
            if known and key not in known:
                raise KeyError(f"no document has the metadata {key!r}; known: {sorted(known)}")
        out = np.zeros(len(self.items), np.bool_)
        for number, item in enumerate(self.items):
            out[number] = item is not None and all(
                key in item.metadata and _typed(item.metadata[key]) in values
                for key, values in allowed.items()
            )
        return out


def _typed(value: Any) -> tuple[bool, Any]:
    """What two values must have equal to be one: Python's True is 1 as well, JSON's is not."""
    return isinstance(value, bool), value


def _allowed(key: str, value: Any) -> set[tuple[bool, Any]]:
    """Values of which a document must have one."""
    several = isinstance(value, list | tuple | set | frozenset)
    values = [v.item() if isinstance(v, np.generic) else v for v in (value if several else [value])]
    for one in values:
        if not isinstance(one, str | int | float | bool | None):
            raise TypeError(
                f"where[{key!r}] = {one!r}: must be a string, a number, a boolean or None, or a "
                f"list of these; metadata holds nothing else"
            )
    return {_typed(one) for one in values}


def _digest(document: Document) -> int:
    """64 bits of id, title and text: what a network can have learned of a document."""
    parts = (document.id, document.title, document.text)
    data = b"".join(len(p).to_bytes(8) + p for p in (part.encode() for part in parts))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
