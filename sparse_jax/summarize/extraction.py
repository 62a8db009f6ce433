"""Extractive summaries: sentences by centroid and diversity, under a cap of words."""

from __future__ import annotations

import numpy as np

from sparse_jax.text.features import GRAM, extract
from sparse_jax.text.segments import count_words, cut_words, join_sentences, sentences

__all__ = ["extractive", "sentences"]

_NUM_FEATURES = 1 << 20
_MAX_SENTENCES = 200
_MAX_CHARACTERS = 100_000


def extractive(
    text: str, *, max_words: int = 50, query: str | None = None, diversity: float = 0.5
) -> str:
    """The sentences that say most of a text in at most so many words, in their order.

    Sentences are unit vectors of hashed features weighted by log(1 + n / df) within the text. One
    after the other is taken, the one with the largest::

        cos(s, centroid) + cos(s, query) / 2 + 1 / (2 + place) / 5
            - diversity * max over those taken of cos(s, taken)

    as long as it fits (maximal marginal relevance). If not even one fits, the best is cut. Of a
    long text the first 200 sentences are read.

    Args:
      text: any text.
      max_words: words of the summary at most; where words have no spaces between them, as in
        Chinese, Japanese or Thai, each character counts as one.
      query: what the reader looks for, if known.
      diversity: how much likeness to what was taken counts against a sentence.

    Returns:
      The summary; empty for an empty text.

    Raises:
      ValueError: if max_words is below 1.

    Example:
      >>> extractive("Cats purr. Cats and dogs play. It rains.", max_words=6)
      'Cats purr. Cats and dogs play.'

    Reference: Carbonell and Goldstein, The use of MMR, diversity-based reranking, 1998; Radev et
    al., Centroid-based summarization of multiple documents, 2004.
    """
    if max_words < 1:
        raise ValueError(f"max_words = {max_words}: must be at least 1")
    found = sentences(text[:_MAX_CHARACTERS])[:_MAX_SENTENCES]
    if not found:
        return ""
    sizes = [count_words(s) for s in found]
    likeness, wanted = _cosines([*found, query or ""])
    gain = wanted + 0.2 / (2 + np.arange(len(found)))
    if query:
        gain = gain + 0.5 * likeness[:-1, -1]
    taken: list[int] = []
    room = max_words
    while True:
        fits = [i for i in range(len(found)) if i not in taken and sizes[i] <= room]
        if not fits:
            break
        overlap = likeness[:-1, taken].max(axis=1) if taken else np.zeros(len(found))
        scores = gain - diversity * overlap
        best = max(fits, key=lambda i: (scores[i], -i))
        if taken and scores[best] <= 0:
            break
        taken.append(best)
        room -= sizes[best]
    if not taken:
        best = int(np.argmax(gain))
        return cut_words(found[best], max_words) + " …"
    return join_sentences([found[i] for i in sorted(taken)])


def _cosines(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines among all texts, and of all but the last with the centroid of those."""
    features = extract(texts, num_features=_NUM_FEATURES)
    distinct, columns = np.unique(features.ids, return_inverse=True)
    count = len(texts) - 1
    inside = features.rows < count
    frequency = np.bincount(columns[inside], minlength=distinct.size)
    rarity = np.log1p(count / np.maximum(frequency, 1))
    weights = rarity[columns] * np.sqrt(features.counts)
    weights[features.kinds == GRAM] *= 0.3  # many in a word, and all say nearly the same
    matrix = np.zeros((len(texts), distinct.size), np.float32)
    np.add.at(matrix, (features.rows, columns), weights.astype(np.float32))
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    centroid = matrix[:count].mean(axis=0)
    centroid /= max(float(np.linalg.norm(centroid)), 1e-12)
    return matrix @ matrix.T, matrix[:count] @ centroid
