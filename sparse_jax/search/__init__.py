"""Search over a person's own documents that learns from feedback.

BM25 of words by their stems, of parts and pairs of words, and a sparse network over all of these,
partly latent structure of the documents, partly trained on them, fused by a fixed rule. `fit` makes
an index and trains it on the documents themselves; `Index.insert`, `upsert`, `search`, `delete`,
`upvote`, `associate`, `undo` and `save` do what they say; `load` opens what `save` wrote. Needs
``pip install 'sparse_jax[search]'``.

Example:
  >>> from sparse_jax import search
  >>> documents = [search.Document("a", "red apples grow"), search.Document("b", "cars need fuel")]
  >>> config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
  >>> index = search.fit(documents, config=config)
  >>> index.insert([search.Document("c", "boats float", metadata={"kind": "ship"})])
  >>> [found.id for found in index.search("boat", where={"kind": "ship"})]
  ['c']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Not listed in `__all__`, but kept under these names: `X as X`.
from sparse_jax.search.config import Config as Config
from sparse_jax.search.documents import MAX_QUERY as MAX_QUERY
from sparse_jax.search.documents import Document as Document
from sparse_jax.search.index import Index
from sparse_jax.search.journal import LockError as LockError
from sparse_jax.search.listing import can_undo as can_undo
from sparse_jax.search.listing import list_feedback as list_feedback
from sparse_jax.search.listing import list_fields as list_fields
from sparse_jax.search.listing import list_ids as list_ids
from sparse_jax.search.opening import fit, load
from sparse_jax.search.related import related as related
from sparse_jax.search.result import Result as Result

if TYPE_CHECKING:
    from sparse_jax.data import read_jsonl as read_jsonl

__all__ = ["Index", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name == "read_jsonl":  # its room needs JAX, which a query doesn't
        from sparse_jax.data import read_jsonl

        return read_jsonl
    raise AttributeError(f"module 'sparse_jax.search' has no attribute {name!r}")
