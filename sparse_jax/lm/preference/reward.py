"""A reward model from pairs, Bradley and Terry's: P(a over b) = σ(r(x, a) − r(x, b)).

    r(x, y) = v(x)ᵀ M v(y) + Σ_{p in x, a in y} w[hash(p, a)] / sqrt(pairs)

with v the language model's word vectors, averaged over prompt or answer and normalized, and w a
table of one weight a word pair, of which an answer touches a few hundred rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import layers
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import Batch
from sparse_jax.ops.fixed_order import matmul_columns
from sparse_jax.optim import apply_scaled
from sparse_jax.rows import RowSparse, take_rows, unique_ids

LATEST = 32  # words of the prompt that are crossed with the answer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewardState:
    """Everything that lives across steps."""

    params: dict[str, jax.Array]  # "match" [e, e], "pairs" [F]
    opt_state: Any


class RewardBatch(NamedTuple):
    """What a step reads; arrays of NumPy or JAX."""

    embed: Any  # float32 [V, e], the language model's word vectors
    tokens: Any  # int32 [2n, C + T] of a `Batch`, chosen and rejected in turn
    since: Any  # int32 [2n, T] of a `Batch`
    scale: Any  # float32 [], what the peak learning rate is multiplied by


class Metrics(NamedTuple):
    """Measures of a step."""

    loss: jax.Array  # float32 []


def init_state(tx: Any, *, width: int, rows: int = 1 << 20) -> RewardState:
    """A model that finds all answers equal.

    Args:
      tx: an Optax transformation without its learning rate that takes row-sparse gradients.
      width: e, of the language model's word vectors.
      rows: F, weights of hashed word pairs.
    """
    params = {
        "match": jnp.zeros((width, width), jnp.float32),
        "pairs": jnp.zeros(rows, jnp.float32),
    }
    return RewardState(params, tx.init(params))


def _features(
    embed: jax.Array, tokens: jax.Array, since: jax.Array, rows: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(v(x) [S, e], v(y) [S, e], hashed pairs int32 [S, LATEST · T], -1 where there is none)."""
    runs, length = since.shape
    back = tokens.shape[1] - length
    prompt, answer = tokens[:, :back], tokens[:, back:]
    age = jnp.arange(back, 0, -1, dtype=jnp.int32)
    prompt = jnp.where(age[None, :] <= since[:, :1], prompt, -1)
    answer = jnp.where(since >= 0, answer, -1)

    def mean(ids: jax.Array) -> jax.Array:
        found = take_rows(embed, ids.reshape(-1)).reshape(*ids.shape, -1)
        return layers.normalize(jnp.sum(found, axis=1)) / jnp.float32(embed.shape[1] ** 0.5)

    latest = prompt[:, -LATEST:]
    shape = (runs, latest.shape[1], length)
    left = jnp.broadcast_to(latest[:, :, None], shape)
    right = jnp.broadcast_to(answer[:, None, :], shape)
    both = jnp.stack([left.reshape(-1), right.reshape(-1)], axis=1)
    known = jnp.where(jnp.min(both, axis=1) >= 0, 2, 0).astype(jnp.int32)
    places, tags = mem.hash_contexts(both, known, (2,))
    hashed = (places[:, 0] % jnp.uint32(rows)).astype(jnp.int32)
    hashed = jnp.where(tags[:, 0] == jnp.uint32(0), -1, hashed)
    return mean(prompt), mean(answer), hashed.reshape(runs, -1)


def _score(
    match: jax.Array, weights: jax.Array, prompt: jax.Array, answer: jax.Array, real: jax.Array
) -> jax.Array:
    count = jnp.sum(real.astype(jnp.float32), axis=1)
    crossed = jnp.sum(jnp.where(real, weights, jnp.float32(0)), axis=1)
    crossed = crossed * jax.lax.rsqrt(jnp.maximum(count, jnp.float32(1)))
    return jnp.sum(matmul_columns(prompt, match) * answer, axis=1) + crossed


@jax.jit
def rewards(
    params: dict[str, jax.Array], embed: jax.Array, tokens: jax.Array, since: jax.Array
) -> jax.Array:
    """r of each run's answer, float32 [S].

    Args:
      params: of `RewardState`.
      embed: float32 [V, e], the language model's word vectors.
      tokens: int32 [S, C + T] of a `Batch`.
      since: int32 [S, T] of a `Batch`.
    """
    prompt, answer, hashed = _features(embed, tokens, since, params["pairs"].size)
    weights = take_rows(params["pairs"], hashed.reshape(-1)).reshape(hashed.shape)
    return _score(params["match"], weights, prompt, answer, hashed >= 0)


def score(params: dict[str, jax.Array], embed: jax.Array, batch: Batch) -> np.ndarray:
    """r of each run of a batch of any size, float32 [S]."""
    parts = [
        rewards(params, embed, jnp.asarray(tokens), jnp.asarray(since))
        for tokens, since in zip(
            np.array_split(batch.tokens, -(-len(batch.tokens) // 64)),
            np.array_split(batch.since, -(-len(batch.since) // 64)),
            strict=True,
        )
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def loss(scores: jax.Array) -> jax.Array:
    """−log σ(r_chosen − r_rejected), the mean over pairs.

    Args:
      scores: float32 [2n], chosen and rejected in turn.

    Example:
      >>> round(float(loss(jnp.array([1.0, 0.0]))), 4)
      0.3133

    Reference:
      Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs"; as a reward model,
      Ouyang et al. 2022, "Training language models to follow instructions", section 3.5.
    """
    pairs = scores.reshape(-1, 2)
    return jnp.mean(jax.nn.softplus(pairs[:, 1] - pairs[:, 0]))


def make_step(
    tx: Any, *, learning_rate: float
) -> Callable[[RewardState, RewardBatch], tuple[RewardState, Metrics]]:
    """The step: step(state, batch) → (state, metrics). Jit it with the state donated.

    Args:
      tx: as given to `init_state`.
      learning_rate: of its updates, at the peak.
    """

    def step(state: RewardState, batch: RewardBatch) -> tuple[RewardState, Metrics]:
        embed, tokens, since, scale = map(jnp.asarray, batch)
        table = state.params["pairs"]
        prompt, answer, hashed = _features(embed, tokens, since, table.size)
        ids, places, _ = unique_ids(hashed.reshape(-1), num_rows=table.size, size=hashed.size)

        def objective(match: jax.Array, rows: jax.Array) -> jax.Array:
            weights = take_rows(rows, places).reshape(hashed.shape)
            return loss(_score(match, weights, prompt, answer, hashed >= 0))

        rows = take_rows(table, ids)
        value, (match, changed) = jax.value_and_grad(objective, argnums=(0, 1))(
            state.params["match"], rows
        )
        grads = {
            "match": match,
            "pairs": RowSparse(ids, changed, num_rows=table.size, distinct=True),
        }
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = apply_scaled(state.params, updates, -scale * jnp.float32(learning_rate))
        return RewardState(params, opt_state), Metrics(value)

    return step
