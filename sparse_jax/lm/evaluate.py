"""Exact perplexity: the whole vocabulary is normalized, every token of the text is counted."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import memory as mem
from sparse_jax.lm import model
from sparse_jax.lm.batching import batches, first_alike, in_order, positions
from sparse_jax.lm.reading import find_inputs, infer
from sparse_jax.lm.text import Corpus
from sparse_jax.ops.partition import log_partition
from sparse_jax.retrieval import index
from sparse_jax.rows import take_rows

__all__ = [
    "Score",
    "TargetScores",
    "log_likelihood",
    "log_probs",
    "score",
]


def perplexity(nats: float) -> float:
    """e to the loss of a token; infinite where it is more than a float holds.

    Example:
      >>> perplexity(0.0), perplexity(800.0)
      (1.0, inf)
    """
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over a text, as `score` returns them; perplexities come from the exact likelihood."""

    nats: float  # minus the log likelihood
    tokens: int
    num_bytes: int
    extra_bits: float = 0.0  # for the spelling of unknown words

    @property
    def perplexity(self) -> float:
        """Of a token; infinite where it is more than a float holds."""
        return perplexity(self.nats / max(self.tokens, 1))

    @property
    def bits_per_byte(self) -> float:
        """Over all bytes of the text, the spelling of unknown words included."""
        return (self.nats / math.log(2) + self.extra_bits) / max(self.num_bytes, 1)


class TargetScores(NamedTuple):
    """log p of each target of a batch, as `log_likelihood` returns it; 0 for padding."""

    log_p: jax.Array  # float32 [S, T], of the model
    log_softmax: jax.Array  # float32 [S, T], of its softmax alone


@functools.partial(jax.jit, static_argnames="config")
def log_likelihood(
    params: model.Params,
    memory: mem.Memory | None,
    tokens: jax.Array,
    since: jax.Array,
    first: jax.Array | None = None,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> TargetScores:
    """The exact log p of each target of a batch.

    Args:
      params: of the model.
      memory: of the model, or None where its configuration has none.
      tokens: int32 [S, C + T], C tokens of history, then the targets.
      since: int32 [S, T], tokens of its document before each target; -1 = padding.
      first: int32 [S·T], of `batching.first_alike`: repeated histories are normalized once.
      lsh: of the state, which the key-value memory needs.
      config: the model's; static.

    Returns:
      `TargetScores`, float32 [S, T] each.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> tokens = jnp.ones((1, config.history + 2), jnp.int32)
      >>> since = jnp.array([[0, 1]], jnp.int32)
      >>> log_likelihood(params, memory, tokens, since, config=config).log_p.shape
      (1, 2)
    """
    at = positions(tokens, since)
    _, inputs = find_inputs(memory, at, config=config, claim=False)
    output = infer(params, memory, inputs, lsh, config=config)
    target = jnp.maximum(at.targets, 0)
    logit = jnp.sum(output.query * take_rows(params["out"], target), axis=1)
    logit = logit + take_rows(params["bias"], target)
    whole = log_partition(output.query, params["out"], params["bias"], first)
    log_softmax = jnp.minimum(logit - whole, 0)  # rounding apart
    log_p = log_softmax
    if config.evidence:
        log_p = model.mix_target(
            log_softmax,
            output.log_mix,
            at.targets,
            inputs.evidence,
            at.history[:, -config.recent :],
            output.recent,
        )
    real = at.targets >= 0
    keep = lambda x: jnp.where(real, x, jnp.float32(0)).reshape(since.shape)  # noqa: E731
    return TargetScores(keep(log_p), keep(log_softmax))


def log_probs(
    params: model.Params,
    memory: mem.Memory | None,
    corpus: Corpus,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> Iterator[np.ndarray]:
    """The exact log p of each token of a corpus in order, some thousands at a time.

    Args:
      params: of the model.
      memory: of the model.
      corpus: what to score.
      lsh: of the state, which the key-value memory needs.
      config: the model's.

    Returns:
      An iterator over float64 [some], together [n].

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> corpus = Corpus(np.array([5, 6, 1], np.int32), num_documents=1, num_bytes=4)
      >>> next(log_probs(params, memory, corpus, config=config)).size
      3
    """
    for batch in in_order(corpus, config.history):
        found = log_likelihood(params, memory, *batch, first_alike(batch), config=config, lsh=lsh)
        yield np.asarray(found.log_p, np.float64)[batch.since >= 0]


def score(
    params: model.Params,
    memory: mem.Memory | None,
    corpus: Corpus,
    *,
    extra_bits: float = 0.0,
    max_batches: int | None = None,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> Score:
    """The exact score of a corpus.

    Args:
      params: of the model.
      memory: of the model.
      corpus: what to score; all of it unless max_batches says otherwise.
      extra_bits: what spelling the unknown words costs.
      max_batches: of 512 tokens from all over the text, for a look during training.
      lsh: of the state, which the key-value memory needs.
      config: the model's.

    Returns:
      A `Score`.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> corpus = Corpus(np.array([5, 6, 1], np.int32), num_documents=1, num_bytes=4)
      >>> found = score(params, memory, corpus, config=config)
      >>> found.tokens, found.perplexity > 1
      (3, True)
    """
    total, count = 0.0, 0
    if max_batches is None:
        for log_p in log_probs(params, memory, corpus, config=config, lsh=lsh):
            total -= float(log_p.sum())
            count += log_p.size
    else:
        for batch in islice(batches(corpus, 16, 32, config.history, seed=0), max_batches):
            found = log_likelihood(params, memory, *batch, config=config, lsh=lsh)
            total -= float(np.sum(np.asarray(found.log_p), dtype=np.float64))
            count += int(np.sum(batch.since >= 0))
    whole = count == corpus.tokens.size
    return Score(total, count, corpus.num_bytes if whole else 0, extra_bits if whole else 0.0)
