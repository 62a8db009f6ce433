"""sparse_jax: dynamic sparsity on CPUs for JAX.

Hash tables pick, for each batch, the few rows of a large layer that matter; jitted XLA operations
gather them; Optax updates them and nothing else.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_jax import data, layers, optim, retrieval, rows
    from sparse_jax.optim.rowwise import rowwise
    from sparse_jax.rows import RowSparse, take_rows
    from sparse_jax.rows import add_rows as add_rows  # these four are listed in `rows`
    from sparse_jax.rows import embedding_bag as embedding_bag
    from sparse_jax.rows import set_rows as set_rows
    from sparse_jax.rows import unique_ids as unique_ids

try:
    __version__ = metadata.version("sparse_jax")
except metadata.PackageNotFoundError:  # a source tree that isn't installed
    __version__ = "0"

# All is imported when it is first asked for: not even JAX is needed to query a search index.
_ROOMS = frozenset(
    ("data", "layers", "lm", "nn", "optim", "recommend", "retrieval", "rows", "runtime", "search")
) | frozenset(("sharding", "sklearn", "summarize", "text", "xmc"))
_FUNCTIONS = {
    "RowSparse": "rows",
    "add_rows": "rows",
    "embedding_bag": "rows",
    "rowwise": "optim",
    "set_rows": "rows",
    "take_rows": "rows",
    "unique_ids": "rows",
}

__all__ = [
    "RowSparse",
    "data",
    "layers",
    "lm",
    "nn",
    "optim",
    "recommend",
    "retrieval",
    "rows",
    "rowwise",
    "search",
    "sharding",
    "sklearn",
    "summarize",
    "take_rows",
    "xmc",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sparse_jax.{name}")
    if name in _FUNCTIONS:
        found = getattr(importlib.import_module(f"sparse_jax.{_FUNCTIONS[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'sparse_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_FUNCTIONS})
