"""Answers that a language model completes: it chooses how they go on, and every word is copied.

The first sentence is that of the extracted answer. Behind it the model takes, one after the other,
the sentence of a passage that it finds likeliest there, by the mean log p of its tokens: of each
passage that holds enough of the question the one where it answers best, and then those behind it.
So nothing is said that no passage says, and each sentence has its source. That they belong together
is the model's word alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax import lm
from sparse_jax.lm import sentences
from sparse_jax.search.answers import MIN_EVIDENCE, Answer, split
from sparse_jax.text.segments import count_words

__all__ = ["Written", "complete"]

_AHEAD = 20  # words of each sentence that are compared
_CONTEXT = 60  # words before, of question and answer, that the model reads


class Written(NamedTuple):
    """A text that a model put together."""

    sentences: list[str]
    sources: list[int]  # of each sentence the place of its passage
    read: list[int]  # places of all passages that it could take sentences of


def complete(model: lm.LanguageModel, found: Answer, *, max_words: int = 60) -> Written:
    """The answer as a model goes on with it.

    Args:
      model: of `lm.load`.
      found: an answer that is known.
      max_words: of the whole text at most.

    Returns:
      A `Written`, which ends with the last sentence that fits.
    """
    assert found.source is not None
    read = [n for n, share in enumerate(found.shares) if share >= MIN_EVIDENCE]
    written = Written([found.sentences[0]], [found.source], read)
    texts = {n: split(found.passages[n].document.text) for n in read}
    at = list(found.starts)
    at[found.source] += 1
    room = max_words - count_words(found.sentences[0])
    while True:
        ways = {n: texts[n][at[n]] for n in read if at[n] < len(texts[n])}
        fits = [n for n, sentence in ways.items() if count_words(sentence) <= room]
        if not fits:
            return written
        context = " ".join([found.question, *written.sentences])
        chosen = fits[_likeliest(model, context, [ways[n] for n in fits])]
        at[chosen] += 1
        if ways[chosen] not in written.sentences:
            written.sentences.append(ways[chosen])
            written.sources.append(chosen)
            room -= count_words(ways[chosen])


def _likeliest(model: lm.LanguageModel, context: str, ways: Sequence[str]) -> int:
    """Which way has the largest mean log p of a token behind the context; of equals the first."""
    if len(ways) == 1:
        return 0
    known = " ".join(context.split()[-_CONTEXT:])
    heads = [" ".join(way.split()[:_AHEAD]) for way in ways]
    scores = sentences.score(model, [known, *(f"{known} {head}" for head in heads)])
    log_p = scores.log10_without_end
    tokens = np.maximum(scores.tokens[1:] - scores.tokens[0], 1)
    return int(np.argmax((log_p[1:] - log_p[0]) / tokens))
