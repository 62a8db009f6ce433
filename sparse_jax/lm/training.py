"""One training step of the language model: jitted, donated, no operation over all rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers.sampled_softmax import (
    SampledWords,
    draw_words,
    sampled_log_softmax,
    unigram_start,
)
from sparse_jax.lm import keyvalue, model
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import positions
from sparse_jax.lm.reading import Forward, Inputs, find_inputs, forward, read, read_pairs
from sparse_jax.optim import apply_scaled
from sparse_jax.retrieval import index
from sparse_jax.rows import RowSparse, take_rows

TABLES = ("embed", "out", "bias", "copyable")
"""Parameters that a step touches by rows."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LMState:
    """Everything that lives across steps."""

    params: model.Params
    memory: mem.Memory | None
    opt_state: Any
    key: jax.Array  # PRNG key of the sampled softmax
    step: jax.Array  # int32 []
    unigram: jax.Array  # float32 [V], share of each token in the training text
    popular: jax.Array  # int32 [P], tokens that every active set holds
    lsh: index.LshIndex | None = None  # of the keys of the key-value memory


class TrainingBatch(NamedTuple):
    """What a step reads; arrays of NumPy or JAX."""

    tokens: Any  # int32 [S, C + T], as in `batching.Batch`
    since: Any  # int32 [S, T], as in `batching.Batch`
    scale: Any  # float32 [], what the peak rate of all but the memory is multiplied by


class StepMetrics(NamedTuple):
    """Measures of a step, each float32 []."""

    loss: jax.Array  # mean negative log likelihood, estimated from the active set
    log_mix: jax.Array  # mean share of the softmax in the mixture
    known: jax.Array  # share of contexts with a row that was seen before
    touched: jax.Array  # distinct memory rows


def init_state(
    key: jax.Array, tx: Any, counts: Any, *, popular: int = 512, config: model.Config
) -> LMState:
    """A fresh state.

    Args:
      key: PRNG key.
      tx: an Optax transformation without its learning rate that takes row-sparse gradients, such
        as `rowwise(optax.scale_by_adam())`.
      counts: [V], occurrences of each token in the training text.
      popular: P, the most frequent tokens, which are in every active set.
      config: the model's.

    Returns:
      An `LMState`.
    """
    key, sample_key = jax.random.split(key)
    params, memory = model.init(key, config=config)
    share, top = unigram_start(counts, config.vocabulary, popular)
    # The bias begins at the log frequency, so that the first loss is the unigram model's.
    params["bias"] = jnp.log(share)
    lsh = None
    if config.pairs:
        tables = keyvalue.index_config(config.pairs, config.pair_candidates)
        lsh = index.init(jax.random.fold_in(key, 0x6C7368), params["keys"], config=tables)
    return LMState(
        params=params,
        memory=memory,
        opt_state=tx.init(params),
        key=sample_key,
        step=jnp.zeros((), jnp.int32),
        unigram=share,
        popular=top,
        lsh=lsh,
    )


def sampled_log_p(
    output: Forward,
    inputs: Inputs,
    chosen: SampledWords,
    out: jax.Array,
    bias: jax.Array,
    *,
    config: model.Config,
) -> jax.Array:
    """log p of each target, [B], its softmax taken over the words drawn.

    Args:
      output: of `forward`.
      inputs: of `find_inputs`.
      chosen: of `draw_words`.
      out: float32 [A, out], rows of the output table.
      bias: float32 [A].
      config: static.
    """
    log_softmax = sampled_log_softmax(output.query, chosen, out, bias)
    if not config.evidence:
        return log_softmax
    return model.mix_target(
        log_softmax,
        output.log_mix,
        inputs.at.targets,
        inputs.evidence,
        inputs.at.history[:, -config.recent :],
        output.recent,
    )


def make_step(
    tx: Any,
    *,
    active_size: int = 2048,
    learning_rate: float = 2e-3,
    memory_learning_rate: float = 0.15,
    config: model.Config,
) -> Callable[[LMState, TrainingBatch], tuple[LMState, StepMetrics]]:
    """The training step: step(state, batch) → (state, metrics). Jit it with the state donated.

    The batch brings the schedule's factor on the learning rate, since the decay may follow the time
    (`optim.rates.scale`). The memory's rate stays as it is: a row that is first met near the end
    has as much to learn as any other, and Adagrad shortens the steps of those met often.

    Args:
      tx: as given to `init_state`.
      active_size: A, tokens the sampled softmax is taken over: the batch's targets, the popular
        ones and a uniform sample.
      learning_rate: of `tx`'s updates, at the peak.
      memory_learning_rate: of the memory's rows, from the first step to the last.
      config: the model's.
    """

    def step(state: LMState, batch: TrainingBatch) -> tuple[LMState, StepMetrics]:
        tokens, since, scale = map(jnp.asarray, batch)
        at = positions(tokens, since)
        key, draw, round_key = jax.random.split(state.key, 3)
        memory, inputs = find_inputs(state.memory, at, config=config, claim=True)
        chosen = draw_words(draw, at.targets, state.unigram, state.popular, size=active_size)
        rows, inputs, queries = read_pairs(
            state.params, state.lsh, read(state.params, memory, inputs), inputs, config=config
        )
        gathered = (
            rows,
            take_rows(state.params["out"], chosen.words.ids),
            take_rows(state.params["bias"], chosen.words.ids),
        )
        real = (at.targets >= 0).astype(jnp.float32)
        total = jnp.maximum(jnp.sum(real), jnp.float32(1))

        def loss(gathered: Any) -> tuple[jax.Array, jax.Array]:
            rows, out, bias = gathered
            output = forward(rows, inputs, config=config)
            log_p = sampled_log_p(output, inputs, chosen, out, bias, config=config)
            return -jnp.sum(log_p * real) / total, output.log_mix[:, 0]

        (value, log_mix), grads = jax.value_and_grad(loss, has_aux=True)(gathered)
        rows, out, bias = grads
        vocabulary = config.vocabulary
        as_tree = {
            "embed": RowSparse(inputs.words, rows.embed, num_rows=vocabulary, distinct=True),
            "copyable": RowSparse(inputs.words, rows.copyable, num_rows=vocabulary, distinct=True),
            "out": RowSparse(chosen.words.ids, out, num_rows=vocabulary, distinct=True),
            "bias": RowSparse(chosen.words.ids, bias, num_rows=vocabulary, distinct=True),
            "trunk": rows.trunk,
        }
        lsh = state.lsh
        if lsh is not None and queries is not None and inputs.pairs is not None:
            for name, of_pair in zip(("keys", "values"), rows.pairs, strict=True):
                as_tree[name] = RowSparse(
                    inputs.pairs.ids, of_pair, num_rows=config.pairs, distinct=True
                )
            lsh = keyvalue.note(lsh, queries, inputs.pairs.ids)
        updates, opt_state = tx.update(as_tree, state.opt_state, state.params)
        params = apply_scaled(state.params, updates, -scale * jnp.float32(learning_rate))
        known_share = touched = jnp.zeros((), jnp.float32)
        if memory is not None and inputs.contexts is not None and inputs.evidence is not None:
            memory = mem.update_rows(
                memory,
                inputs.contexts.ids,
                rows.memory * total,
                learning_rate=memory_learning_rate,
                key=round_key,
            )
            memory = mem.observe(memory, inputs.contexts, at.targets)
            known_share = jnp.mean(inputs.evidence.known.astype(jnp.float32))
            touched = jnp.sum(inputs.contexts.ids >= 0).astype(jnp.float32)
        new = LMState(
            params=params,
            memory=memory,
            opt_state=opt_state,
            key=key,
            step=state.step + 1,
            unigram=state.unigram,
            popular=state.popular,
            lsh=lsh,
        )
        share = jnp.sum(jnp.exp(log_mix) * real) / total
        return new, StepMetrics(value, share, known_share, touched)

    return step


def maintain(state: LMState, *, config: model.Config) -> LMState:
    """Re-hashes the keys of the key-value memory when it is time: call it after each step.

    Args:
      state: its `lsh` is donated.
      config: the model's.
    """
    if state.lsh is None:
        return state
    lsh = keyvalue.maintain(
        state.lsh, state.step, state.params["keys"], candidates=config.pair_candidates
    )
    return dataclasses.replace(state, lsh=lsh)


def empty_memory(state: LMState) -> LMState:
    """The state with its memory as it began: call it before each pass over the text but the first.

    What the memory says of a token is then learned from other tokens in each pass, as it will be
    on text that it never met; all else goes on.

    Args:
      state: its memory is donated.

    Returns:
      An `LMState`.
    """
    if state.memory is None:
        return state
    return dataclasses.replace(state, memory=_zeros(state.memory))


# Kept though unused, so that the zeros are written in place: two memories might not fit.
@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _zeros(memory: mem.Memory) -> mem.Memory:
    return jax.tree.map(jnp.zeros_like, memory)
