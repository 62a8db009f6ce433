"""Hash functions that are learned while the network is: `compare_negatives.py` measures them.

SimHash draws its directions at random. Here they are moved by gradient descent until a query shares
more signs with the rows that score highest for it than with rows drawn at random, then rounded to
small integers again: exact codes, tables and the re-hash of changed rows stay as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import data
from sparse_jax.retrieval import hashing, schedules, tables, topk
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.hashing.simhash import SimHash
from sparse_jax.xmc import network
from sparse_jax.xmc import step as training
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

HARD = 8  # best rows of each query, labels as a rule among them, that should collide with it
SAMPLE = 512  # training points whose queries teach
STEPS, TRIPLETS, RATE = 150, 256, 0.03  # of gradient descent
SHARP, MARGIN = 4.0, 0.5
FIRST, GROWTH = 100, 1.6  # steps of training until functions are learned, and between later times
_SIGMA, _CLIP = 8, 31  # of SimHash's integer directions


def fit(
    key: jax.Array, begin: SimHash, queries: jax.Array, keys: jax.Array, positives: jax.Array
) -> SimHash:
    """SimHash directions under which queries collide with their positives.

    With signs relaxed to tanh, Adam minimizes the mean over triplets of
    relu(margin - a(q, k+) + a(q, k-)), where a(q, k) is the mean over the bits of
    tanh(s g.q) tanh(s g.k) for q and k of length 1, and k- is a row drawn at random.

    Args:
      key: PRNG key of the triplets.
      begin: where to begin: as drawn, or as learned before.
      queries: float32 [Q, dim], as they are hashed.
      keys: float32 [N, dim], as they are hashed.
      positives: int32 [Q, P], the rows that each query should meet.

    Returns:
      A `SimHash` of the same shape, its directions integers in [-31, 31].

    References:
      Chen et al., "MONGOOSE: a learnable LSH framework for efficient neural network training",
      ICLR 2021, section 3.2.
    """
    tx = optax.adam(RATE)

    def loss(g: jax.Array, q: jax.Array, good: jax.Array, other: jax.Array) -> jax.Array:
        bits = [jnp.tanh(jnp.float32(SHARP) * (_unit(x) @ g)) for x in (q, good, other)]
        gap = jnp.mean(bits[0] * (bits[1] - bits[2]), axis=1)
        return jnp.mean(jax.nn.relu(jnp.float32(MARGIN) - gap))

    def step(carry: tuple[jax.Array, Any], key: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
        g, state = carry
        at, column, other = jax.random.split(key, 3)
        at = jax.random.randint(at, (TRIPLETS,), 0, queries.shape[0])
        column = jax.random.randint(column, (TRIPLETS,), 0, positives.shape[1])
        other = jax.random.randint(other, (TRIPLETS,), 0, keys.shape[0])
        grad = jax.grad(loss)(g, queries[at], keys[positives[at, column]], keys[other])
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes ints and floats
            updates, state = tx.update(grad, state)
        return (g + updates, state), None

    start = begin.directions / jnp.float32(_SIGMA)
    (g, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, STEPS))
    size = jnp.sqrt(jnp.mean(g * g, axis=0, keepdims=True))
    whole = jnp.round(g * (jnp.float32(_SIGMA) / jnp.maximum(size, jnp.float32(1e-12))))
    return dataclasses.replace(begin, directions=jnp.clip(whole, -_CLIP, _CLIP))


def learn(
    key: jax.Array, state: training.TrainState, batch: data.Batch, *, config: training.Config
) -> training.TrainState:
    """The state with functions learned from where they stand, and the tables built with them.

    Args:
      key: PRNG key.
      state: of the strategy "lsh", with SimHash.
      batch: the sample; its points' best rows by exact scores are the positives.
      config: of the run.
    """
    index, weights, bias = state.index, state.params["output"], state.params["output_bias"]
    assert index is not None
    hidden = network.encode(state.params, batch)
    best = topk.rows(hidden, weights, bias, k=min(HARD, weights.shape[0])).ids
    transform = transforms.fit(config.index.transform, weights, bias)
    queries = transforms.queries(transform, hidden - index.centre[None, :])
    keys = transforms.keys(transform, weights, bias)
    made = fit(key, index.hash_params, queries, keys, best)
    codes = hashing.hash(made, keys).T
    learned = dataclasses.replace(
        index,
        tables=tables.build(index.tables, codes, by_table=True),
        hash_params=made,
        transform=transform,
        changed=jnp.zeros_like(index.changed),
        rebuilds=index.rebuilds + jnp.int32(1),
    )
    return dataclasses.replace(state, index=learned)


class LearnedRun(NetworkRun):
    """A training run whose functions are learned where others are drawn anew."""

    def __init__(self, options: Options, points: data.XmcData, *, steps: int | None = None) -> None:
        super().__init__(options, points, steps=steps)
        count = min(SAMPLE, points.num_points)
        rows = np.random.default_rng(options.seed).choice(points.num_points, count, replace=False)
        (self.sample,) = data.batches(points.take(np.sort(rows)), count)
        self.next_learning = FIRST
        learn_jit = jax.jit(functools.partial(learn, config=self.config), donate_argnums=1)
        self.learn = learn_jit.lower(jax.random.key(0), self.state, self.sample).compile()
        self.rehash, self.maintain = self.maintain, self._maintain

    def configure(self) -> training.Config:
        """As otherwise, but no functions are drawn anew."""
        config = super().configure()
        index = dataclasses.replace(config.index, rebuild=schedules.never())
        return dataclasses.replace(config, index=index)

    def _maintain(self, state: training.TrainState) -> training.TrainState:
        if self.clock.step < self.next_learning:
            return self.rehash(state)
        self.next_learning = int(GROWTH * self.next_learning)
        return self.learn(jax.random.key(self.clock.step), state, self.sample)


def _unit(x: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(length, jnp.float32(1e-12))
