"""sparse_jax: dynamic sparsity on CPUs for JAX.

Hash tables pick, for each batch, the few rows of a large layer that matter; jitted XLA operations
gather them; Optax updates them and nothing else.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from sparse_jax import data, layers, optim, retrieval, rows
from sparse_jax.optim import rowwise
from sparse_jax.rows import RowSparse, take_rows
from sparse_jax.rows import add_rows as add_rows  # these four are listed in `rows`
from sparse_jax.rows import embedding_bag as embedding_bag
from sparse_jax.rows import set_rows as set_rows
from sparse_jax.rows import unique_ids as unique_ids

try:
    __version__ = metadata.version("sparse_jax")
except metadata.PackageNotFoundError:  # a source tree that isn't installed
    __version__ = "0"

# Rooms that need what a research step does not: imported when first asked for.
_LAZY = ("lm", "nn", "runtime", "search", "sklearn", "summarize", "text", "xmc")

__all__ = [
    "RowSparse",
    "data",
    "layers",
    "lm",
    "nn",
    "optim",
    "retrieval",
    "rows",
    "rowwise",
    "search",
    "sklearn",
    "summarize",
    "take_rows",
    "xmc",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"sparse_jax.{name}")
    raise AttributeError(f"module 'sparse_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
