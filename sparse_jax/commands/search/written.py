"""Answers that a language model completes: it chooses how they go on, and every word is copied.

The first sentence is that of the extracted answer. Behind it the model takes, one after the other,
the sentence of a passage that it finds likeliest there, by the mean log p of its tokens: of each
passage that holds enough of the question the one where it answers best, and then those behind it.
So nothing is said that no passage says, and each sentence has its source. That they belong together
is the model's word alone.

`draw` makes other answers for people to judge: there each choice is drawn, the first sentence among
the passages, too, and how long the answer may become. A model that was tuned by such judgements
has a judge of its own, which chooses among the completed answer and drawn ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_jax import lm
from sparse_jax.commands.lm.models import load
from sparse_jax.lm import sentences
from sparse_jax.lm.preference.judge import FOLDER, Judge
from sparse_jax.lm.preference.judge import load as load_judge
from sparse_jax.runtime import saved
from sparse_jax.search.answers import MIN_EVIDENCE, Answer, split
from sparse_jax.text.segments import count_words, cut_words, join_sentences

__all__ = ["Author", "Written", "complete", "draw", "open_author", "write"]

CHOICES = 6
"""Drawn answers that a judge chooses among."""

_AHEAD = 20  # words of each sentence that are compared
_CONTEXT = 60  # words before, of question and answer, that the model reads
_TEMPERATURE = 0.2  # of a draw, in log10 a token
_TRIES = 3  # draws for each answer that is wanted


class Written(NamedTuple):
    """A text that a model put together."""

    sentences: list[str]
    sources: list[int]  # of each sentence the place of its passage
    read: list[int]  # places of all passages that it could take sentences of

    @property
    def text(self) -> str:
        """All of it."""
        return join_sentences(self.sentences)


class Author(NamedTuple):
    """A language model that writes, and who judges what it wrote."""

    model: lm.LanguageModel
    judge: Judge | None


def open_author(path: str) -> Author:
    """The model in a directory, with its judge if `search tune` made it.

    Raises:
      ValueError: if there is no model, it or the judge is damaged, or the judge is another's.
    """
    model, place = load(path), Path(path) / FOLDER
    if not place.exists():
        return Author(model, None)
    judge = load_judge(place)
    if judge.of != saved.read_manifest(path)["file"]:
        raise ValueError(
            f"{place} was made for a model that was in {path} before: tune anew, or remove {place}"
        )
    return Author(model, judge)


def write(author: Author, found: Answer, *, drafts: int = 0, max_words: int = 60) -> list[Written]:
    """The written answer, and others that are drawn.

    Args:
      author: of `open_author`.
      found: an answer that is known.
      drafts: others at most; there are fewer where the passages hold too little.
      max_words: of each at most.

    Returns:
      The completed answer first; with a judge, the one that it likes best of that one and
      `CHOICES` drawn ones.
    """
    first = complete(author.model, found, max_words=max_words)
    count = drafts if author.judge is None else max(drafts, CHOICES)
    several = [first, *draw(author.model, found, count, others=[first], max_words=max_words)]
    if author.judge is not None:
        texts = [one.text for one in several]
        rewards = author.judge.score(author.model.vocabulary, found.question, texts)
        several.insert(0, several.pop(int(np.argmax(rewards))))
    return several[: drafts + 1]


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
    return _continue(model, found, _readable(found), found.source, max_words, _best)


def draw(
    model: lm.LanguageModel,
    found: Answer,
    count: int,
    *,
    others: Sequence[Written] = (),
    max_words: int = 60,
    seed: int = 0,
) -> list[Written]:
    """Different answers, drawn from the model, for people to judge.

    A sentence is the likelier the larger the mean log p of its tokens is. Each answer has room for
    a quarter of the words at least, and begins in any of the passages that may be read.

    Args:
      model: of `lm.load`.
      found: an answer that is known.
      count: of answers, at most: there are fewer where the passages hold too little.
      others: answers that are not to be drawn again.
      max_words: of each text at most.
      seed: of the draws, beside the question.

    Returns:
      Up to `count` texts, all different.
    """
    rng = np.random.default_rng([seed, zlib.crc32(found.question.encode())])
    seen = {tuple(one.sentences) for one in others}
    drawn: list[Written] = []
    texts = _readable(found)
    starts = list(texts)
    for _ in range(_TRIES * count):
        if len(drawn) == count:
            break
        room = int(rng.integers(max(max_words // 4, 1), max_words + 1))
        start = starts[int(rng.integers(len(starts)))]
        one = _continue(model, found, texts, start, room, lambda scores: _drawn(rng, scores))
        if tuple(one.sentences) not in seen:
            seen.add(tuple(one.sentences))
            drawn.append(one)
    return drawn


def _continue(
    model: lm.LanguageModel,
    found: Answer,
    texts: dict[int, list[str]],
    start: int,
    max_words: int,
    choose: Callable[[np.ndarray], int],
) -> Written:
    """An answer that begins in one passage, by `choose`, which takes scores of ways to go on."""
    read = list(texts)
    at = list(found.starts)
    first = texts[start][at[start]]
    if count_words(first) > max_words:
        first = cut_words(first, max_words) + " …"
    written = Written([first], [start], read)
    at[start] += 1
    room = max_words - count_words(first)
    while True:
        ways = {n: texts[n][at[n]] for n in read if at[n] < len(texts[n])}
        fits = [n for n, sentence in ways.items() if count_words(sentence) <= room]
        if not fits:
            return written
        context = " ".join([found.question, *written.sentences])
        chosen = fits[choose(_scores(model, context, [ways[n] for n in fits]))]
        at[chosen] += 1
        if ways[chosen] not in written.sentences:
            written.sentences.append(ways[chosen])
            written.sources.append(chosen)
            room -= count_words(ways[chosen])


def _readable(found: Answer) -> dict[int, list[str]]:
    """Sentences of the passages that may be read; a title stands for a text that is not there."""
    documents = ((n, found.passages[n].document) for n in range(len(found.shares)))
    return {
        n: split(document.text) or [document.title]
        for n, document in documents
        if found.shares[n] >= MIN_EVIDENCE
    }


def _best(scores: np.ndarray) -> int:
    return int(np.argmax(scores))


def _drawn(rng: np.random.Generator, scores: np.ndarray) -> int:
    weights = np.exp((scores - scores.max()) / _TEMPERATURE)
    return int(rng.choice(scores.size, p=weights / weights.sum()))


def _scores(model: lm.LanguageModel, context: str, ways: Sequence[str]) -> np.ndarray:
    """The mean log p of a token of each way behind the context, float64 [ways]."""
    if len(ways) == 1:
        return np.zeros(1)
    known = " ".join(context.split()[-_CONTEXT:])
    heads = [" ".join(way.split()[:_AHEAD]) for way in ways]
    scores = sentences.score(model, [known, *(f"{known} {head}" for head in heads)])
    log_p = scores.log10_without_end
    tokens = np.maximum(scores.tokens[1:] - scores.tokens[0], 1)
    found: np.ndarray = (log_p[1:] - log_p[0]) / tokens
    return found
