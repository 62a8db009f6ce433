"""The step that DPO and the policy gradient share: sequence log probabilities and row updates.

Trained are the trunk, the word vectors and the memory's vectors; the output table and what the
memory counted stay. The reference is the model as it was: the changed rows of the two tables, in a
`reference.RowBackup` each, and the trunk, which is small.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.layers.sampled_softmax import draw_words
from sparse_jax.lm import evaluate, model
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import Batch, positions
from sparse_jax.lm.preference import reference
from sparse_jax.lm.reading import BatchRows, find_inputs, forward, read
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.lm.training import LMState, sampled_log_p
from sparse_jax.optim import apply_scaled
from sparse_jax.rows import RowSparse, take_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policy:
    """A model being tuned, and what it was."""

    params: model.Params
    memory: mem.Memory | None
    opt_state: Any
    key: jax.Array
    embed: reference.RowBackup
    rows: reference.RowBackup | None  # of the memory
    trunk: Any  # the reference's


class TuningBatch(NamedTuple):
    """What a step reads; arrays of NumPy or JAX."""

    tokens: Any  # int32 [S, C + T] of a `Batch`, each run one answer after its prompt
    since: Any  # int32 [S, T] of a `Batch`
    scale: Any  # float32 [], what the peak learning rates are multiplied by
    extra: tuple[Any, ...] = ()  # what the loss takes besides


class Metrics(NamedTuple):
    """Measures of a step, each float32 []."""

    loss: jax.Array
    log_ratio: jax.Array  # mean over sequences of log π − log π_ref


def init_policy(
    base: LMState | LanguageModel, tx: Any, *, seed: int = 0, room: int = 1 << 16
) -> Policy:
    """A policy that is its own reference.

    Args:
      base: the model; the policy takes its arrays over and changes them in place.
      tx: an Optax transformation without its learning rate that takes row-sparse gradients, for
        word vectors and trunk.
      seed: of the sampled softmax.
      room: rows that the reference has room for before its arrays are doubled.

    Raises:
      ValueError: if the model has a key-value memory, which no method here reaches.
    """
    if base.lsh is not None:
        raise ValueError("the model has a key-value memory: tune one trained with --pairs 0")
    params, memory = base.params, base.memory
    return Policy(
        params=params,
        memory=memory,
        opt_state=tx.init(_tuned(params)),
        key=jax.random.key(seed),
        embed=reference.init(params["embed"], room),
        rows=None if memory is None else reference.init(memory.rows, room),
        trunk=jax.tree.map(jnp.copy, params["trunk"]),
    )


def _tuned(params: model.Params) -> model.Params:
    return {"embed": params["embed"], "trunk": params["trunk"]}


def make_room(policy: Policy, tokens: int, *, config: model.Config) -> Policy:
    """Room in the reference for one more step on a batch of `tokens` targets; on the host."""
    rows = policy.rows
    if rows is not None:
        rows = reference.make_room(rows, tokens * len(config.orders))
    embed = reference.make_room(policy.embed, config.vocabulary)
    return dataclasses.replace(policy, embed=embed, rows=rows)


@functools.partial(jax.jit, donate_argnums=0)
def swap(policy: Policy) -> Policy:
    """The reference in the policy's place, and the policy in the reference's; in place."""
    words, embed = reference.swap(policy.embed, policy.params["embed"])
    rows, memory = policy.rows, policy.memory
    if rows is not None and memory is not None:
        rows, vectors = reference.swap(rows, memory.rows)
        memory = dataclasses.replace(memory, rows=vectors)
    params = policy.params | {"embed": embed, "trunk": policy.trunk}
    return dataclasses.replace(
        policy, params=params, memory=memory, embed=words, rows=rows, trunk=policy.params["trunk"]
    )


def make_step(
    loss: Callable[..., jax.Array],
    tx: Any,
    *,
    unigram: jax.Array,
    popular: jax.Array,
    learning_rate: float,
    memory_learning_rate: float,
    counted: bool,
    active_size: int = 2048,
    config: model.Config,
) -> Callable[[Policy, TuningBatch], tuple[Policy, Metrics]]:
    """The step: step(policy, batch) → (policy, metrics). Jit it with the policy donated.

    Policy and reference are scored over the same words, so that the error of that sample cancels in
    their difference.

    Args:
      loss: loss(log_p [S], log_ref [S], *extra) → float32 [], of the runs' log probabilities.
      tx: as given to `init_policy`.
      unigram: float32 [V], as in `LMState`.
      popular: int32 [P], as in `LMState`.
      learning_rate: of `tx`'s updates, at the peak.
      memory_learning_rate: of the memory's rows, at the peak.
      counted: whether the memory has counted these answers: one occurrence is left out then.
      active_size: A, words that the softmax is taken over.
      config: the model's.
    """

    def step(policy: Policy, batch: TuningBatch) -> tuple[Policy, Metrics]:
        tokens, since, scale = (jnp.asarray(x) for x in batch[:3])
        at = positions(tokens, since)
        key, draw = jax.random.split(policy.key)
        params, memory = policy.params, policy.memory
        _, inputs = find_inputs(memory, at, config=config, claim=False, counted=counted)
        chosen = draw_words(draw, at.targets, unigram, popular, size=active_size)
        out, bias = (take_rows(params[name], chosen.words.ids) for name in ("out", "bias"))

        def log_p(rows: BatchRows) -> jax.Array:
            output = forward(rows, inputs, config=config)
            each = sampled_log_p(output, inputs, chosen, out, bias, config=config)
            each = jnp.where(at.targets >= 0, each, jnp.float32(0))
            return jnp.sum(each.reshape(since.shape), axis=1)

        now = read(params, memory, inputs)
        words_backup, first = reference.keep(policy.embed, inputs.words, now.embed)
        rows_backup, first_rows = policy.rows, now.memory
        if rows_backup is not None and inputs.contexts is not None and now.memory is not None:
            rows_backup, first_rows = reference.keep(rows_backup, inputs.contexts.ids, now.memory)
        before = now._replace(embed=first, memory=first_rows, trunk=policy.trunk)
        log_ref = jax.lax.stop_gradient(log_p(before))

        def objective(rows: BatchRows) -> tuple[jax.Array, jax.Array]:
            mine = log_p(rows)
            return loss(mine, log_ref, *batch.extra), jnp.mean(mine - log_ref)

        (value, ratio), grads = jax.value_and_grad(objective, has_aux=True)(now)
        ids = inputs.words
        as_tree = {
            "embed": RowSparse(ids, grads.embed, num_rows=config.vocabulary, distinct=True),
            "trunk": grads.trunk,
        }
        updates, opt_state = tx.update(as_tree, policy.opt_state, _tuned(params))
        tuned = apply_scaled(_tuned(params), updates, -scale * jnp.float32(learning_rate))
        if memory is not None and inputs.contexts is not None:
            # Adagrad's scales are those of a sum over tokens, as in the model's own training.
            memory = mem.update_rows(
                memory,
                inputs.contexts.ids,
                grads.memory * jnp.float32(since.shape[0]),
                learning_rate=scale * jnp.float32(memory_learning_rate),
                key=jax.random.fold_in(draw, 1),
            )
        new = Policy(
            params=params | tuned,
            memory=memory,
            opt_state=opt_state,
            key=key,
            embed=words_backup,
            rows=rows_backup,
            trunk=policy.trunk,
        )
        return new, Metrics(value, ratio)

    return step


def log_probs(
    params: model.Params,
    memory: mem.Memory | None,
    batch: Batch,
    *,
    runs: int = 16,
    config: model.Config,
) -> np.ndarray:
    """Exact log probability of each run's answer, float64 [S]: the whole vocabulary normalized."""
    total = np.zeros(batch.since.shape[0])
    for start in range(0, total.size, runs):
        part = slice(start, start + runs)
        tokens, since = batch.tokens[part], batch.since[part]
        empty = runs - since.shape[0]
        tokens = np.pad(tokens, ((0, empty), (0, 0)))
        since = np.pad(since, ((0, empty), (0, 0)), constant_values=-1)
        found, _ = evaluate.log_likelihood(
            params, memory, jnp.asarray(tokens), jnp.asarray(since), config=config
        )
        total[part] = np.asarray(found, np.float64).sum(axis=1)[: runs - empty]
    return total
