"""Scores of single sentences, as toolkits of n-gram models report them: log10, end and unknowns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparse_jax.lm import evaluate
from sparse_jax.lm.text import DOCUMENT, UNKNOWN, Corpus, Vocabulary, encode_corpus

if TYPE_CHECKING:
    from sparse_jax.lm.saved import LanguageModel

__all__ = ["SentenceScores", "score"]


class SentenceScores(NamedTuple):
    """Of n sentences."""

    log10_known: np.ndarray  # float64 [n], of the tokens that the vocabulary holds
    log10_unknown: np.ndarray  # float64 [n], of the others
    log10_end: np.ndarray  # float64 [n], of the end
    tokens: np.ndarray  # int64 [n], without the end
    unknown: np.ndarray  # int64 [n], tokens that the vocabulary doesn't hold

    @property
    def log10_without_end(self) -> np.ndarray:
        """Of all tokens, unknown ones among them: float64 [n]. (A part may be -inf.)"""
        return self.log10_known + self.log10_unknown

    @property
    def log10_p(self) -> np.ndarray:
        """Of all tokens and the end: float64 [n]."""
        return self.log10_without_end + self.log10_end

    def perplexity(self, *, unknown: bool = True) -> float:
        """10 to minus the mean log10 of a token, ends counted; without unknown ones if so asked.

        NaN of no sentences.

        Example:
          >>> one = np.array([-1.0]), np.array([0.0]), np.array([-1.0])
          >>> round(SentenceScores(*one, np.array([1]), np.array([0])).perplexity(), 6)
          10.0
        """
        total, count = self.log10_p.sum(), self.tokens.sum() + self.tokens.size
        if not unknown:
            total = (self.log10_known + self.log10_end).sum()
            count -= self.unknown.sum()
        return evaluate.perplexity(float(-total * np.log(10) / count)) if count else float("nan")


def score(model: LanguageModel, sentences: Iterable[str]) -> SentenceScores:
    """The exact score of each sentence by itself.

    A sentence is a document of its own: no context before it, and an end behind it that is
    predicted, too. Its tokens are the model's; an unknown word counts as the one token <unk> with
    that token's probability.

    Args:
      model: of `lm.load`.
      sentences: n texts; an empty one has its end alone.

    Returns:
      `SentenceScores`.

    Raises:
      TypeError: if sentences is one string, or holds what is none.

    Example:
      >>> import jax
      >>> from sparse_jax import lm
      >>> words = lm.text.WordVocabulary.fit(["a b a b"], min_count=2)
      >>> config = lm.model.Config(vocabulary=words.size, rows=0, hidden=8, inner=8)
      >>> params, memory = lm.model.init(jax.random.key(0), config=config)
      >>> unigram, popular = jnp.full(words.size, 1 / words.size), jnp.arange(4, dtype=jnp.int32)
      >>> model = lm.LanguageModel(params, memory, unigram, popular, None, config, words)
      >>> found = score(model, ["a b", "", "b c"])
      >>> found.tokens.tolist(), found.unknown.tolist(), bool((found.log10_p < 0).all())
      ([2, 0, 2], [0, 0, 1], True)

    References:
      Heafield, KenLM: Faster and smaller language model queries, 2011: what is reported.
    """
    texts = as_texts(sentences)
    if not texts:
        return sum_up(np.zeros(0), ends=np.zeros(0, bool), unknown=np.zeros(0, bool))
    corpus = encode(model.vocabulary, texts)
    log10_p = log_likelihood(model, corpus) / np.log(10)
    return sum_up(log10_p, ends=corpus.tokens == DOCUMENT, unknown=corpus.tokens == UNKNOWN)


def as_texts(sentences: Iterable[str]) -> list[str]:
    """Sentences as a list.

    Raises:
      TypeError: if sentences is one string, or holds what is none.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences is a string: must be a list of them; put it into one")
    texts = list(sentences)
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"sentences[{wrong}] = {texts[wrong]!r}: must be a string; leave it out")
    return texts


def encode(vocabulary: Vocabulary, texts: list[str]) -> Corpus:
    """The tokens of sentences, of which each is a document.

    Raises:
      ValueError: if a token of a text is the end of a document.
    """
    corpus = encode_corpus(vocabulary, texts)
    if int((corpus.tokens == DOCUMENT).sum()) != len(texts):
        raise ValueError("sentences hold the end of a document as text: leave it out")
    return corpus


def sum_up(log10_p: np.ndarray, *, ends: np.ndarray, unknown: np.ndarray) -> SentenceScores:
    """Scores of sentences from those of their tokens.

    Args:
      log10_p: float64 [t], of each token, sentence after sentence.
      ends: bool [t], whether it is the end of its sentence.
      unknown: bool [t], whether it is the unknown token.

    Example:
      >>> ends, unknown = np.array([0, 1, 1], bool), np.array([1, 0, 0], bool)
      >>> sum_up(np.array([-2.0, -1.0, -4.0]), ends=ends, unknown=unknown).log10_p.tolist()
      [-3.0, -4.0]
    """
    count = int(ends.sum())
    sentence = np.cumsum(ends) - ends

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(sentence, values, minlength=count).astype(np.float64)  # of none, too

    return SentenceScores(
        log10_known=total(np.where(unknown | ends, 0.0, log10_p)),
        log10_unknown=total(np.where(unknown, log10_p, 0.0)),
        log10_end=log10_p[ends],
        tokens=np.bincount(sentence, minlength=count) - 1,
        unknown=total(unknown).astype(np.int64),
    )


def log_likelihood(model: LanguageModel, corpus: Corpus) -> np.ndarray:
    """log p of each token of a corpus, in order: float64 [n]."""
    return np.concatenate(
        list(
            evaluate.log_probs(
                model.params, model.memory, corpus, config=model.config, lsh=model.lsh
            )
        )
    )
