"""Exact perplexity: the whole vocabulary is normalized, every token of the text is counted."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import memory as mem
from sparse_jax.lm import model
from sparse_jax.lm.batching import Batch, batches, positions
from sparse_jax.lm.reading import find_inputs, infer
from sparse_jax.lm.text import Corpus
from sparse_jax.ops.fixed_order import matmul_rows
from sparse_jax.retrieval import index


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over a text; perplexities come from the exact log likelihood."""

    nats: float  # minus the log likelihood
    tokens: int
    num_bytes: int
    extra_bits: float = 0.0  # for the spelling of unknown words

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return math.exp(self.nats / max(self.tokens, 1))

    @property
    def bits_per_byte(self) -> float:
        """Over all bytes of the text, the spelling of unknown words included."""
        return (self.nats / math.log(2) + self.extra_bits) / max(self.num_bytes, 1)


class TargetScores(NamedTuple):
    """log p of each target of a batch; 0 for padding."""

    log_p: jax.Array  # float32 [S, T], of the model
    log_softmax: jax.Array  # float32 [S, T], of its softmax alone


@functools.partial(jax.jit, static_argnames="config")
def log_likelihood(
    params: model.Params,
    memory: mem.Memory | None,
    tokens: jax.Array,
    since: jax.Array,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> TargetScores:
    """Exact log p of each target of a batch; `lsh` is the state's, for the key-value memory."""
    at = positions(tokens, since)
    _, inputs = find_inputs(memory, at, config=config, claim=False)
    output = infer(params, memory, inputs, lsh, config=config)
    logits = matmul_rows(output.query, params["out"]) + params["bias"][None, :]
    target = jnp.maximum(at.targets, 0)[:, None]
    logit = jnp.take_along_axis(logits, target, axis=1)[:, 0]
    log_softmax = logit - jax.nn.logsumexp(logits, axis=1)
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


def score(
    params: model.Params,
    memory: mem.Memory | None,
    corpus: Corpus,
    *,
    runs: int = 16,
    length: int = 32,
    extra_bits: float = 0.0,
    max_batches: int | None = None,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> Score:
    """The exact score of a corpus, in batches of S·T positions.

    Args:
      params: of the model.
      memory: of the model.
      corpus: what to score; all of it unless max_batches says otherwise.
      runs: S.
      length: T.
      extra_bits: what spelling the unknown words costs.
      max_batches: stop early, for a look during training; spread evenly over the text.
      lsh: of the state, which the key-value memory needs.
      config: the model's.
    """
    total, count = 0.0, 0
    for batch in _spread(corpus, runs, length, config.history, max_batches):
        log_p, _ = log_likelihood(params, memory, *map(jnp.asarray, batch), config=config, lsh=lsh)
        total -= float(np.sum(np.asarray(log_p), dtype=np.float64))
        count += int(np.sum(batch.since >= 0))
    whole = count == corpus.tokens.size
    return Score(total, count, corpus.num_bytes if whole else 0, extra_bits if whole else 0.0)


def _spread(corpus: Corpus, runs: int, length: int, history: int, max_batches: int | None) -> Any:
    source: Any = batches(corpus, runs, length, history, seed=None if max_batches is None else 0)
    for number, batch in enumerate(source):
        if max_batches is not None and number >= max_batches:
            return
        yield Batch(*batch)
