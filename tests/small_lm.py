"""A tiny language model, trained once a process, and the texts that it is trained and tested on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import rowwise
from sparse_jax.lm import batching, generate, model, training
from sparse_jax.lm.text import DOCUMENT, Corpus

V, RUNS, LENGTH = 60, 4, 8
CONFIG = model.Config(
    vocabulary=V,
    rows=4096,
    width=8,
    orders=(1, 2, 3, 5),
    slots=3,
    window=3,
    recent=6,
    embed=8,
    hidden=16,
    inner=24,
    out=12,
)

next_log_probs = jax.jit(generate.next_log_probs, static_argnames="config")


def make_corpus(seed: int, sentences: int = 150) -> Corpus:
    """Noisy repetitions of a few fixed sentences, three to a document."""
    fixed = np.random.default_rng(0).integers(4, V, (6, 9))
    rng = np.random.default_rng(seed)
    tokens = []
    for i in range(sentences):
        sentence = fixed[rng.integers(6)].copy()
        sentence[rng.random(9) < 0.1] = rng.integers(4, V)
        tokens += [*sentence, *([DOCUMENT] if i % 3 == 2 else [])]
    return Corpus(np.array([*tokens, DOCUMENT], np.int32), sentences // 3 + 1, 0)


# One for all: `rowwise` tries a transformation out once.
TX = rowwise(optax.scale_by_adam())
TRAIN, TEST = make_corpus(1), make_corpus(2, 30)


def initial(counts, config: model.Config):
    return training.init_state(jax.random.key(0), TX, counts, config=config, popular=8)


def drawn(seed: int, config: model.Config = CONFIG) -> training.LMState:
    """A state of any numbers, as quick as what is saved allows: it need not have learned them."""
    rng = np.random.default_rng(seed)
    state = jax.eval_shape(lambda: initial(jnp.zeros(config.vocabulary), config))

    def numbers(like):
        return jnp.asarray(rng.integers(1, 100, like.shape).astype(like.dtype))

    kept = ("params", "memory", "unigram", "popular", "lsh")
    drawn = {name: jax.tree.map(numbers, getattr(state, name)) for name in kept}
    return dataclasses.replace(state, **drawn)


@functools.cache
def compiled(config: model.Config, active_size: int = 40):
    counts = np.bincount(TRAIN.tokens, minlength=config.vocabulary)
    state = jax.jit(initial, static_argnames="config")(counts, config)
    step = training.make_step(
        TX, active_size=active_size, learning_rate=1e-2, memory_learning_rate=0.2, config=config
    )
    run = jax.jit(step, donate_argnums=0).lower(state, training_batch(config)).compile()
    return run, state


def training_batch(config, scale=1.0):
    return training.TrainingBatch(*next(batches(config)), jnp.float32(scale))


def batches(config, epoch=0, corpus=TRAIN):
    for batch in batching.batches(corpus, RUNS, LENGTH, config.history, seed=0, epoch=epoch):
        yield jnp.asarray(batch.tokens), jnp.asarray(batch.since)


@functools.cache
def trained(config: model.Config = CONFIG, epochs: int = 3):
    """(state after some passes, losses); never donated, so it may be used again."""
    run, state = compiled(config)
    state, losses = jax.tree.map(jnp.copy, state), []
    for epoch in range(epochs):
        state = training.empty_memory(state) if epoch else state
        for batch in batches(config, epoch):
            state, seen = run(state, training.TrainingBatch(*batch, jnp.float32(1)))
            losses.append(float(seen.loss))
    return state, losses


def histories(corpus=TEST, most=24):
    at = batching.positions(*next(batches(CONFIG, corpus=corpus)))
    return at.history[:most], at.known[:most], at.targets[:most]
