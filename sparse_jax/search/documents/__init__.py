"""Documents: what an index keeps of them, filters by their metadata, and reading them from files.

`read` takes a folder of documents, a table, or a collection as the field has them; the readers are
imported when it is first asked for, since a search needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparse_jax.search.documents.document import (
    MAX_QUERY,
    Document,
    check_distinct,
    check_documents,
    check_k,
    check_query,
    check_text,
)
from sparse_jax.search.documents.store import Documents, Lines

if TYPE_CHECKING:
    from sparse_jax.search.documents.reading import KINDS, Reading, read

__all__ = [
    "KINDS",
    "MAX_QUERY",
    "Document",
    "Documents",
    "Lines",
    "Reading",
    "check_distinct",
    "check_documents",
    "check_k",
    "check_query",
    "check_text",
    "read",
]


def __getattr__(name: str) -> Any:
    if name in ("KINDS", "Reading", "read"):
        return getattr(importlib.import_module("sparse_jax.search.documents.reading"), name)
    raise AttributeError(f"module 'sparse_jax.search.documents' has no attribute {name!r}")
