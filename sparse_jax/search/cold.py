"""The cold start: training the network on pieces of the documents themselves.

An example is a run of 4 to 12 words of a document, one in three at its beginning, with words
dropped at random, frequent ones more often; its label is the document it came from. Nothing else is
used: no query, no log, and no title unless titles are part of what is indexed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.runtime import loop
from sparse_jax.search import network
from sparse_jax.search.config import Config
from sparse_jax.text.features import Features, Hasher

__all__ = ["Pieces", "fit"]


class Pieces:
    """Draws pieces of documents.

    Args:
      hasher: of the documents.
    """

    def __init__(self, hasher: Hasher) -> None:
        self.hasher = hasher
        tokens = hasher.tokens
        self.filled = np.flatnonzero(np.diff(tokens.offsets))
        frequency = np.bincount(tokens.types, minlength=len(tokens.words))
        self.dropped = np.clip(0.2 + 0.08 * np.log1p(frequency / 50), 0.2, 0.75)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, Features]:
        """Documents int32 [count], and the features of a piece of each."""
        documents = rng.choice(self.filled, count, replace=count > self.filled.size)
        offsets, types = self.hasher.tokens.offsets, self.hasher.tokens.types
        have = offsets[documents + 1] - offsets[documents]
        size = np.minimum(rng.integers(4, 13, count), have)
        start = (rng.random(count) * (have - size + 1)).astype(np.int64)
        start[rng.random(count) < 0.3] = 0
        begin = np.repeat(offsets[documents] + start - (np.cumsum(size) - size), size)
        taken = types[np.arange(size.sum()) + begin]
        row = np.repeat(np.arange(count), size)
        keep = rng.random(taken.size) >= self.dropped[taken]
        bounds = np.searchsorted(row[keep], np.arange(count + 1))
        return documents.astype(np.int32), self.hasher.of(taken[keep], bounds)


def fit(
    start: network.Network,
    hasher: Hasher,
    values: Callable[[Features], np.ndarray],
    *,
    config: Config,
) -> network.Network:
    """Trains from `start`, whose rows of documents are their encodings.

    Args:
      start: donated.
      hasher: of the documents.
      values: weights of features in the bag.
      config: gives the steps, the batch and the seed.

    Returns:
      The trained network.

    Raises:
      Divergence: if the loss is no longer finite.
    """
    pieces = Pieces(hasher)
    if not pieces.filled.size:
        return start
    size = min(config.cold_batch, pieces.filled.size)
    steps = min(config.cold_steps, max(12 * pieces.filled.size // size, 30))
    num_documents = jnp.int32(hasher.tokens.offsets.size - 1)
    training = network.cold_start(steps)
    gain, start = start.gain, dataclasses.replace(start, gain=None)  # not trained here
    key = jax.random.key(config.seed)

    def batches(_: int) -> Iterator[tuple[jax.Array, network.Bags, np.ndarray, int]]:
        """(key, bags, documents, room for distinct features) of each step."""
        rng = np.random.Generator(np.random.Philox(config.seed))
        distinct = 1024
        for number in itertools.count():
            documents, features = pieces.draw(rng, size)
            needed = np.unique(features.ids).size
            if needed > distinct:  # compiled anew, but hardly ever
                distinct = -(-needed * 5 // 4 // 1024) * 1024
            bags = network.pad_bags(features.ids, values(features), features.rows, size)
            room = min(distinct, config.num_features)
            yield jax.random.fold_in(key, number), bags, documents, room

    def step(state: Any, batch: Any) -> tuple[Any, loop.LossMetrics]:
        step_key, bags, documents, distinct = batch
        trained, opt_state, loss, _ = training.step(
            step_key, *state, bags, documents, num_documents, distinct=distinct
        )
        return (trained, opt_state), loop.LossMetrics(loss)

    state = start, training.init(start)
    (trained, _), _ = loop.train(state, step, batches, steps=steps)
    return dataclasses.replace(trained, gain=gain)
