"""One training step of the summarizer: jitted, donated, no operation over all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers.sampled_softmax import draw_words, sampled_log_softmax, unigram_start
from sparse_jax.optim import apply_scaled
from sparse_jax.rows import RowSparse, take_rows, unique_ids
from sparse_jax.summarize import pointer
from sparse_jax.summarize.words import END


class Batch(NamedTuple):
    """Some pairs; arrays of NumPy or JAX."""

    source: Any  # int32 [B, L], -1 = padding
    cosines: Any  # float32 [B, K]
    targets: Any  # int32 [B, T], the summary and END; -1 = padding
    scale: Any = 1.0  # float32 [], what the peak learning rate is multiplied by


class StepMetrics(NamedTuple):
    """Measures of a step."""

    loss: jax.Array  # float32 [], minus the mean log p of a word, estimated from the active set


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that lives across steps."""

    params: pointer.Params
    opt_state: Any
    key: jax.Array
    step: jax.Array  # int32 []
    unigram: jax.Array  # float32 [O], share of each output in the training summaries
    popular: jax.Array  # int32 [P], outputs that every active set holds


def init_state(
    key: jax.Array, tx: Any, counts: Any, *, popular: int = 256, config: pointer.Config
) -> State:
    """A fresh state.

    Args:
      key: PRNG key.
      tx: an Optax transformation without its learning rate that takes row-sparse gradients.
      counts: [O], occurrences of each output in the training summaries.
      popular: P, the most frequent outputs, which are in every active set.
      config: the model's.
    """
    key, sample_key = jax.random.split(key)
    params = pointer.init(key, config=config)
    share, top = unigram_start(counts, config.outputs, popular)
    params["bias"] = jnp.log(share)  # the first loss is the unigram model's
    return State(params, tx.init(params), sample_key, jnp.zeros((), jnp.int32), share, top)


def written_before(source: jax.Array, targets: jax.Array, *, window: int) -> pointer.Prefix:
    """What stands before each position of whole summaries."""
    batch, count = targets.shape
    shown = jnp.concatenate([jnp.full((batch, window), END, jnp.int32), targets], axis=1)
    latest = jnp.stack([shown[:, i : i + count] for i in range(window)], axis=2)
    hit = (targets[:, :, None] == source[:, None, :]) & (targets >= 0)[:, :, None]
    hit = hit.astype(jnp.float32)
    used = jnp.cumsum(hit, axis=1) - hit
    step = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None, :], (batch, count))
    return pointer.Prefix(jnp.maximum(latest, 0), used, step)


def make_step(
    tx: Any,
    *,
    active_size: int = 1536,
    learning_rate: float = 2e-3,
    dropout: float = 0.2,
    config: pointer.Config,
) -> Callable[[State, Batch], tuple[State, StepMetrics]]:
    """The training step: step(state, batch) → (state, metrics). Jit it with the state donated.

    Args:
      tx: as given to `init_state`.
      active_size: outputs the sampled softmax is taken over.
      learning_rate: at the peak.
      dropout: share of hidden units of the decoder that a step leaves out.
      config: the model's.
    """

    def step(state: State, batch: Batch) -> tuple[State, StepMetrics]:
        params, source = state.params, jnp.asarray(batch.source)
        targets, scale = jnp.asarray(batch.targets), jnp.asarray(batch.scale, jnp.float32)
        key, draw, drop = jax.random.split(state.key, 3)
        written = written_before(source, targets, window=config.window)
        read = jnp.concatenate([source.reshape(-1), written.latest.reshape(-1)])
        words, places, _ = unique_ids(read, num_rows=config.size, size=source.size + targets.size)
        at_source = places[: source.size].reshape(source.shape)
        at_latest = places[source.size :].reshape(*targets.shape, -1)
        flat = targets.reshape(-1)
        output = jnp.where(flat < config.outputs, flat, -1)
        chosen = draw_words(draw, output, state.unigram, state.popular, size=active_size)
        real = (targets >= 0).astype(jnp.float32)
        total = jnp.maximum(jnp.sum(real), jnp.float32(1))
        keep = jax.random.bernoulli(drop, 1 - dropout, (2, flat.size, config.hidden))
        keep = keep.astype(jnp.float32) / jnp.float32(1 - dropout)
        gathered = (
            take_rows(params["embed"], words),
            take_rows(params["copyable"], words),
            take_rows(params["out"], chosen.words.ids),
            take_rows(params["bias"], chosen.words.ids),
            params["trunk"],
        )

        def loss(gathered: Any) -> jax.Array:
            embed, copyable, out, bias, trunk = gathered
            encoded = pointer.encode(
                trunk,
                take_rows(embed, at_source.reshape(-1)).reshape(*source.shape, -1),
                take_rows(copyable, at_source.reshape(-1)).reshape(source.shape),
                source,
                jnp.asarray(batch.cosines),
                config=config,
            )
            latest = take_rows(embed, at_latest.reshape(-1)).reshape(*targets.shape, -1)
            decoding = pointer.decode(trunk, encoded, latest, written, config=config, keep=keep)
            query = decoding.query.reshape(flat.size, -1)
            log_softmax = sampled_log_softmax(query, chosen, out, bias)
            log_softmax = jnp.where(chosen.places >= 0, log_softmax, jnp.float32(-1e9))
            log_p = pointer.log_prob(decoding, source, targets, log_softmax.reshape(targets.shape))
            return -jnp.sum(log_p * real) / total

        value, (embed, copyable, out, bias, trunk) = jax.value_and_grad(loss)(gathered)
        grads = {
            "embed": RowSparse(words, embed, num_rows=config.size, distinct=True),
            "copyable": RowSparse(words, copyable, num_rows=config.size, distinct=True),
            "out": RowSparse(chosen.words.ids, out, num_rows=config.outputs, distinct=True),
            "bias": RowSparse(chosen.words.ids, bias, num_rows=config.outputs, distinct=True),
            "trunk": trunk,
        }
        updates, opt_state = tx.update(grads, state.opt_state, params)
        new = apply_scaled(params, updates, -scale * jnp.float32(learning_rate))
        new_state = State(new, opt_state, key, state.step + 1, state.unigram, state.popular)
        return new_state, StepMetrics(value)

    return step
