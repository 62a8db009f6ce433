"""Decoding: a beam over whole batches, then the candidate that most agrees with all others."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.fixed_order import matmul_rows
from sparse_jax.summarize import pointer
from sparse_jax.summarize.words import END, UNKNOWN

__all__ = ["consensus", "next_log_probs", "search"]

_NEVER = -1e30


def next_log_probs(
    params: pointer.Params,
    encoded: pointer.Encoding,
    written: pointer.Prefix,
    *,
    config: pointer.Config,
) -> jax.Array:
    """log p of every word that may come next.

    Args:
      params: of `pointer.init`.
      encoded: of B sources.
      written: of M beams each.
      config: static.

    Returns:
      float32 [B, M, O + L]: outputs, then the words of source positions that are no outputs, each
      at the first position it stands at. exp of it sums to one.
    """
    batch, beams = written.step.shape
    latest = params["embed"].at[written.latest.reshape(-1)].get(mode="clip")
    latest = latest.reshape(batch, beams, -1)
    decoding = pointer.decode(params["trunk"], encoded, latest, written, config=config)
    query = decoding.query.reshape(batch * beams, -1)
    logits = matmul_rows(query, params["out"]) + params["bias"][None, :]
    softmax = jax.nn.softmax(logits, axis=1).reshape(batch, beams, -1)
    same = encoded.source[:, :, None] == encoded.source[:, None, :]
    first = jnp.argmax(same, axis=2).astype(jnp.int32)
    source = encoded.source
    place = jnp.where((source >= 0) & (source < config.outputs), source, config.outputs + first)
    copied = jnp.exp(decoding.log_mix[..., 1:]) * decoding.copying
    p = jnp.concatenate(
        [jnp.exp(decoding.log_mix[..., :1]) * softmax, jnp.zeros_like(copied)], axis=2
    )
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    columns = jnp.arange(beams, dtype=jnp.int32)[None, :, None]
    p = p.at[rows, columns, place[:, None, :]].add(copied)
    return jnp.log(p + jnp.float32(1e-30))


@functools.partial(jax.jit, static_argnames=("config",))
def _read(
    params: pointer.Params, source: jax.Array, cosines: jax.Array, *, config: pointer.Config
) -> pointer.Encoding:
    words = params["embed"].at[source].get(mode="clip")
    copyable = params["copyable"].at[source].get(mode="clip")
    return pointer.encode(params["trunk"], words, copyable, source, cosines, config=config)


@functools.partial(jax.jit, static_argnames=("config",))
def _advance(
    params: pointer.Params,
    encoded: pointer.Encoding,
    scores: jax.Array,
    summary: jax.Array,
    step: jax.Array,
    *,
    config: pointer.Config,
) -> tuple[jax.Array, jax.Array]:
    """One more word: (scores [B, M], summary [B, M, window + T]).

    A summary stands behind `window` ENDs, and is all END from its own END on.
    """
    batch, beams = scores.shape
    at = step + config.window
    latest = jax.lax.dynamic_slice_in_dim(summary, step, config.window, axis=2)
    done = (latest[:, :, -1] == END) & (step > 0)
    hit = summary[:, :, None, :] == encoded.source[:, None, :, None]
    hit = hit & (summary != END)[:, :, None, :]
    used = jnp.sum(hit.astype(jnp.float32), axis=3)
    written = pointer.Prefix(latest, used, jnp.broadcast_to(step, (batch, beams)))
    log_p = next_log_probs(params, encoded, written, config=config)
    # No pair of words is written twice.
    again = (summary[:, :, :-1] == latest[:, :, -1:]) & (summary[:, :, 1:] != END)
    banned = jnp.where(again, summary[:, :, 1:], UNKNOWN)
    words = jnp.concatenate(
        [
            jnp.broadcast_to(jnp.arange(config.outputs, dtype=jnp.int32), (batch, config.outputs)),
            encoded.source,
        ],
        axis=1,
    )
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    columns = jnp.arange(beams, dtype=jnp.int32)[None, :, None]
    inside = jnp.where(banned < config.outputs, banned, UNKNOWN)
    log_p = log_p.at[rows, columns, inside].set(jnp.float32(_NEVER))
    beyond = jnp.any(banned[:, :, None, :] == encoded.source[:, None, :, None], axis=3)
    log_p = log_p.at[:, :, config.outputs :].add(
        jnp.where(beyond, jnp.float32(_NEVER), jnp.float32(0))
    )
    # The last place holds END; a finished summary is continued by END alone.
    last = step == config.summary - 1
    ends = jnp.arange(log_p.shape[2]) == END
    only_end = done | last
    log_p = jnp.where(only_end[:, :, None] & ~ends[None, None, :], jnp.float32(_NEVER), log_p)
    log_p = jnp.where(done[:, :, None] & ends[None, None, :], jnp.float32(0), log_p)
    total = (scores[:, :, None] + log_p).reshape(batch, -1)
    best, found = jax.lax.top_k(total, beams)
    parent = (found // log_p.shape[2]).astype(jnp.int32)
    word = jnp.take_along_axis(words, (found % log_p.shape[2]).astype(jnp.int32), axis=1)
    summary = jnp.take_along_axis(summary, parent[:, :, None], axis=1)
    return best, jax.lax.dynamic_update_slice_in_dim(summary, word[:, :, None], at, axis=2)


def search(
    params: pointer.Params, source: Any, cosines: Any, *, beams: int = 8, config: pointer.Config
) -> list[list[tuple[float, list[int]]]]:
    """The likeliest summaries that a beam finds for each source, best first: (log p, word ids).

    Args:
      params: of `pointer.init`.
      source: int32 [B, L].
      cosines: float32 [B, K].
      beams: M.
      config: static.

    Raises:
      ValueError: if beams is not positive.
    """
    if beams < 1:
        raise ValueError(f"beams = {beams}: must be at least 1")
    source = jnp.asarray(source)
    encoded = _read(params, source, jnp.asarray(cosines), config=config)
    batch = source.shape[0]
    # All beams are equal at first: only one is followed.
    start = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER).astype(jnp.float32)
    scores = jnp.broadcast_to(start, (batch, beams))
    summary = jnp.full((batch, beams, config.window + config.summary), END, jnp.int32)
    for step in range(config.summary):
        scores, summary = _advance(params, encoded, scores, summary, jnp.int32(step), config=config)
        if bool(jnp.all(summary[:, :, config.window + step] == END)):
            break
    found, log_p = np.asarray(summary)[:, :, config.window :], np.asarray(scores)
    return [
        [
            (float(s), [int(w) for w in row if w != END])
            for s, row in zip(ss, rows, strict=True)
            if s > _NEVER / 2
        ]
        for ss, rows in zip(log_p, found, strict=True)
    ]


def _overlap(one: Counter[Any], other: Counter[Any]) -> float:
    """F1 of two bags."""
    both = sum((one & other).values())
    return 2 * both / max(sum(one.values()) + sum(other.values()), 1)


def consensus(candidates: list[tuple[float, list[int]]]) -> list[int]:
    """The candidate whose words and pairs of words the others, by their likelihood, share most.

    A candidate weighs its likelihood a word, exp(log p / (words + 1)), so that long ones count.

    Args:
      candidates: of `search`.

    Example:
      >>> consensus([(-1.0, [7]), (-1.1, [2, 3]), (-1.2, [2, 4])])
      [2, 3]

    Reference: Kumar and Byrne, Minimum Bayes-risk decoding for statistical machine translation,
    2004.
    """
    weights = [math.exp(s / (len(c) + 1)) for s, c in candidates]
    bags = [(Counter(c), Counter(itertools.pairwise(c))) for _, c in candidates]
    gains = [
        sum(
            w * (_overlap(words, other_words) + _overlap(pairs, other_pairs))
            for w, (other_words, other_pairs) in zip(weights, bags, strict=True)
        )
        for words, pairs in bags
    ]
    return candidates[int(np.argmax(gains))][1]
