"""Which documents an index holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_jax.search.index import Index

__all__ = ["list_ids"]


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
