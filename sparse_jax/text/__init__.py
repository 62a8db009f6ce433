"""Words, n-grams and pairs of texts as features, and postings over them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_jax.text.vectorizer import Rows as Rows
    from sparse_jax.text.vectorizer import Vectorizer as Vectorizer
    from sparse_jax.text.vectorizer import fit as fit
    from sparse_jax.text.vectorizer import fit_transform as fit_transform
    from sparse_jax.text.vectorizer import transform as transform

_OF_VECTORIZER = ("Rows", "Vectorizer", "fit", "fit_transform", "transform")


def __getattr__(name: str) -> Any:
    if name in _OF_VECTORIZER:  # its kernels need JAX, which a query of an index doesn't
        return getattr(importlib.import_module("sparse_jax.text.vectorizer"), name)
    raise AttributeError(f"module 'sparse_jax.text' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_VECTORIZER})
