"""What an index holds: ids, what it was taught, and the metadata that its documents have."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.search.index import Index
from sparse_jax.search.state import feedback_in_force

__all__ = ["Field", "can_undo", "list_feedback", "list_fields", "list_ids"]

_MAX_SEEN = 20_000


def list_ids(index: Index, *, where: Mapping[str, Any] | None = None) -> list[str]:
    """Ids of the documents, all or those that a filter allows.

    Args:
      index: that holds them.
      where: only documents with this metadata, as for `Index.search`.

    Returns:
      Ids in order of insertion.

    Raises:
      KeyError: if no document has a key of `where`. TypeError, ValueError: as `Index.search`.

    Example:
      >>> from sparse_jax import search
      >>> documents = [search.Document(id, "red apples", metadata={"n": ord(id)}) for id in "abc"]
      >>> config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
      >>> list_ids(search.fit(documents, config=config), where={"n": {">=": ord("b")}})
      ['b', 'c']
    """
    with index._lock:
        store = index._documents
        return [store.item(n).id for n in np.flatnonzero(store.matching(where)).tolist()]


def list_feedback(index: Index) -> list[dict[str, str]]:
    """What the index was taught and wasn't taken back, in the order in which it was given.

    Args:
      index: that was taught, now or before it was saved.

    Returns:
      ``{"do": "upvote", "query": ..., "id": ...}`` and
      ``{"do": "associate", "source": ..., "target": ...}``.

    Example:
      >>> from sparse_jax import search
      >>> documents = [search.Document("a", "red apples"), search.Document("b", "boats float")]
      >>> index = search.fit(documents, config=search.Config(num_features=1 << 12, dim=8))
      >>> event = index.upvote("ship", "b")
      >>> list_feedback(index)
      [{'do': 'upvote', 'query': 'ship', 'id': 'b'}]
    """
    with index._lock:
        return [dict(record) for record in index._state.feedback]


def can_undo(index: Index) -> bool:
    """Whether there is feedback since the last `Index.save`, which `save` would make final."""
    with index._lock:
        return bool(feedback_in_force(index._events))


class Field(NamedTuple):
    """A key of the metadata, and its values."""

    name: str
    documents: int  # that have it
    values: list[tuple[Any, int]]  # most frequent first, each with its number of documents


def list_fields(index: Index, *, max_values: int = 100) -> list[Field]:
    """The metadata that documents have: what filters can ask for.

    Of more than 20,000 documents, as many are looked at, evenly spread.

    Args:
      index: that holds them.
      max_values: values of a key, at most.

    Returns:
      Fields by name; true and 1 are two values, as in JSON.

    Example:
      >>> from sparse_jax import search
      >>> documents = [search.Document(id, "apples", metadata={"n": id > "a"}) for id in "abc"]
      >>> config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
      >>> list_fields(search.fit(documents, config=config))
      [Field(name='n', documents=3, values=[(True, 2), (False, 1)])]
    """
    counts: dict[str, collections.Counter[tuple[bool, Any]]] = {}
    with index._lock:
        store = index._documents
        numbers = np.flatnonzero(store.alive)
        for number in numbers[:: -(-max(numbers.size, 1) // _MAX_SEEN)].tolist():
            for key, value in store.item(number).metadata.items():
                counts.setdefault(key, collections.Counter())[isinstance(value, bool), value] += 1
    return [
        Field(name, seen.total(), [(v, n) for (_, v), n in seen.most_common(max_values)])
        for name, seen in sorted(counts.items())
    ]
