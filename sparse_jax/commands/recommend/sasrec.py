"""SASRec with the softmax over all items, in JAX and Optax: a peer.

It is the encoder of `recommend` with two blocks, trained on the same positions, but each step
computes all items' scores and moves all of their rows, by Adam. It has our fused softmax, which
over all items takes .6 of the time of a product and Optax's loss. The weights of the epoch that
ranks the last items of 2,000 users best are kept; these items are not trained on. Where an epoch
is of few steps there are more epochs, so that none of it ends before it has learned.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import layers
from sparse_jax.data.histories import Histories, Split
from sparse_jax.optim import rowwise
from sparse_jax.recommend import encoder, training
from sparse_jax.recommend.evaluation import Scorer, evaluate_scores
from sparse_jax.recommend.fitting import hold_out
from sparse_jax.recommend.model import Shape


@dataclasses.dataclass(frozen=True)
class Options:
    """How it is trained; the usual sizes, not searched."""

    shape: Shape = dataclasses.field(default_factory=lambda: Shape(blocks=2))
    epochs: int = 30
    patience: int = 5  # epochs without a better one that end it,
    min_steps: int = 3000  # or more epochs: at most as many as make so many steps,
    min_patience: int = 400  # and so many steps without a better epoch
    batch_size: int = 128
    learning_rate: float = 1e-3
    dropout: float = 0.4


class Epoch(NamedTuple):
    """What an epoch ends with."""

    figure: float  # NDCG@10 of the held-out items
    params: Any
    is_best: bool  # of all so far


def fit(histories: Histories, seed: int, options: Options | None = None) -> Scorer:
    """A scorer, trained.

    Args:
      histories: of n users.
      seed: of weights, batches and dropout.
      options: how it is trained; None for the defaults.
    """
    options = Options() if options is None else options
    best: Any = None
    for epoch in epochs(histories, seed, options):
        if epoch.is_best:
            best = jax.tree.map(np.asarray, epoch.params)
    return scorer(best, options)


def epochs(histories: Histories, seed: int, options: Options) -> Iterator[Epoch]:
    """Trains epoch by epoch, until patience ends it.

    Args:
      histories: of n users.
      seed: of weights, batches and dropout.
      options: how it is trained.

    Yields:
      An `Epoch`; its arrays are lost with the next one.
    """
    held_out = hold_out(histories, seed)
    rows = training.windows(held_out.train, options.shape.length)
    size = min(options.batch_size, len(rows))
    steps = len(rows) // size
    key, first = jax.random.split(jax.random.key(seed))
    params = encoder.init(first, histories.num_items, shape=options.shape)
    tx = rowwise(optax.adam(options.learning_rate, b2=0.98))  # of whole arrays: plain Adam
    state, best, waited = tx.init(params), -1.0, 0
    step = make_step(tx, options, training.max_targets(rows, size))
    batches = training.batches(rows, size, seed, 0)
    patience = max(options.patience, options.min_patience // max(steps, 1))
    for _ in range(max(options.epochs, options.min_steps // max(steps, 1))):
        for _ in range(steps):
            key, drawn = jax.random.split(key)
            params, state, _ = step(params, state, next(batches), drawn)
        found = _figure(params, options, held_out)
        waited = 0 if found > best else waited + 1
        yield Epoch(found, params, found > best)
        best = max(best, found)
        if waited >= patience:
            return


def _figure(params: Any, options: Options, held_out: Split) -> float:
    """NDCG@10; 0 where nobody is asked."""
    if not len(held_out.targets):
        return 0.0
    figures = evaluate_scores(
        scorer(params, options),
        held_out.contexts,
        held_out.targets,
        popularity=np.zeros(held_out.train.num_items),
        ks=(10,),
    )
    return figures["ndcg@10"]


def make_step(tx: optax.GradientTransformation, options: Options, max_targets: int) -> Any:
    """The step: (params, state, int32 [B, L + 1], key) to (params, state, loss).

    Args:
      tx: the optimizer.
      options: how it is trained.
      max_targets: positions that are learned from, at most.
    """
    loss = functools.partial(_loss, options=options, max_targets=max_targets)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, rows: jax.Array, key: jax.Array) -> tuple[Any, Any, Any]:
        value, grads = layers.value_and_grad(loss)(params, rows, key)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def _loss(
    params: Any, rows: jax.Array, key: jax.Array, *, options: Options, max_targets: int
) -> jax.Array:
    """Mean softmax loss over all items, of the positions that have a next one."""
    inputs, targets = rows[:, :-1], rows[:, 1:].reshape(-1)
    hidden = encoder.encode(params, inputs, shape=options.shape, key=key, dropout=options.dropout)
    learned = (inputs.reshape(-1) >= 0) & (targets >= 0)
    (places,) = jnp.nonzero(learned, size=max_targets, fill_value=-1)
    labels = jnp.where(places >= 0, targets[places], -1).astype(jnp.int32)
    losses, _ = layers.softmax_head(
        hidden.reshape(-1, options.shape.width)[places],
        params["items"],
        params["bias"],
        jnp.arange(max_targets, dtype=jnp.int32),
        labels,
    )
    return losses.sum() / jnp.maximum((labels >= 0).sum(dtype=jnp.float32), jnp.float32(1))


def scorer(params: Any, options: Options) -> Scorer:
    """Scores of all items by what an epoch ended with.

    Args:
      params: of the encoder.
      options: how it was trained.
    """
    arrays = jax.tree.map(jnp.asarray, params)

    def score(part: Histories) -> np.ndarray:
        inputs = encoder.last_events(part, options.shape.length, part.num_users)
        return np.asarray(_scores(arrays, inputs, shape=options.shape))

    return score


@functools.partial(jax.jit, static_argnames="shape")
def _scores(params: Any, inputs: jax.Array, *, shape: Shape) -> jax.Array:
    hidden = encoder.encode(params, inputs, shape=shape, dropout=0.0)[:, -1]
    return hidden @ params["items"].T + params["bias"][None]
