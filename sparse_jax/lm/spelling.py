"""What it costs to spell the words that a vocabulary doesn't know.

A word-level model that gives one probability to all unknown words hides the bits that tell them
apart. Here a model of byte pairs, fitted to the training text's own unknown words, spells each, so
that bits per byte charge for them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sparse_jax.lm.text import UNKNOWN, Vocabulary, split_words

_END = 256  # of a word; also what precedes its first byte


def fit_spelling(vocabulary: Vocabulary, texts: Iterable[str]) -> np.ndarray:
    """Bits of each byte after each, float64 [257, 257]: add-one counts over unknown words."""
    counts = np.ones((257, 257))
    for before, after in _pairs(vocabulary, texts):
        np.add.at(counts, (before, after), 1)
    return -np.log2(counts / counts.sum(axis=1, keepdims=True))


def spelling_bits(vocabulary: Vocabulary, texts: Iterable[str], table: np.ndarray) -> float:
    """Bits to spell all unknown words of some texts; 0 for a vocabulary without any.

    Args:
      vocabulary: whose unknown words to spell.
      texts: the test documents.
      table: of `fit_spelling`.

    Example:
      >>> from sparse_jax.lm.text import WordVocabulary
      >>> vocabulary = WordVocabulary.fit(["a a b"], min_count=2)
      >>> spelling_bits(vocabulary, ["b"], np.full((257, 257), 1.0))  # the byte and the end
      2.0
    """
    return float(sum(table[pair].sum() for pair in _pairs(vocabulary, texts)))


def _pairs(vocabulary: Vocabulary, texts: Iterable[str]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """(bytes before, bytes after) of the unknown words of each text."""
    if vocabulary.lossless:
        return
    for text in texts:
        known = vocabulary.encode(text) != UNKNOWN
        spelled = [
            part
            for word, known_word in zip(split_words(text), known, strict=True)
            if not known_word
            for part in (*word.encode("utf-8"), _END)
        ]
        after = np.array(spelled, np.int64)
        yield np.concatenate([[_END], after[:-1]]) if after.size else after, after
