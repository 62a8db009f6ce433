"""The softmax through hash tables: scores only for what the tables and the popular list name.

    p(w) = (1 − ε) softmax over those names + ε · unigram(w)

which is normalized over the whole vocabulary, so that its perplexity compares with the exact
model's: the difference is the cost of leaving the other words unscored.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import evaluate, model
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import batches, positions
from sparse_jax.lm.reading import find_inputs, infer
from sparse_jax.lm.text import Corpus
from sparse_jax.ops.fixed_order import matmul_rows
from sparse_jax.retrieval import index
from sparse_jax.rows import take_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseHead:
    """The output table's index, and what is scored in any case."""

    lsh: index.LshIndex
    popular: jax.Array  # int32 [P], always scored
    is_popular: jax.Array  # bool [V]
    unigram: jax.Array  # float32 [V]
    config: index.IndexConfig = dataclasses.field(metadata={"static": True})
    floor: float = dataclasses.field(metadata={"static": True})  # ε


def init(
    key: jax.Array,
    params: model.Params,
    unigram: jax.Array,
    queries: jax.Array,
    *,
    popular: int = 1024,
    floor: float = 0.02,
    config: index.IndexConfig | None = None,
) -> SparseHead:
    """Hashes the output table.

    Args:
      key: of the hash functions.
      params: of the model.
      unigram: float32 [V], share of each token in the training text.
      queries: float32 [B, out], some queries of the model (`sample_queries`): their mean is taken
        off before hashing.
      popular: P, the most frequent tokens, scored always.
      floor: ε.
      config: of the index; by default 16 SimHash tables whose best 256 candidates are scored.

    Raises:
      ValueError: if floor is not between 0 and 1.
    """
    if not 0 < floor < 1:
        raise ValueError(
            f"floor = {floor}: must be between 0 and 1, so that every word has a share"
        )
    config = config or index.IndexConfig(num_tables=16, num_bits=8, max_candidates=256)
    top = jnp.argsort(-unigram, stable=True)[: min(popular, unigram.size)].astype(jnp.int32)
    lsh = index.observe(index.init(key, params["out"], config=config), queries)
    return SparseHead(
        lsh=lsh,
        popular=top,
        is_popular=jnp.zeros(unigram.size, bool).at[top].set(True),
        unigram=unigram,
        config=config,
        floor=floor,
    )


@functools.partial(jax.jit, static_argnames="config")
def sample_queries(
    params: model.Params,
    memory: mem.Memory | None,
    tokens: jax.Array,
    since: jax.Array,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> jax.Array:
    """The model's queries on a batch, float32 [S·T, out]; `lsh` as for `evaluate.score`."""
    at = positions(tokens, since)
    _, inputs = find_inputs(memory, at, config=config, claim=False)
    return infer(params, memory, inputs, lsh, config=config).query


class WordScores(NamedTuple):
    """The words scored for each query: the popular ones and those that the tables name."""

    ids: jax.Array  # int32 [B, P + M], distinct; -1 = none
    logits: jax.Array  # float32 [B, P + M]; −inf = none


class SparseScores(NamedTuple):
    """A batch through the tables."""

    log_p: jax.Array  # float32 [S, T], of each target; 0 for padding
    words: jax.Array  # float32 [], mean number of words scored


def scored(head: SparseHead, params: model.Params, query: jax.Array) -> WordScores:
    """The logits of the popular words and of the words that the tables name."""
    found = index.candidates(head.lsh, query, config=head.config).ids
    again = take_rows(head.is_popular, found.reshape(-1)).reshape(found.shape)
    found = jnp.where(again, -1, found)
    flat = found.reshape(-1)
    rows = take_rows(params["out"], flat).reshape(*found.shape, -1)
    near = jnp.einsum("bmd,bd->bm", rows, query)
    near = near + take_rows(params["bias"], flat).reshape(found.shape)
    near = jnp.where(found < 0, -jnp.inf, near)
    always = matmul_rows(query, take_rows(params["out"], head.popular))
    always = always + take_rows(params["bias"], head.popular)[None, :]
    popular = jnp.broadcast_to(head.popular[None, :], always.shape)
    return WordScores(jnp.concatenate([popular, found], 1), jnp.concatenate([always, near], 1))


def log_softmax_of(
    head: SparseHead, ids: jax.Array, logits: jax.Array, targets: jax.Array
) -> jax.Array:
    """log p of each target, [B], from what was scored."""
    log_p = jax.nn.log_softmax(logits, axis=1)
    hit = jnp.where(ids == targets[:, None], jnp.exp(log_p), jnp.float32(0))
    share = take_rows(head.unigram, targets)
    return jnp.log(jnp.float32(1 - head.floor) * jnp.sum(hit, axis=1) + head.floor * share + 1e-30)


def log_softmax(head: SparseHead, params: model.Params, query: jax.Array) -> jax.Array:
    """log p of the whole vocabulary, float32 [B, V]: the floor where nothing was scored."""
    ids, logits = scored(head, params, query)
    share = jnp.float32(1 - head.floor) * jax.nn.softmax(logits, axis=1)
    p = jnp.broadcast_to(head.floor * head.unigram[None, :], (query.shape[0], head.unigram.size))
    rows = jnp.arange(query.shape[0], dtype=jnp.int32)[:, None]
    p = p.at[rows, jnp.where(ids < 0, head.unigram.size, ids)].add(share, mode="drop")
    return jnp.log(p)


@functools.partial(jax.jit, static_argnames="config")
def log_likelihood(
    head: SparseHead,
    params: model.Params,
    memory: mem.Memory | None,
    tokens: jax.Array,
    since: jax.Array,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> SparseScores:
    """log p of each target of a batch through the tables."""
    at = positions(tokens, since)
    _, inputs = find_inputs(memory, at, config=config, claim=False)
    output = infer(params, memory, inputs, lsh, config=config)
    ids, logits = scored(head, params, output.query)
    log_p = log_softmax_of(head, ids, logits, at.targets)
    if config.evidence:
        log_p = model.mix_target(
            log_p,
            output.log_mix,
            at.targets,
            inputs.evidence,
            at.history[:, -config.recent :],
            output.recent,
        )
    count = jnp.mean(jnp.sum((ids >= 0).astype(jnp.float32), axis=1))
    real = at.targets >= 0
    return SparseScores(jnp.where(real, log_p, jnp.float32(0)).reshape(since.shape), count)


def score(
    head: SparseHead,
    params: model.Params,
    memory: mem.Memory | None,
    corpus: Corpus,
    *,
    max_batches: int | None = None,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> tuple[evaluate.Score, float]:
    """(score of a corpus through the tables, mean number of words scored a token).

    Args:
      head: of `init`.
      params: of the model.
      memory: of the model.
      corpus: what to score.
      max_batches: of 256 tokens from all over the text; None scores all of it.
      lsh: of the state, which the key-value memory needs (not the head's).
      config: the model's.
    """
    total, count, words, steps = 0.0, 0, 0.0, 0
    source = batches(corpus, 8, 32, config.history, seed=None if max_batches is None else 0)
    for number, batch in enumerate(source):
        if max_batches is not None and number >= max_batches:
            break
        log_p, seen = log_likelihood(
            head, params, memory, *map(jnp.asarray, batch), config=config, lsh=lsh
        )
        total -= float(np.sum(np.asarray(log_p), dtype=np.float64))
        count += int(np.sum(batch.since >= 0))
        words, steps = words + float(seen), steps + 1
    whole = count == corpus.tokens.size
    return evaluate.Score(total, count, corpus.num_bytes if whole else 0), words / max(steps, 1)
