"""Documents: what is stored of them, which are alive, and reading them from JSONL."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparse_jax.text.features import normalize

__all__ = [
    "MAX_QUERY",
    "Document",
    "Documents",
    "check_documents",
    "check_query",
    "check_text",
]

MAX_TEXT = 10_000_000
"""Most characters of one document."""
MAX_QUERY = 10_000
"""Most characters of a query."""


@dataclasses.dataclass(frozen=True)
class Document:
    """What an index keeps: a weak field (text), a strong one (title), and metadata to filter by."""

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

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
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


def check_documents(documents: Iterable[Document]) -> list[Document]:
    """Refuses what is no `Document`."""
    new = list(documents)
    for document in new:
        if not isinstance(document, Document):
            raise TypeError(f"documents must be Document, got {type(document).__name__}")
    return new


class Documents:
    """Documents by number and by id; deleted ones keep their number."""

    def __init__(self) -> None:
        self.items: list[Document | None] = []
        self.numbers: dict[str, int] = {}
        self.alive = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self.numbers)

    def check_new(self, documents: Iterable[Document]) -> None:
        """Refuses ids that are taken or given twice."""
        seen: set[str] = set()
        for document in documents:
            if document.id in self.numbers or document.id in seen:
                raise ValueError(
                    f"id {document.id!r} is already in the index: delete it first, or give the "
                    f"document another id"
                )
            seen.add(document.id)

    def add(self, documents: Iterable[Document]) -> None:
        new = list(documents)
        for number, document in enumerate(new, len(self.items)):
            self.numbers[document.id] = number
        self.items += new
        self.alive = np.concatenate([self.alive, np.ones(len(new), np.bool_)])

    def restore(self, items: list[Document | None]) -> None:
        """Takes documents by number, None for those deleted."""
        self.items = items
        self.numbers = {item.id: n for n, item in enumerate(items) if item is not None}
        self.alive = np.array([item is not None for item in items], np.bool_)
        if len(self.numbers) != int(self.alive.sum()):
            raise ValueError("two documents have one id")

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
        """
        if not where:
            return self.alive
        allowed = {
            key: tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
            for key, value in where.items()
        }
        known = {key for item in self.items if item is not None for key in item.metadata}
        for key in allowed:
            if known and key not in known:
                raise KeyError(f"no document has the metadata {key!r}; known: {sorted(known)}")
        out = np.zeros(len(self.items), np.bool_)
        for number, item in enumerate(self.items):
            out[number] = item is not None and all(
                key in item.metadata and item.metadata[key] in values
                for key, values in allowed.items()
            )
        return out
