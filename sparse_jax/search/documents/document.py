"""A document: what an index keeps of it, and checks of what is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sparse_jax.runtime.arguments import check_kind, check_whole
from sparse_jax.text.features import normalize

__all__ = [
    "MAX_QUERY",
    "Document",
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
        raise TypeError(f"{name} = {value!r:.40}: must be a string; give its text")
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
    check_whole("k", k)


def check_documents(documents: Iterable[Document]) -> list[Document]:
    """Refuses what is no `Document`."""
    if isinstance(documents, str | Document):
        raise TypeError(f"documents = {documents!r:.40}: must be several; put it into a list")
    new = list(documents)
    for number, document in enumerate(new):
        check_kind(f"documents[{number}]", document, Document, "make one of id and text")
    return new


def check_distinct(documents: Iterable[Document]) -> None:
    """Refuses ids that come twice."""
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise ValueError(f"id {document.id!r} comes twice: give each document one of its own")
        seen.add(document.id)
