"""A language model of words and an n-gram model as one: a weighted sum of their probabilities.

    p(w | h) = λ q(w | h) + (1 - λ) p_model(w | h)

over the model's vocabulary. q is the n-gram model's, carried over to that vocabulary so that it
sums to one as before:

- a word that both know, and the end of a sentence, keeps its probability;
- words that only the n-gram model knows give theirs to the model's <unk>;
- words that only the model knows, its <unk> among them, share the probability of the n-gram model's
  <unk> as they share the model's training text.

History is made of the model's tokens too: a word that is <unk> to the model is <unk> in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparse_jax.lm import ngram, ngram_sums, sentences
from sparse_jax.lm.text import DOCUMENT, UNKNOWN, Corpus, WordVocabulary

if TYPE_CHECKING:
    from sparse_jax.lm.saved import LanguageModel

__all__ = ["Expert", "Interpolated", "carry_over", "fit", "interpolate"]

_ROUNDS, _SETTLED = 200, 1e-7


class Expert(NamedTuple):
    """An n-gram model over the V words of another vocabulary."""

    ngram: ngram.NGram
    words: np.ndarray  # int64 [V], the n-gram model's ids; its <unk> for what it doesn't know
    shares: np.ndarray  # float64 [V], of that word's probability; 1 for words that both know
    unknown: list[np.ndarray]  # of `ngram_sums.sum_over`: words that only the n-gram model knows

    @property
    def known(self) -> int:
        """Words that both know, the end of a sentence among them."""
        return int((self.words != ngram.UNKNOWN).sum())


@dataclasses.dataclass(frozen=True)
class Interpolated:
    """A language model and an n-gram model as one."""

    model: LanguageModel
    expert: Expert
    weight: float  # λ, of the n-gram model

    def score(self, texts: Iterable[str]) -> sentences.SentenceScores:
        """Each of some sentences by itself: as `LanguageModel.score`, with its tokens."""
        given = sentences.as_texts(texts)
        if not given:
            return self.model.score([])
        corpus = sentences.encode(self.model.vocabulary, given)
        return sentences.sum_up(
            self.log_probs(corpus) / np.log(10),
            ends=corpus.tokens == DOCUMENT,
            unknown=corpus.tokens == UNKNOWN,
        )

    def log_probs(self, corpus: Corpus) -> np.ndarray:
        """log p of each token of a corpus, float64 [n]."""
        log_q = log_probs(self.expert, corpus)
        log_p = sentences.log_likelihood(self.model, corpus)
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(self.weight) + log_q, np.log1p(-self.weight) + log_p)


def carry_over(model: ngram.NGram, vocabulary: WordVocabulary, unigram: np.ndarray) -> Expert:
    """An n-gram model over another vocabulary, by the rule at the head of this module.

    Args:
      model: of `arpa.read` or `ngram.load`.
      vocabulary: of V words.
      unigram: float [V], share of each in some text; a word without any counts as the rarest.

    Raises:
      ValueError: if the vocabulary is not one of words.
    """
    if not isinstance(vocabulary, WordVocabulary):
        raise ValueError(
            f"vocabulary = {type(vocabulary).__name__}: must be one of words, as n-gram models "
            "have; train with --vocabulary word"
        )
    ids = {word: i for i, word in enumerate(model.words) if i not in (ngram.UNKNOWN, ngram.BEGIN)}
    words = np.array([ids.get(word, ngram.UNKNOWN) for word in vocabulary.words], np.int64)
    words[[UNKNOWN, DOCUMENT]] = ngram.UNKNOWN, ngram.END
    share = np.asarray(unigram, np.float64)
    rarest = share[share > 0].min() if (share > 0).any() else 1.0
    share = np.where(words == ngram.UNKNOWN, np.maximum(share, rarest), 0.0)
    others = np.ones(len(model.words), bool)
    others[words] = False
    others[[ngram.UNKNOWN, ngram.BEGIN]] = False
    return Expert(
        model,
        words,
        np.where(words == ngram.UNKNOWN, share / share.sum(), 1.0),
        ngram_sums.sum_over(model, others),
    )


def log_probs(expert: Expert, corpus: Corpus) -> np.ndarray:
    """log q of each token of a corpus, float64 [n]."""
    starts = np.concatenate([[True], corpus.tokens[:-1] == DOCUMENT])
    places = np.arange(corpus.tokens.size) + np.cumsum(starts)  # of tokens, among <s>
    words = np.full(corpus.tokens.size + int(starts.sum()), ngram.BEGIN, np.int64)
    words[places] = expert.words[corpus.tokens]
    found = ngram.look_up(expert.ngram.orders, words)
    q = 10.0 ** found.log10_p[places] * expert.shares[corpus.tokens]
    length, context = found.length[places], found.context[places]
    unknown = np.flatnonzero(corpus.tokens == UNKNOWN)
    for n, sums in enumerate(expert.unknown):
        at = unknown[length[unknown] == n]
        q[at] += sums[context[at]]
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(q, 0))


def interpolate(model: LanguageModel, other: ngram.NGram, weight: float = 0.5) -> Interpolated:
    """A language model and an n-gram model as one.

    Args:
      model: of `lm.load`, whose vocabulary is of words.
      other: of `arpa.read` or `ngram.load`.
      weight: λ, of the n-gram model, from 0 to 1; `fit` finds the best.

    Raises:
      ValueError: if the vocabulary is of bytes or their pairs, or weight is not from 0 to 1.

    Example:
      >>> import jax
      >>> from sparse_jax import lm
      >>> words = WordVocabulary.fit(["fox dog fox dog"], min_count=2)
      >>> config = lm.model.Config(vocabulary=words.size, rows=0, hidden=8, inner=8)
      >>> params, memory = lm.model.init(jax.random.key(0), config=config)
      >>> unigram, popular = np.full(words.size, 1 / words.size), np.arange(4, dtype=np.int32)
      >>> model = lm.LanguageModel(params, memory, unigram, popular, None, config, words)
      >>> p = np.log10(np.array([0.1, 1, 0.4, 0.3, 0.2], np.float32))
      >>> one = ngram.Order(np.arange(5), p, np.zeros(5, np.float32))
      >>> both = interpolate(model, ngram.NGram((*ngram.MARKS, "fox", "cat"), (one,)), weight=1)
      >>> (10 ** both.score(["fox", ""]).log10_p).round(3).tolist()  # 0.3 · 0.4, and 0.4
      [0.12, 0.4]
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight = {weight}: must be from 0 to 1")
    return Interpolated(
        model, carry_over(other, model.vocabulary, np.asarray(model.unigram)), weight
    )


def fit(both: Interpolated, texts: Iterable[str]) -> Interpolated:
    """The same with the weight under which some texts are likeliest, found by EM.

    One weight for all contexts: one for each length of the longest listed context gained .05 % of
    perplexity where it was tried.

    Args:
      both: of `interpolate`, with any weight.
      texts: sentences that neither model was trained on.

    Raises:
      ValueError: if there are no sentences.

    References:
      Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from sparse
      data".
    """
    given = sentences.as_texts(texts)
    if not given:
        raise ValueError("texts is empty: must hold sentences to choose weights by; give some")
    corpus = sentences.encode(both.model.vocabulary, given)
    log_q, log_p = log_probs(both.expert, corpus), sentences.log_likelihood(both.model, corpus)
    possible = np.isfinite(log_q) | np.isfinite(log_p)
    ratio = np.exp(np.clip(log_q[possible] - log_p[possible], -700, 700))
    weight = 0.5
    for _ in range(_ROUNDS if ratio.size else 0):
        before = weight
        weight = float(np.mean(weight * ratio / (weight * ratio + 1 - weight)))
        if abs(weight - before) < _SETTLED:
            break
    return dataclasses.replace(both, weight=weight)
