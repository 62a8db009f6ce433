"""The one rule by which the parts of a score are added.

    lexical = wide + bm25_weight · bm25
    score   = lexical + deep_weight · deep

with `wide` from the hashed features, `bm25` from the words and `deep` from the network. Feedback
changes the last one alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_jax.search.config import Config

__all__ = ["fuse", "lexical"]


def lexical(wide: Any, bm25: Any, *, config: Config) -> Any:
    """The lexical score.

    Args:
      wide: float32 of any shape; arrays of NumPy or JAX.
      bm25: float32 of that shape.
      config: gives the weight.

    Example:
      >>> float(lexical(np.float32(1), np.float32(2), config=Config(bm25_weight=0.5)))
      2.0
    """
    return _add(wide, bm25, config.bm25_weight)


def fuse(lexical: Any, deep: Any, *, weight: float) -> Any:
    """The whole score.

    Args:
      lexical: of `lexical`.
      deep: float32 of that shape.
      weight: `Config.deep_weight`.

    Example:
      >>> float(fuse(np.float32(1), np.float32(2), weight=0.25))
      1.5
    """
    return _add(lexical, deep, weight)


def _add(first: Any, second: Any, weight: float) -> Any:
    return first + np.float32(weight) * second
