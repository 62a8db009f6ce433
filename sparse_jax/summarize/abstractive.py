"""Abstractive summaries: learned from pairs of a text and its one line, written word by word."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from sparse_jax import optim
from sparse_jax.optim import rates
from sparse_jax.runtime import loop
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.summarize import beam, pointer, training, ways
from sparse_jax.summarize.neighbours import Nearest, Neighbours
from sparse_jax.summarize.words import END, UNKNOWN, Words
from sparse_jax.text.segments import count_words
from sparse_jax.text.segments import words as words_of

__all__ = ["Summarizer", "fit"]

_DECODED_AT_ONCE = 64
_LOOK_EVERY = 20  # steps between reports
_WARMUP = 100  # steps
_MAX_CHARACTERS = 20_000  # of a text that are split into words; the model reads the first 72


@dataclasses.dataclass(frozen=True, eq=False)
class Summarizer:
    """A trained model and the summaries it learned from, which it consults.

    Example:
      >>> pairs = [(f"Tool {n} is a tool for {n} files.", f"tool for {n}") for n in "abc"] * 4
      >>> summarizer = fit(pairs, epochs=1)
      >>> len(summarizer.summarize(["A tool for b files."]))
      1
    """

    config: pointer.Config
    words: Words
    params: pointer.Params
    texts: tuple[np.ndarray, ...]  # the training texts' distinct word ids
    summaries: tuple[str, ...]  # the training summaries
    way: str = "written"  # how lines come about, a key of `ways.WAYS`
    scores: dict[str, float] = dataclasses.field(default_factory=dict)  # of each way, held out
    neighbours: Neighbours = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        neighbours = Neighbours(self.texts, num_words=self.words.size)
        object.__setattr__(self, "neighbours", neighbours)

    @property
    def summary_words(self) -> int:
        """Words of a usual training summary."""
        return max(1, int(np.median([count_words(s) for s in self.summaries[:10_000]])))

    def summarize(self, texts: Sequence[str], *, beams: int = 8) -> list[str]:
        """One line for each text, by the model's way; empty for a text without words.

        Args:
          texts: any texts.
          beams: candidates that are followed where the model writes.

        Raises:
          ValueError: if beams is below 1.
        """
        if self.way == "written" or beams < 1:
            return self.write(texts, beams=beams)
        lines = ways.WAYS[self.way][1](self, texts)
        return [line if words_of(t) else "" for line, t in zip(lines, texts, strict=True)]

    def copy_nearest(self, texts: Sequence[str]) -> list[str]:
        """The summary of the most similar training text, unchanged; empty where there is none."""
        read = [self.words.encode(text[:_MAX_CHARACTERS])[0] for text in texts]
        numbers, _ = self.neighbours.nearest(read, count=1)
        return [self.summaries[n] if n >= 0 else "" for n in numbers[:, 0].tolist()]

    def write(self, texts: Sequence[str], *, beams: int = 8) -> list[str]:
        """One line for each text, word by word; empty for a text without words.

        Args:
          texts: any texts; the first words of each are read.
          beams: candidates that are followed.

        Raises:
          ValueError: if beams is below 1.
        """
        found: list[str] = []
        for start in range(0, len(texts), _DECODED_AT_ONCE):
            found += self._lines(texts[start : start + _DECODED_AT_ONCE], beams)
        return found

    def _lines(self, texts: Sequence[str], beams: int) -> list[str]:
        read = [self.words.encode(t[:_MAX_CHARACTERS]) for t in texts]
        numbers, cosines = self.nearest([ids for ids, _ in read])
        near = [[self.words.encode(self.summaries[n]) for n in row if n >= 0] for row in numbers]
        source = sources(
            [i for i, _ in read], [[i for i, _ in n] for n in near], config=self.config
        )
        size = 1 << max(len(texts) - 1, 0).bit_length()  # few sizes, each compiled once
        pad = ((0, size - len(texts)), (0, 0))
        decoded = beam.search(
            self.params,
            np.pad(source, pad, constant_values=-1),
            np.pad(cosines, pad),
            config=self.config,
            beams=beams,
        )
        return [
            self.words.decode(beam.consensus(candidates), [text, *others]) if text[1] else ""
            for candidates, text, others in zip(decoded, read, near, strict=False)
        ]

    def nearest(self, texts: Sequence[np.ndarray], skip: Sequence[int] | None = None) -> Nearest:
        """The training texts most like texts of word ids, as `Neighbours.nearest`."""
        return self.neighbours.nearest(texts, count=self.config.neighbours, skip=skip)


def fit(
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
    neighbours: int = 3,
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    max_seconds: float | None = None,
    look: Callable[[loop.Look], bool | None] | None = None,
    interrupt: Interrupt | None = None,
) -> Summarizer:
    """Trains a summarizer, and finds out which way to a summary suits such pairs.

    Of 40 pairs or more, a twentieth, at most 256, is held out from training: on those the model's
    own lines, the nearest text's summary, the first sentence and extraction are compared, and the
    best way is what `Summarizer.summarize` takes.

    Args:
      pairs: (text, summary), at least two.
      seed: of weights, order and samples; without `max_seconds` one seed gives the same bits.
      neighbours: summaries of similar training texts that are read beside a text.
      epochs: passes over the pairs.
      batch_size: pairs a step.
      learning_rate: of Adam at its peak; it falls to 0 along a line.
      max_seconds: of the whole call at most, reading the pairs included; the learning rate then
        falls to 0 by that time.
      look: hears of progress every 20 steps; returns whether to stop.
      interrupt: ends the training as Ctrl-C asks for; without one Ctrl-C raises.

    Returns:
      A `Summarizer`, of what was learned until the end or the stop.

    Raises:
      ValueError: if there are fewer than two pairs, or a summary or all texts have no words.
      Divergence: if the loss is no longer finite.

    Example:
      >>> pairs = [(f"Tool {n} is a tool for {n} files.", f"tool for {n}") for n in "abc"] * 4
      >>> len(fit(pairs, epochs=1).summarize(["A tool for b files.", ""]))
      2
    """
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair(s) to train on: must be at least 2; give more")
    for number, (_, summary) in enumerate(pairs):
        if not summary.strip():
            raise ValueError(f"the summary of pair {number} is empty: leave such pairs out")
    started = time.perf_counter()
    every = [(text[:_MAX_CHARACTERS], summary) for text, summary in pairs]
    held, rest = ways.hold_out(len(every), seed)
    pairs = [every[i] for i in rest]
    words = Words.fit([s for _, s in pairs], [t for t, _ in pairs])
    config = pointer.Config(size=words.size, outputs=words.outputs, neighbours=neighbours)
    read = [words.encode(text)[0] for text, _ in pairs]
    if not any(ids.size for ids in read):
        raise ValueError("no text has a word: give texts with words")
    model = Summarizer(
        config,
        words,
        {},
        tuple(np.unique(ids) for ids in read),
        tuple(summary for _, summary in pairs),
    )
    data = _examples(model, read)
    tx, run = _compiled(config, learning_rate)
    generated = data.targets[(data.targets >= 0) & (data.targets < config.outputs)]
    counts = np.bincount(generated, minlength=config.outputs)
    state = training.init_state(jax.random.key(seed), tx, counts, config=config)
    batch_size = min(batch_size, len(pairs))
    total = len(pairs) // batch_size * epochs
    clock = loop.Clock()

    def scale(step: int) -> float:
        seconds = time.perf_counter() - started
        return rates.scale(
            step, steps=total, warmup=_WARMUP, seconds=seconds, max_seconds=max_seconds
        )

    def step(state: training.State, chosen: np.ndarray) -> Any:
        source, cosines, targets = (x[chosen] for x in data[:3])
        now = np.float32(scale(clock.step))
        return run(state, training.Batch(source, cosines, targets, now))

    # Less the time that reading took: training ends when the learning rate reaches 0.
    left = None if max_seconds is None else max_seconds - (time.perf_counter() - started)
    state, _ = loop.train(
        state,
        step,
        lambda start: itertools.islice(_orders(len(pairs), batch_size, seed, epochs), start, None),
        steps=total,
        clock=clock,
        max_seconds=left,
        interrupt=interrupt,
        learning_rate=lambda step, _: learning_rate * scale(step),
        look=look,
        look_every=_LOOK_EVERY,
    )
    model = dataclasses.replace(model, params=state.params)
    if not held.size:
        return model
    way, scores = ways.choose(model, [every[i] for i in held])
    # What was held out is looked up from now on.
    texts = tuple(np.unique(words.encode(text)[0]) for text, _ in every)
    summaries = tuple(summary for _, summary in every)
    return dataclasses.replace(model, texts=texts, summaries=summaries, way=way, scores=scores)


@functools.cache
def _compiled(config: pointer.Config, learning_rate: float) -> tuple[Any, Callable[..., Any]]:
    """The optimizer and the jitted step, one for each configuration of a process."""
    tx = optim.rowwise(optax.scale_by_adam())
    step = training.make_step(tx, learning_rate=learning_rate, config=config)
    return tx, jax.jit(step, donate_argnums=0)


def _orders(count: int, batch_size: int, seed: int, epochs: int) -> Iterator[np.ndarray]:
    """Numbers of the pairs of each step; each pass has its own order, the last few are left out."""
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def sources(
    texts: Sequence[np.ndarray], near: Sequence[Sequence[np.ndarray]], *, config: pointer.Config
) -> np.ndarray:
    """Texts and their neighbours' summaries side by side, int32 [n, L], -1 = padding."""
    out = np.full((len(texts), config.source), -1, np.int32)
    for row, text, summaries in zip(out, texts, near, strict=True):
        row[: min(text.size, config.text)] = text[: config.text]
        for place, summary in enumerate(summaries):
            at = config.text + place * config.neighbour
            beginning = summary[: config.neighbour]
            row[at : at + beginning.size] = beginning
    return out


def _examples(model: Summarizer, read: Sequence[np.ndarray]) -> training.Batch:
    """All training pairs as arrays; no text is its own neighbour."""
    config = model.config
    lines = [model.words.encode(s)[0] for s in model.summaries]
    numbers, cosines = model.nearest(read, range(len(read)))
    source = sources(read, [[lines[n] for n in row if n >= 0] for row in numbers], config=config)
    targets = np.full((len(read), config.summary), -1, np.int32)
    for row, ids, words in zip(targets, lines, source, strict=True):
        kept = ids[: config.summary - 1]
        # A word that can neither be generated nor copied is trained as UNKNOWN.
        row[: kept.size] = np.where((kept < config.outputs) | np.isin(kept, words), kept, UNKNOWN)
        row[kept.size] = END
    return training.Batch(source, cosines, targets)
