"""Abstractive summaries: learned from pairs of a text and its one line, written word by word."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import optim
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.files import write_atomically
from sparse_jax.summarize import beam, pointer, training
from sparse_jax.summarize.neighbours import Neighbours
from sparse_jax.summarize.words import END, UNKNOWN, Words

__all__ = ["Summarizer", "fit", "load"]

_DECODED_AT_ONCE = 64
_LOOK_EVERY = 20  # steps between reports
_MOST_CHARACTERS = 20_000  # of a text; of what is in front of it 72 words are read

Tell = Callable[[int, int, float], bool]
"""tell(steps, of all, mean loss since the last time) → whether to stop."""


@dataclasses.dataclass(frozen=True, eq=False)
class Summarizer:
    """A trained model and the summaries it learned from, which it consults.

    Example:
      >>> pairs = [(f"Tool {n} is a tool for {n} files.", f"tool for {n}") for n in "abc"] * 4
      >>> made = fit(pairs, epochs=1)
      >>> len(made.summarize(["A tool for b files."]))
      1
    """

    config: pointer.Config
    words: Words
    params: pointer.Params
    texts: tuple[np.ndarray, ...]  # the training texts' distinct word ids
    summaries: tuple[str, ...]  # the training summaries
    neighbours: Neighbours = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = Neighbours(self.texts, num_words=self.words.size)
        object.__setattr__(self, "neighbours", found)

    def summarize(self, texts: Sequence[str], *, beams: int = 8) -> list[str]:
        """One line for each text; empty for a text without words.

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
        read = [self.words.encode(t[:_MOST_CHARACTERS]) for t in texts]
        numbers, cosines = self.nearest([ids for ids, _ in read])
        near = [[self.words.encode(self.summaries[n]) for n in row if n >= 0] for row in numbers]
        source = sources([i for i, _ in read], [[i for i, _ in n] for n in near], self.config)
        size = 1 << max(len(texts) - 1, 0).bit_length()  # few sizes, each compiled once
        pad = ((0, size - len(texts)), (0, 0))
        decoded = beam.search(
            self.params, np.pad(source, pad, constant_values=-1), np.pad(cosines, pad),
            config=self.config, beams=beams,
        )  # fmt: skip
        return [
            self.words.decode(beam.consensus(candidates), [own, *others]) if own[1] else ""
            for candidates, own, others in zip(decoded, read, near, strict=False)
        ]

    def nearest(
        self, texts: Sequence[np.ndarray], skip: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The training texts most like texts of word ids, as `Neighbours.nearest`."""
        return self.neighbours.nearest(texts, count=self.config.neighbours, skip=skip)

    def save(self, directory: str | Path) -> None:
        """Writes the model; nothing is pickled."""
        about = {
            "config": dataclasses.asdict(self.config), "forms": self.words.forms,
            "outputs": self.words.outputs, "buckets": self.words.buckets,
            "summaries": self.summaries, "sizes": [t.size for t in self.texts],
        }  # fmt: skip
        state = {"params": self.params, "texts": np.concatenate(self.texts)}
        checkpoint.save(directory, state, step=0, extra={}, keep=1)
        write_atomically(Path(directory) / "summarizer.json", json.dumps(about).encode())


def load(directory: str | Path) -> Summarizer:
    """What `Summarizer.save` wrote.

    Raises:
      ValueError: if there is no model, or it is damaged.
    """
    path = Path(directory) / "summarizer.json"
    if not path.exists():
        raise ValueError(f"{directory} has no summarizer.json: train a model into it first")
    about = json.loads(path.read_text(encoding="utf-8"))
    config = pointer.Config(**about["config"])
    like = {
        "params": jax.eval_shape(lambda: pointer.init(jax.random.key(0), config)),
        "texts": jax.ShapeDtypeStruct((sum(about["sizes"]),), jnp.int32),
    }
    found = checkpoint.restore(directory, like)
    if found is None:
        raise ValueError(f"{directory} has no finished checkpoint")
    words = Words(tuple(about["forms"]), about["outputs"], about["buckets"])
    texts = np.split(np.asarray(found[0]["texts"]), np.cumsum(about["sizes"])[:-1])
    return Summarizer(config, words, found[0]["params"], tuple(texts), tuple(about["summaries"]))


def fit(
    pairs: Sequence[tuple[str, str]], *, seed: int = 0, neighbours: int = 3, epochs: int = 3,
    batch_size: int = 64, lr: float = 2e-3, max_seconds: float | None = None,
    tell: Tell | None = None,
) -> Summarizer:  # fmt: skip
    """Trains a summarizer.

    Args:
      pairs: (text, summary), at least two.
      seed: of weights, order and samples; without `max_seconds` one seed gives the same bits.
      neighbours: summaries of similar training texts that are read beside a text.
      epochs: passes over the pairs.
      batch_size: pairs a step.
      lr: Adam's learning rate at its peak; it falls to 0 along a line.
      max_seconds: the rate then ends on time.
      tell: hears of progress and may stop the training.

    Raises:
      ValueError: if there are fewer than two pairs, or a summary or all texts have no words.
    """
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair(s) to train on: give at least 2")
    for number, (_, summary) in enumerate(pairs):
        if not summary.strip():
            raise ValueError(f"the summary of pair {number} is empty: leave such pairs out")
    started = time.perf_counter()
    pairs = [(text[:_MOST_CHARACTERS], summary) for text, summary in pairs]
    words = Words.fit([s for _, s in pairs], [t for t, _ in pairs])
    config = pointer.Config(size=words.size, outputs=words.outputs, neighbours=neighbours)
    read = [words.encode(text)[0] for text, _ in pairs]
    if not any(ids.size for ids in read):
        raise ValueError("no text has a word")
    model = Summarizer(config, words, {}, tuple(np.unique(ids) for ids in read),
                       tuple(summary for _, summary in pairs))  # fmt: skip
    data = _examples(model, read)
    tx, step = _compiled(config, lr)
    made = data.targets[(data.targets >= 0) & (data.targets < config.outputs)]
    counts = np.bincount(made, minlength=config.outputs)
    state = training.init_state(jax.random.key(seed), tx, counts, config=config)
    batch_size = min(batch_size, len(pairs))
    total = len(pairs) // batch_size * epochs
    losses: list[jax.Array] = []
    for number, chosen in enumerate(_orders(len(pairs), batch_size, seed, epochs)):
        done = number / total
        if max_seconds is not None:
            done = max(done, (time.perf_counter() - started) / max_seconds)
        if done >= 1:
            break
        rate = min(1.0, (number + 1) / 100) * (1 - done)
        state, loss = step(state, training.Batch(*(x[chosen] for x in data)), jnp.float32(rate))
        losses.append(loss)
        if tell is not None and (number + 1) % _LOOK_EVERY == 0:
            if tell(number + 1, total, float(np.mean([float(x) for x in losses]))):
                break
            losses.clear()
    return dataclasses.replace(model, params=state.params)


@functools.cache
def _compiled(config: pointer.Config, lr: float) -> tuple[Any, Callable[..., Any]]:
    """The optimizer and the jitted step, one for each configuration of a process."""
    tx = optim.rowwise(optax.scale_by_adam())
    return tx, jax.jit(training.make_step(tx, config=config, lr=lr), donate_argnums=0)


def _orders(count: int, batch_size: int, seed: int, epochs: int) -> Iterator[np.ndarray]:
    """Numbers of the pairs of each step; each pass has its own order, the last few are left out."""
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def sources(
    texts: Sequence[np.ndarray], near: Sequence[Sequence[np.ndarray]], config: pointer.Config
) -> np.ndarray:
    """Texts and their neighbours' summaries side by side, int32 [n, L], -1 = padding."""
    out = np.full((len(texts), config.source), -1, np.int32)
    for row, text, summaries in zip(out, texts, near, strict=True):
        row[: min(text.size, config.text)] = text[: config.text]
        for place, summary in enumerate(summaries):
            at = config.text + place * config.neighbour
            kept = summary[: config.neighbour]
            row[at : at + kept.size] = kept
    return out


def _examples(model: Summarizer, read: Sequence[np.ndarray]) -> training.Batch:
    """All training pairs as arrays; no text is its own neighbour."""
    config = model.config
    told = [model.words.encode(s)[0] for s in model.summaries]
    numbers, cosines = model.nearest(read, range(len(read)))
    source = sources(read, [[told[n] for n in row if n >= 0] for row in numbers], config)
    targets = np.full((len(read), config.summary), -1, np.int32)
    for row, ids, own in zip(targets, told, source, strict=True):
        kept = ids[: config.summary - 1]
        # What can neither be generated nor copied is unknown, and paid for as that.
        row[: kept.size] = np.where((kept < config.outputs) | np.isin(kept, own), kept, UNKNOWN)
        row[kept.size] = END
    return training.Batch(source, cosines, targets)
