"""The ways to a one-line summary, and which of them suits the pairs that were learned from.

Where summaries repeat the first sentence, or those of similar texts, no few thousand pairs teach a
model to write better lines: held-out pairs say which way to take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sparse_jax.summarize.extraction import extractive
from sparse_jax.summarize.rouge import rouge
from sparse_jax.text.segments import sentences

ENOUGH = 40  # pairs; fewer tell nothing, and the model writes
_MOST, _SHARE = 256, 20  # held out: one of so many, at most


class Writer(Protocol):
    """What the ways ask of a model."""

    @property
    def summary_words(self) -> int:
        """Words of a usual summary."""

    def write(self, texts: Sequence[str], *, beams: int = 8) -> list[str]:
        """A line for each text, word by word."""

    def copy_nearest(self, texts: Sequence[str]) -> list[str]:
        """The summary of the most similar training text, unchanged."""


def _lead(model: Writer, texts: Sequence[str]) -> list[str]:
    return [(sentences(text) or [""])[0] for text in texts]


def _extract(model: Writer, texts: Sequence[str]) -> list[str]:
    return [extractive(text, max_words=model.summary_words) for text in texts]


WAYS: dict[str, tuple[str, Callable[[Writer, Sequence[str]], list[str]]]] = {
    "written": ("word by word, by the model", lambda model, texts: model.write(texts)),
    "nearest": ("of the nearest text, copied", lambda model, texts: model.copy_nearest(texts)),
    "lead": ("the first sentence", _lead),
    "extract": ("its most telling sentences", _extract),
}
"""By name: what it is, and how it is done."""


def hold_out(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of held-out pairs, of the rest), both ascending; none of few pairs is held out."""
    held = min(_MOST, -(-count // _SHARE)) if count >= ENOUGH else 0
    order = np.random.default_rng((seed, 7)).permutation(count)
    return np.sort(order[:held]), np.sort(order[held:])


def choose(model: Writer, pairs: Sequence[tuple[str, str]]) -> tuple[str, dict[str, float]]:
    """The way with the best mean of ROUGE-1, -2 and -L on held-out pairs, and that of each.

    Args:
      model: that hasn't seen the pairs.
      pairs: (text, summary).

    Returns:
      (a key of `WAYS`, the first where they tie; the mean of each in percent).
    """
    texts, references = [text for text, _ in pairs], [summary for _, summary in pairs]
    found = {
        name: float(np.mean(list(rouge(references, way(model, texts)).values())))
        for name, (_, way) in WAYS.items()
    }
    return max(found, key=lambda name: found[name]), found
