"""BM25's weights of words in documents."""

from __future__ import annotations

from typing import NamedTuple

import bm25s
import numpy as np

from sparse_jax.text.features import Tokens
from sparse_jax.text.postings import inverse_document_frequency


class WordWeights(NamedTuple):
    """Weights of words in D documents, as compressed sparse rows; as `Postings.add` takes them."""

    offsets: np.ndarray  # int64 [D + 1]
    features: np.ndarray  # int32 [n]
    weights: np.ndarray  # float32 [n]


def bm25_rows(tokens: Tokens, word_ids: np.ndarray, *, k1: float, b: float) -> WordWeights:
    """BM25's weights of words in documents, by `bm25s`, without the inverse document frequency.

    The frequency is that of the whole collection, not of a segment: queries bring it.

    Args:
      tokens: of the documents.
      word_ids: int64 [distinct words], the feature of each word.
      k1: saturation.
      b: normalization by length.
    """
    count = tokens.offsets.size - 1
    if not tokens.types.size:
        nothing = np.zeros(0, np.int32)
        return WordWeights(np.zeros(count + 1, np.int64), nothing, np.zeros(0, np.float32))
    rows = np.split(tokens.types, tokens.offsets[1:-1])
    numbers = {word: i for i, word in enumerate(tokens.words)}
    engine = bm25s.BM25(k1=k1, b=b, method="lucene")
    engine.index((rows, numbers), create_empty_token=False, show_progress=False)
    found = engine.scores
    sizes = np.diff(found["indptr"])[: len(tokens.words)]
    local = inverse_document_frequency(sizes, count)
    types = np.repeat(np.arange(sizes.size), sizes)
    # method="lucene" leaves out the constant k1 + 1.
    weights = found["data"] / local[types] * np.float32(k1 + 1)
    # Two words of one document may share a hash: their weights add up.
    key = found["indices"].astype(np.int64) << 32 | word_ids[types].astype(np.int64)
    key, inverse = np.unique(key, return_inverse=True)
    summed = np.bincount(inverse, weights, minlength=key.size).astype(np.float32)
    offsets = np.searchsorted(key >> 32, np.arange(count + 1))
    return WordWeights(offsets.astype(np.int64), (key & 0xFFFFFFFF).astype(np.int32), summed)
