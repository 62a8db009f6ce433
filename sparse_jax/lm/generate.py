"""Text from the model: sampling, beam search, streaming."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import memory as mem
from sparse_jax.lm import model, sparse_head
from sparse_jax.lm.batching import Positions
from sparse_jax.lm.reading import Forward, Inputs, find_inputs, infer
from sparse_jax.lm.sampling import Sampling, adjust
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.lm.text import DOCUMENT
from sparse_jax.ops.fixed_order import matmul_rows
from sparse_jax.retrieval import index

__all__ = [
    "Sampling",
    "beam_search",
    "make_head",
    "next_log_probs",
    "stream",
]


def pack_history(prompt: Any, *, config: model.Config) -> tuple[np.ndarray, int]:
    """(history int32 [C], tokens known): the end of a prompt, which starts a document.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, recent=8)
      >>> history, known = pack_history([7, 8], config=config)
      >>> history[-3:].tolist(), known
      ([1, 7, 8], 2)
    """
    size = config.history
    prompt = np.asarray(prompt, np.int32).reshape(-1)
    ends = np.flatnonzero(prompt == DOCUMENT)
    prompt = prompt[ends[-1] + 1 :] if ends.size else prompt
    history = np.full(size, DOCUMENT, np.int32)
    kept = prompt[-size:]
    if kept.size:
        history[-kept.size :] = kept
    return history, kept.size


def next_forward(
    params: model.Params,
    memory: mem.Memory | None,
    history: jax.Array,
    known: jax.Array,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> tuple[Forward, Inputs]:
    """The model's query and mixture for the token after each history."""
    at = Positions(history, history, known, jnp.full(known.shape, -1, jnp.int32))
    _, inputs = find_inputs(memory, at, config=config, claim=False)
    return infer(params, memory, inputs, lsh, config=config), inputs


def next_log_probs(
    params: model.Params,
    memory: mem.Memory | None,
    history: jax.Array,
    known: jax.Array,
    head: sparse_head.SparseHead | None = None,
    *,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> jax.Array:
    """log p of every token after each history: exact, or through the hash tables.

    Args:
      params: of the model.
      memory: of the model.
      history: int32 [B, C], the tokens before, DOCUMENT before a document's start.
      known: int32 [B], how many of them are the document's.
      head: None for the exact softmax; else the one that scores what its tables name.
      lsh: of the state, which the key-value memory needs.
      config: static.

    Returns:
      float32 [B, V], each row normalized.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> history, known = pack_history([7, 8], config=config)
      >>> history, known = jnp.asarray(history)[None], jnp.array([known], jnp.int32)
      >>> log_p = next_log_probs(params, memory, history, known, config=config)
      >>> log_p.shape, round(float(jnp.exp(log_p).sum()), 3)
      ((1, 9), 1.0)
    """
    output, inputs = next_forward(params, memory, history, known, config=config, lsh=lsh)
    if head is None:
        logits = matmul_rows(output.query, params["out"]) + params["bias"][None, :]
        log_softmax = jax.nn.log_softmax(logits, axis=1)
    else:
        log_softmax = sparse_head.log_softmax(head, params, output.query)
    return mix_all(log_softmax, output, inputs, config=config)


def mix_all(
    log_softmax: jax.Array, output: Forward, inputs: Inputs, *, config: model.Config
) -> jax.Array:
    """log p of the whole vocabulary, [B, V], from that of the softmax."""
    if not config.evidence:
        return log_softmax
    share = jnp.exp(output.log_mix)
    words = [inputs.at.history[:, -config.recent :]]
    weights = [share[:, 1:2] * output.recent]
    if inputs.evidence is not None:
        size = share.shape[0]
        words.append(inputs.evidence.words.reshape(size, -1))
        weights.append((share[:, 2:, None] * inputs.evidence.shares).reshape(size, -1))
    p = jnp.exp(log_softmax) * share[:, :1]
    rows = jnp.arange(p.shape[0], dtype=jnp.int32)[:, None]
    p = p.at[rows, jnp.concatenate(words, 1)].add(jnp.concatenate(weights, 1))
    return jnp.log(jnp.maximum(p, jnp.float32(1e-37)))


@functools.partial(jax.jit, static_argnames=("config", "how"))
def _sample_step(
    params: model.Params,
    memory: mem.Memory | None,
    key: jax.Array,
    history: jax.Array,
    known: jax.Array,
    head: sparse_head.SparseHead | None,
    lsh: index.LshIndex | None,
    *,
    how: Sampling,
    config: model.Config,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    log_p = next_log_probs(params, memory, history, known, head, config=config, lsh=lsh)
    scores = adjust(log_p, history, known, how)
    if how.temperature == 0.0:
        chosen = jnp.argmax(scores, axis=1).astype(jnp.int32)
    else:
        chosen = jax.random.categorical(key, scores, axis=1).astype(jnp.int32)
    return chosen, *_append(history, known, chosen)


def _append(history: jax.Array, known: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Histories one token later. The end of a document begins a new one."""
    history = jnp.concatenate([history[:, 1:], chosen[:, None]], axis=1)
    ended = chosen == DOCUMENT
    history = jnp.where(ended[:, None], DOCUMENT, history)
    return history, jnp.where(ended, 0, jnp.minimum(known + 1, history.shape[1]))


def stream(
    params: model.Params,
    memory: mem.Memory | None,
    prompts: list[Any],
    *,
    how: Sampling | None = None,
    seed: int = 0,
    head: sparse_head.SparseHead | None = None,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> Iterator[np.ndarray]:
    """One token for each prompt at a time, int32 [B], without end.

    Args:
      params: of the model.
      memory: of the model.
      prompts: B sequences of token ids, which may be empty.
      how: of drawing; default: from the model's own distribution.
      seed: of the draws: the same seed and prompts give the same text.
      head: as for `next_log_probs`.
      lsh: as for `next_log_probs`.
      config: the model's.

    Returns:
      An iterator of int32 [B].

    Raises:
      ValueError: if there is no prompt, when the first token is asked for.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> tokens = stream(params, memory, [[7, 8], []], how=Sampling(temperature=0), config=config)
      >>> next(tokens).shape, next(tokens).shape
      ((2,), (2,))
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one, which may be an empty list")
    packed = [pack_history(prompt, config=config) for prompt in prompts]
    history = jnp.asarray(np.stack([h for h, _ in packed]))
    known = jnp.asarray(np.array([k for _, k in packed], np.int32))
    key = jax.random.key(seed)
    while True:
        key, draw = jax.random.split(key)
        chosen, history, known = _sample_step(
            params, memory, draw, history, known, head, lsh, config=config, how=how or Sampling()
        )
        yield np.asarray(chosen)


@functools.partial(jax.jit, static_argnames=("config", "beams", "how"))
def _beam_step(
    params: model.Params,
    memory: mem.Memory | None,
    scores: jax.Array,
    history: jax.Array,
    known: jax.Array,
    done: jax.Array,
    lsh: index.LshIndex | None,
    *,
    beams: int,
    how: Sampling,
    config: model.Config,
) -> tuple[jax.Array, ...]:
    log_p = next_log_probs(params, memory, history, known, config=config, lsh=lsh)
    log_p = adjust(log_p, history, known, dataclasses.replace(how, temperature=1.0))
    # A finished beam has one continuation, which adds nothing.
    stays = jnp.full_like(log_p, -jnp.inf).at[:, DOCUMENT].set(0.0)
    total = scores[:, None] + jnp.where(done[:, None], stays, log_p)
    flat = total.reshape(-1)
    best, at = jax.lax.optimization_barrier(jax.lax.top_k(flat, beams))
    parent, word = at // log_p.shape[1], (at % log_p.shape[1]).astype(jnp.int32)
    history, known = _append(history[parent], known[parent], word)
    return best, history, known, done[parent] | (word == DOCUMENT), parent, word


def beam_search(
    params: model.Params,
    memory: mem.Memory | None,
    prompt: Any,
    *,
    tokens: int,
    beams: int = 4,
    how: Sampling | None = None,
    lsh: index.LshIndex | None = None,
    config: model.Config,
) -> list[tuple[float, list[int]]]:
    """The likeliest continuations that a beam finds.

    A continuation ends at the end of the document, which isn't in its ids.

    Args:
      params: of the model.
      memory: of the model.
      prompt: token ids, which may be none.
      tokens: of a continuation, at most.
      beams: continuations that are followed.
      how: adjusts log p as for `stream`; its temperature has no effect.
      lsh: as for `next_log_probs`.
      config: the model's.

    Returns:
      At most `beams` pairs of (log p, token ids), best first.

    Raises:
      ValueError: if beams or tokens is not positive.

    Example:
      >>> config = model.Config(vocabulary=9, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> found = beam_search(params, memory, [7], tokens=2, beams=2, config=config)
      >>> len(found), found[0][0] >= found[1][0]
      (2, True)
    """
    if beams < 1 or tokens < 1:
        raise ValueError(f"beams = {beams}, tokens = {tokens}: both must be at least 1")
    start, count = pack_history(prompt, config=config)
    history = jnp.asarray(np.tile(start, (beams, 1)))
    known = jnp.full(beams, count, jnp.int32)
    # All beams are equal at first: only one is followed.
    scores = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(jnp.float32)
    done = jnp.zeros(beams, bool)
    texts: list[list[int]] = [[] for _ in range(beams)]
    for _ in range(tokens):
        scores, history, known, done, parent, word = _beam_step(
            params,
            memory,
            scores,
            history,
            known,
            done,
            lsh,
            config=config,
            beams=beams,
            how=how or Sampling(),
        )
        pairs = zip(np.asarray(parent).tolist(), np.asarray(word).tolist(), strict=True)
        texts = [texts[p] + ([w] if w != DOCUMENT else []) for p, w in pairs]
        if bool(jnp.all(done)):
            break
    found = [(float(s), t) for s, t in zip(scores, texts, strict=True) if s > -np.inf]
    return found


def make_head(
    language_model: LanguageModel, tables: index.IndexConfig | None = None, *, popular: int = 1024
) -> sparse_head.SparseHead:
    """The softmax through hash tables, its queries centred on text that the model draws.

    Args:
      language_model: a finished model.
      tables: of the index, as for `sparse_head.init`.
      popular: P, words scored always.

    Returns:
      A `sparse_head.SparseHead`, for `stream` and `next_log_probs`.

    Example:
      >>> config = model.Config(vocabulary=64, rows=0, hidden=8, inner=8, evidence=False)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> unigram, popular = jnp.full(64, 1 / 64), jnp.arange(4, dtype=jnp.int32)
      >>> trained = LanguageModel(params, memory, unigram, popular, None, config, vocabulary=None)
      >>> head = make_head(trained, popular=8)
      >>> next(stream(params, memory, [[5]], head=head, config=config)).shape
      (1,)
    """
    params, memory, lsh = language_model.params, language_model.memory, language_model.lsh
    config = language_model.config
    texts = stream(params, memory, [[]] * 32, config=config, lsh=lsh)
    tokens = np.stack([next(texts) for _ in range(config.history + 32)], axis=1)
    since = np.full((32, 32), config.history, np.int32)
    queries = sparse_head.sample_queries(
        params, memory, jnp.asarray(tokens), jnp.asarray(since), lsh=lsh, config=config
    )
    key = jax.random.key(0)
    return sparse_head.init(
        key, params, language_model.unigram, queries, config=tables, popular=popular
    )
