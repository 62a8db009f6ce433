"""What each word of a query adds to the score of a document."""

from __future__ import annotations

import numpy as np

from sparse_jax.search import fusion
from sparse_jax.search.engine import Engine
from sparse_jax.text.features import PAIR, Features, Hasher, tokenize

__all__ = ["explain"]


def explain(engine: Engine, text: str, number: int) -> list[tuple[str, float]]:
    """What each word adds to the score of a document, in the order of the text.

    Args:
      engine: that scores.
      text: of the query.
      number: of the document.
    """
    config, query = engine.config, engine.read(text)
    wide = query.wide_weights * engine.wide.weights_in(number, query.ids)
    words = np.zeros_like(wide)
    # Of features with one id the word comes first.
    places = np.searchsorted(query.ids, query.words)
    words[places] = query.word_weights * engine.bm25.weights_in(number, query.words)
    deep = engine.parts(query) @ engine.output[number]
    lexical = (wide + words) * engine.lift(query)
    shares = fusion.fuse(lexical, deep, weight=config.deep_weight)
    distinct, at = np.unique(query.ids, return_inverse=True)
    shares = np.bincount(at, shares)

    tokens = tokenize([text])
    hasher = Hasher(tokens, num_features=config.num_features, stems=True)
    owner, ids = _owners(tokens.types, hasher)
    feature = np.searchsorted(distinct, ids)
    owners = np.bincount(feature, minlength=distinct.size)
    sums = np.bincount(owner, (shares / owners)[feature], minlength=tokens.types.size)
    return [(tokens.words[t], s) for t, s in zip(tokens.types, sums.tolist(), strict=True)]


def _owners(types: np.ndarray, hasher: Hasher) -> tuple[np.ndarray, np.ndarray]:
    """The word that each feature belongs to, by place, and the feature's id; pairs to both."""
    count = types.size
    alone = hasher.of(types, np.arange(count + 1))
    two = np.stack([types[:-1], types[1:]], axis=1).reshape(-1)
    both = hasher.of(two, np.arange(0, 2 * count, 2))
    pairs: Features = both
    keep = pairs.kinds == PAIR
    first, ids = pairs.rows[keep], pairs.ids[keep]
    return (
        np.concatenate([alone.rows, first, first + 1]),
        np.concatenate([alone.ids, ids, ids]),
    )
