"""Texts among what scikit-learn's users give as `X`."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from sparse_jax.data import Vocabulary


def texts(X: Any) -> list[str] | None:
    """The strings of a 1-D collection of strings; None where `X` is something else."""
    if isinstance(X, str):
        raise ValueError("Iterable over raw text documents expected, string object received.")
    if scipy.sparse.issparse(X) or getattr(X, "ndim", 1) != 1 or not hasattr(X, "__iter__"):
        return None
    if not isinstance(next(iter(X), None), str):
        return None
    found = list(X)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"X[{place}] = {text!r}: must be a string, as X[0] is")
    return found


def words(texts: list[str]) -> tuple[str, ...]:
    """All words of texts, those of many texts first."""
    try:
        return Vocabulary.fit(texts, min_count=1).words
    except ValueError:  # which is its word for none
        return ()
