"""Answers to questions: sentences of the passage that answers best, or that none does.

Nothing is trained. An answer may begin at any sentence of a passage found, and goes on with those
behind it as long as they fit, so it is always a piece of one document. Each place is scored::

    score of the document / best score + reach / 2 + .15 where the document begins

    reach = sum over words of the question of share(word) / (1 + distance / 10)

with `distance` the words from there to the next place of that word, by stems, and `share` how rare
the word is among the sentences of all passages, titles read into each: what all of them are about
weighs little, what tells them apart much. So the search decides what a question is about, and the
words that only some passages hold, which of them answers it, and where.

In scripts without spaces, pairs of characters stand for the words.

The evidence for an answer is the share of the question's words, by their rarity in the index, that
its passage holds. Below `MIN_EVIDENCE` nothing is said. Constants and bound were chosen on training
questions of MedQuAD, the bound on halves of other collections, too; docs/search.md has figures.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.search.documents import check_query
from sparse_jax.search.engine import Engine
from sparse_jax.search.index import Index
from sparse_jax.search.result import Result
from sparse_jax.text.features import Hasher, normalize, tokenize
from sparse_jax.text.postings import inverse_document_frequency
from sparse_jax.text.segments import (
    count_words,
    cut_words,
    has_spaceless,
    join_sentences,
    sentences,
    words,
)
from sparse_jax.text.stem import stem

__all__ = ["MIN_EVIDENCE", "Answer", "answer", "answer_from", "split"]

MIN_EVIDENCE = 0.6
"""Share of the question's words, by weight, that the passage of an answer holds at least."""

_MAX_CHARACTERS, _MAX_SENTENCES = 50_000, 400  # of a passage, that are read
_REACH, _NEAR, _BEGINNING = 0.5, 10, 0.15
# What questions are made of, and not what they ask for.
_FUNCTION_WORDS = frozenset(
    "a about am an and any are as at be been being by can could did do does for from had has have "
    "how i in is it its many may me might much must my of on or our shall should so some than that "
    "the their them there these they this those to us was we were what when where which who whom "
    "whose why will with would you your".split()
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What `answer` found.

    Attributes:
      question: that was asked.
      passages: found for it, best first.
      sentences: of the answer, in reading order; none if it isn't known.
      source: the place in `passages` of the one that it is taken from; None if it isn't known.
      starts: for each passage the number of the sentence, of `split`, where it answers best.
      shares: for each passage, from 0 to 1, the share of the question that it holds.
      evidence: the share of the passage that answers best, compared with `MIN_EVIDENCE`.
      missing: words of the question that this passage lacks.
    """

    question: str
    passages: tuple[Result, ...]
    sentences: tuple[str, ...]
    source: int | None
    starts: tuple[int, ...]
    shares: tuple[float, ...]
    evidence: float
    missing: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """Whether there is an answer."""
        return self.source is not None

    @property
    def text(self) -> str:
        """The answer; empty if it isn't known."""
        return join_sentences(list(self.sentences))


def answer(
    index: Index,
    question: str,
    *,
    k: int = 5,
    max_words: int = 60,
    where: Mapping[str, Any] | None = None,
) -> Answer:
    """Answers a question by sentences of one of the documents found for it.

    Args:
      index: that is asked.
      question: words; at most `MAX_QUERY` characters.
      k: passages that are found and read.
      max_words: of the answer at most; where words have no spaces between them, characters.
      where: only documents with this metadata, as for `Index.search`.

    Returns:
      An `Answer`, without sentences where the evidence is less than `MIN_EVIDENCE`.

    Raises:
      ValueError: if max_words is below 1, and as `Index.search`. KeyError, TypeError: as
        `Index.search`.

    Example:
      >>> from sparse_jax import search
      >>> documents = [
      ...     search.Document("a", "Fruit is sweet and full of water and of good things. "
      ...                          "Red apples grow on trees. Pears do, too."),
      ...     search.Document("b", "Cars need fuel. Boats float."),
      ... ]
      >>> index = search.fit(documents, config=search.Config(num_features=1 << 12, dim=8))
      >>> found = answer(index, "Where do apples grow?", max_words=5)
      >>> found.text, found.passages[found.source].id
      ('Red apples grow on trees.', 'a')
      >>> found = answer(index, "Do apples cure hiccups?")
      >>> found.is_known, found.missing
      (False, ('cure', 'hiccups'))
    """
    check_query(question, "question")
    _check_words(max_words)
    with index._lock:
        passages = index.search(question, k=k, where=where)
        return answer_from(index, question, passages, max_words=max_words)


def answer_from(
    index: Index, question: str, passages: Sequence[Result], *, max_words: int = 60
) -> Answer:
    """`answer`, of passages that were found before.

    Args:
      index: that found them.
      question: that they were found for.
      passages: best first; may be none.
      max_words: of the answer at most.

    Returns:
      An `Answer`.

    Raises:
      ValueError: if max_words is below 1.

    Example:
      >>> from sparse_jax import search
      >>> documents = [search.Document("a", "Red apples grow."), search.Document("b", "Cars.")]
      >>> index = search.fit(documents, config=search.Config(num_features=1 << 12, dim=8))
      >>> answer_from(index, "apples", index.search("apples")).text
      'Red apples grow.'
      >>> answer_from(index, "apples", []).is_known
      False
    """
    _check_words(max_words)
    if not passages:
        return Answer(question, (), (), None, (), (), 0.0, ())
    with index._lock:
        taught = _taught(index, question)
        asked = _informative(index._engine, question)
    texts = [_Passage(split(found.document.text), found) for found in passages]
    starts, scores = _best_starts(asked.stems | taught.means, texts)
    upvoted = [n for n, found in enumerate(passages) if found.id in taught.upvoted]
    best = max(upvoted or range(len(texts)), key=lambda n: (scores[n], -n))
    held = [_evidence(asked, text, taught) for text in texts]
    evidence, missing = held[best]
    is_known = evidence >= MIN_EVIDENCE
    return Answer(
        question,
        tuple(passages),
        _take(texts[best].sentences, starts[best], max_words) if is_known else (),
        best if is_known else None,
        tuple(starts),
        tuple(share for share, _ in held),
        evidence,
        missing,
    )


def split(text: str) -> list[str]:
    """The sentences of a passage that are read: of a long one the first 400.

    Args:
      text: of a document.

    Returns:
      Sentences, as `text.segments.sentences` has them.

    Example:
      >>> split("It works! Does it?")
      ['It works!', 'Does it?']
    """
    return sentences(text[:_MAX_CHARACTERS])[:_MAX_SENTENCES]


def _check_words(max_words: int) -> None:
    if max_words < 1:
        raise ValueError(f"max_words = {max_words}: must be at least 1; 60 is usual")


# The question -------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """The words of a question that say what is asked for."""

    words: list[str]
    weights: np.ndarray  # float32 [words], the rarer in the index the more

    @property
    def stems(self) -> set[str]:
        return set(map(stem, self.words))


class _Taught(NamedTuple):
    """Lessons of the index on a question."""

    upvoted: set[str]  # ids of documents that answer this very question
    pairs: list[tuple[set[str], set[str]]]  # stems of its own words, and of what these mean

    @property
    def means(self) -> set[str]:
        return set().union(*(target for _, target in self.pairs))


def _informative(engine: Engine, question: str) -> _Asked:
    """All words, if the question has none but those that questions are made of."""
    tokens = tokenize([question])
    hasher = Hasher(tokens, num_features=engine.config.num_features, stems=True)
    keep = [n for n, word in enumerate(tokens.words) if word not in _FUNCTION_WORDS]
    keep = keep or list(range(len(tokens.words)))
    frequency = engine.bm25.document_frequency[hasher.word_ids[keep].astype(np.int32)]
    weights = inverse_document_frequency(frequency, engine.bm25.num_alive)
    parts = [_parts(tokens.words[n]) for n in keep]
    sizes = np.array(list(map(len, parts)))
    return _Asked(
        list(itertools.chain(*parts)), np.repeat(weights / sizes.astype(np.float32), sizes)
    )


def _taught(index: Index, question: str) -> _Taught:
    asked, found = _stems(question), _Taught(set(), [])
    holds = set(itertools.chain(*_held(question)))
    for record in index._state.feedback:
        if record["do"] == "upvote":
            if _stems(record["query"]) == asked:
                found.upvoted.add(record["id"])
        elif (source := _stems(record["source"])) <= holds:
            found.pairs.append((source, _stems(record["target"])))
    return found


def _stems(text: str) -> set[str]:
    """What is looked for of a text."""
    return {stem(part) for word in normalize(text).split() for part in _parts(word)}


def _parts(word: str) -> list[str]:
    """The word; of one in a script without spaces, which may be a clause, all pairs of characters.

    Example:
      >>> _parts("apples"), _parts("苹果树"), _parts("狗")
      (['apples'], ['苹果', '果树'], ['狗'])
    """
    each = _characters(word)
    return [a + b for a, b in itertools.pairwise(each)] or each


def _characters(word: str) -> list[str]:
    """The word; of one in a script without spaces its characters, and other words among them."""
    return [word] if word.isascii() or not has_spaceless(word) else words(word)


def _held(text: str) -> list[tuple[str, ...]]:
    """What each place of a text holds: a stem, or a character and the pair that begins with it."""
    found: list[tuple[str, ...]] = []
    for word in normalize(text).split():
        each = _characters(word)
        pairs = (a + b for a, b in itertools.pairwise(each))
        found += [*zip(map(stem, each), pairs, strict=False), (stem(each[-1]),)]
    return found


# Passages -----------------------------------------------------------------------------------------


class _Passage:
    """A document found, with the places of its words by stems.

    Args:
      text: its sentences; if it has none, its title is one.
      found: the result.
    """

    def __init__(self, text: list[str], found: Result) -> None:
        self.id, self.score = found.id, found.score
        self.sentences = text or [found.document.title]
        self.title = set(itertools.chain(*_held(found.document.title)))
        held = [_held(one) for one in self.sentences]
        self.holding = [set(itertools.chain(*one)) for one in held]
        self.stems = self.title.union(*self.holding)
        self.begins = np.cumsum([0, *map(len, held)])[:-1]  # int64 [sentences]
        self.places: dict[str, list[int]] = {}
        for place, terms in enumerate(itertools.chain(*held)):
            for term in terms:
                self.places.setdefault(term, []).append(place)

    def frequency(self, word: str) -> int:
        """In how many sentences a stem is."""
        if word in self.title:
            return len(self.sentences)
        return sum(word in one for one in self.holding) if word in self.places else 0

    def nearness(self, word: str) -> np.ndarray:
        """How soon a stem comes after the beginning of each sentence: float64 [sentences]."""
        places = np.array(self.places.get(word, ()), np.int64)
        next_one = np.searchsorted(places, self.begins)
        there = next_one < places.size
        found = np.zeros(self.begins.size)
        found[there] = 1 / (1 + (places[next_one[there]] - self.begins[there]) / _NEAR)
        return found


def _best_starts(asked: set[str], passages: Sequence[_Passage]) -> tuple[list[int], list[float]]:
    """For each passage the sentence at which it answers best, and its score there."""
    words = sorted(asked)
    frequency = np.array([sum(p.frequency(word) for p in passages) for word in words])
    rarity = inverse_document_frequency(frequency, sum(len(p.sentences) for p in passages))
    shares = rarity / max(float(rarity.sum()), 1e-9)
    best = max(max(p.score for p in passages), 1e-9)
    starts, scores = [], []
    for passage in passages:
        found = np.full(len(passage.sentences), max(passage.score, 0.0) / best)
        for word, share in zip(words, shares.tolist(), strict=True):
            found += _REACH * share * passage.nearness(word)
        found[0] += _BEGINNING
        starts.append(int(np.argmax(found)))
        scores.append(float(found[starts[-1]]))
    return starts, scores


def _evidence(asked: _Asked, passage: _Passage, taught: _Taught) -> tuple[float, tuple[str, ...]]:
    """Share of the words by weight that a passage has or was taught to, and those it has not."""
    if passage.id in taught.upvoted:
        return 1.0, ()
    have = passage.stems
    for source, target in taught.pairs:
        have = have | source if target <= have else have
    holds = np.array([stem(word) in have for word in asked.words])
    total, held = (float(w.sum(dtype=np.float64)) for w in (asked.weights, asked.weights[holds]))
    share = held / max(total, 1e-9)
    return share, tuple(w for w, is_there in zip(asked.words, holds, strict=True) if not is_there)


def _take(found: Sequence[str], start: int, max_words: int) -> tuple[str, ...]:
    """Sentences from one on that fit; if not even that one does, its beginning."""
    room, end = max_words, start
    while end < len(found) and (size := count_words(found[end])) <= room:
        room -= size
        end += 1
    return tuple(found[start:end]) or (cut_words(found[start], max_words) + " …",)
