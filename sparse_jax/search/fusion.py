"""The one rule by which the parts of a score are added.

    sum     = wide + words
    lexical = sum / sqrt(max(largest sum of a document, 1/4))
    score   = lexical + deep_weight · deep

with `words` from BM25 of words, `wide` from that of their parts and pairs, and `deep` from the
network. Feedback changes the last one alone. A sum is a share of what the query could reach. Long
queries reach little of it, and the cosines of the network would outweigh their words; divided by
the largest sum itself, a part of an unknown word would outweigh what the network was taught of it.
The root lies between, and no sum is more than doubled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fuse", "lift"]

_LEAST = 0.25


def lift(sums: np.ndarray, alive: np.ndarray) -> np.float32:
    """By what the sums of a query are multiplied, so that they stand level with the cosines.

    Args:
      sums: float32 [documents].
      alive: bool [documents]: those that count.

    Example:
      >>> float(lift(np.float32([0.64, 9, 0]), np.array([True, False, True])))
      1.25
    """
    living = sums if alive.all() else sums[alive]
    return np.float32(1) / np.sqrt(np.max(living, initial=np.float32(_LEAST)))


def fuse(lexical: Any, deep: Any, *, weight: float) -> Any:
    """The whole score.

    Args:
      lexical: float32 of any shape, sums times their `lift`; arrays of NumPy or JAX.
      deep: float32 of that shape.
      weight: `Config.deep_weight`.

    Example:
      >>> float(fuse(np.float32(1), np.float32(2), weight=0.25))
      1.5
    """
    return lexical + np.float32(weight) * deep
