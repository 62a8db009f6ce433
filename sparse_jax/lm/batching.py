"""Batches of a corpus: short runs of consecutive tokens with the tokens before them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm.text import DOCUMENT, Corpus

_LARGE, _SMALL = (64, 64), (16, 32)  # S and T of `in_order`; a large batch holds whole small ones


class Batch(NamedTuple):
    """S runs of T tokens to predict."""

    tokens: np.ndarray  # int32 [S, C + T]; the last T are the targets, those before are history
    since: np.ndarray  # int32 [S, T]; tokens of its document before each target, -1 = padding


def num_batches(corpus: Corpus, runs: int, length: int) -> int:
    """Batches of one pass: the last one is padded."""
    all_runs = -(-corpus.tokens.size // length)
    return -(-all_runs // runs)


def batches(
    corpus: Corpus,
    runs: int,
    length: int,
    history: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
) -> Iterator[Batch]:
    """All tokens of a corpus once, in runs that are shuffled as wholes.

    Args:
      corpus: the tokens.
      runs: S.
      length: T.
      history: C.
      seed: of the order, a function of (seed, epoch) alone; None keeps the text's order.
      epoch: number of the pass.
      start: batches to leave out at the beginning.

    Example:
      >>> corpus = Corpus(np.array([7, 8, 1], np.int32), 1, 0)
      >>> batch = next(batches(corpus, 1, 4, 2))
      >>> batch.tokens.tolist(), batch.since.tolist()
      ([[1, 1, 7, 8, 1, 1]], [[0, 1, 2, -1]])
    """
    for name, value in (("runs", runs), ("length", length), ("history", history)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    n = corpus.tokens.size
    pad = np.full(history, DOCUMENT, np.int32)
    tail = np.full(length, DOCUMENT, np.int32)
    tokens = np.concatenate([pad, corpus.tokens, tail])
    since = np.concatenate([corpus.since_start(history), np.full(length, -1, np.int32)])
    begins = np.arange(0, n, length)
    if seed is not None:
        begins = np.random.default_rng([seed, epoch]).permutation(begins)
    for at in range(start, num_batches(corpus, runs, length)):
        chosen = begins[at * runs : (at + 1) * runs]
        empty = runs - chosen.size
        window = chosen[:, None] + np.arange(history + length)
        known = since[chosen[:, None] + np.arange(length)]
        yield Batch(
            np.pad(tokens[window], ((0, empty), (0, 0)), constant_values=DOCUMENT),
            np.pad(known, ((0, empty), (0, 0)), constant_values=-1),
        )


def in_order(corpus: Corpus, history: int) -> Iterator[Batch]:
    """All tokens of a corpus in its order, in large batches and, at its end, small ones.

    Two shapes to compile, little padding, and few visits of the output table.

    Args:
      corpus: the tokens.
      history: C.

    Example:
      >>> corpus = Corpus(np.full(4700, 5, np.int32), 1, 0)
      >>> [batch.since.shape for batch in in_order(corpus, 2)]
      [(64, 64), (16, 32), (16, 32)]
    """
    (runs, length), (few, short) = _LARGE, _SMALL
    count = corpus.tokens.size // (runs * length)
    yield from islice(batches(corpus, runs, length, history), count)
    done = count * (runs * length) // (few * short)
    yield from batches(corpus, few, short, history, start=done)


def first_alike(batch: Batch) -> np.ndarray:
    """The first position of a batch with the same history as each: int32 [S·T].

    Example:
      >>> corpus = Corpus(np.array([7, 8, 1, 7, 9, 1], np.int32), 2, 0)
      >>> first_alike(next(batches(corpus, 1, 6, 2))).tolist()
      [0, 1, 2, 0, 1, 5]
    """
    length, back = batch.since.shape[1], batch.tokens.shape[1] - batch.since.shape[1]
    history = np.lib.stride_tricks.sliding_window_view(batch.tokens, back, axis=1)[:, :length]
    known = batch.since.reshape(-1, 1)
    seen = np.arange(back, 0, -1) <= known
    history = np.where(seen, history.reshape(known.size, back), DOCUMENT)
    key = np.random.default_rng(0).integers(1, 1 << 63, back + 1, dtype=np.uint64)
    hashes = history.astype(np.uint64) @ key[:-1] + known[:, 0].astype(np.uint64) * key[-1]
    _, index, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    first = index[inverse.reshape(-1)]
    same = (history == history[first]).all(1) & (known == known[first])[:, 0]
    return np.where(same, first, np.arange(known.size)).astype(np.int32)


class Positions(NamedTuple):
    """The B = S·T positions of a batch."""

    window: jax.Array  # int32 [S, C + T - 1], the tokens before any target, as in the text
    history: jax.Array  # int32 [B, C], DOCUMENT before the document's start
    known: jax.Array  # int32 [B], tokens of the document before it, at most C; 0 for padding
    targets: jax.Array  # int32 [B]; -1 = padding


def positions(tokens: jax.Array, since: jax.Array) -> Positions:
    """Each position of a batch with its own history; nothing crosses a document's start.

    Example:
      >>> tokens, since = jnp.array([[7, 1, 8, 9]], jnp.int32), jnp.array([[0, 1]], jnp.int32)
      >>> at = positions(tokens, since)
      >>> at.history.tolist(), at.targets.tolist()
      ([[1, 1], [1, 8]], [8, 9])
    """
    runs, length = since.shape
    back = tokens.shape[1] - length
    index = jnp.arange(length, dtype=jnp.int32)[:, None] + jnp.arange(back, dtype=jnp.int32)[None]
    history = tokens[:, index].reshape(runs * length, back)
    known = since.reshape(-1)
    age = jnp.arange(back, 0, -1, dtype=jnp.int32)
    history = jnp.where(age[None, :] <= known[:, None], history, DOCUMENT)
    targets = tokens[:, back:].reshape(-1)
    return Positions(
        tokens[:, :-1], history, jnp.maximum(known, 0), jnp.where(known < 0, -1, targets)
    )
