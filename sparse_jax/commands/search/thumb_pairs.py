"""Thumbs as preference pairs: which of two answers to one question was liked more.

The newest thumb on an answer counts, whatever came before it. A question gives a pair for each
answer with a thumb up and each with one down; answers that have the same thumb are a tie, of which
nothing is learned, so a question with thumbs of one kind alone gives none. Whole questions are held
out. Each of these judges with one pair, drawn from its own: pairs of one question are not
independent, and the interval takes them to be.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from sparse_jax.lm.preference.messages import Pair
from sparse_jax.search.thumbs import Thumb, in_force

__all__ = ["HELD_OUT", "MIN_QUESTIONS", "ThumbPairs", "interval", "pair_up"]

MIN_QUESTIONS = 20
"""Questions with thumbs of both kinds below which nothing is tuned."""
HELD_OUT = 4
"""Of so many questions one judges."""


class ThumbPairs(NamedTuple):
    """What the thumbs of an index teach."""

    train: list[Pair]
    test: list[Pair]  # one a question
    thumbs: int  # that count
    questions: int  # with a thumb
    train_questions: int  # with a pair, and not held out


def pair_up(thumbs: Sequence[Thumb], *, seed: int) -> ThumbPairs:
    """Pairs of thumbs.

    Args:
      thumbs: oldest first.
      seed: of which questions are held out, and which of their pairs judge.

    Returns:
      `ThumbPairs`.

    Raises:
      ValueError: if fewer than `MIN_QUESTIONS` questions have thumbs of both kinds.

    Example:
      >>> log = [Thumb(f"Why {n}?", str(m), (), m > 1) for n in range(40) for m in range(3)]
      >>> found = pair_up(log, seed=0)
      >>> len(found.train), found.train_questions, len(found.test), found.train[0][1:3]
      (60, 30, 10, ('2', '0'))
    """
    judged = in_force(thumbs)
    by_question: dict[str, list[Pair]] = {}
    for question, given in judged.items():
        up, down = ([one for one in given if one.is_up is side] for side in (True, False))
        if up and down:
            by_question[question] = [Pair(a.question, a.answer, b.answer) for a in up for b in down]
    if len(by_question) < MIN_QUESTIONS:
        raise ValueError(
            f"thumbs = {len(by_question):,} questions with one up and one down, of "
            f"{len(judged):,} with any: must be at least {MIN_QUESTIONS}; judge more answers on "
            "the page of `sparse-jax serve DIR --model LM`"
        )
    order = sorted(by_question, key=lambda question: (_hash(seed, question), question))
    held_out = sorted(order[: len(order) // HELD_OUT])
    rng = np.random.default_rng(seed)
    test = [by_question[q][int(rng.integers(len(by_question[q])))] for q in held_out]
    train = [pair for q in by_question if q not in set(held_out) for pair in by_question[q]]
    count = sum(map(len, judged.values()))
    return ThumbPairs(train, test, count, len(judged), len(order) - len(held_out))


def _hash(seed: int, question: str) -> int:
    return zlib.crc32(f"{seed} {question}".encode())


def interval(share: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share, Clopper and Pearson's.

    Args:
      share: of the trials that were won, a draw as half of one.
      count: of the trials, at least 1.

    Returns:
      Its ends. A draw is a loss for the lower one and a win for the upper one.

    Example:
      >>> [round(end, 4) for end in interval(0.8, 10)], interval(1.0, 10)[1]
      ([0.4439, 0.9748], 1.0)

    Reference:
      Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case
      of the binomial".
    """
    wins = round(2 * share * count) / 2
    low, high = math.floor(wins), math.ceil(wins)
    return (
        float(special.betaincinv(low, count - low + 1, 0.025)) if low > 0 else 0.0,
        float(special.betaincinv(high + 1, count - high, 0.975)) if high < count else 1.0,
    )
