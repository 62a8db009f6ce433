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
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.lm.text import DOCUMENT, UNKNOWN
from sparse_jax.ops.fixed_order import matmul_rows
from sparse_jax.retrieval import index

NUCLEUS = 1024
"""At most this many words are what top-k and top-p choose from."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next word is drawn. The defaults draw from the model's own distribution."""

    temperature: float = 1.0  # 0 takes the likeliest
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # log p of words in the history is multiplied by it
    unknown: bool = False  # whether the unknown word may be drawn

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature = {self.temperature}: must be at least 0")
        if not 0 <= self.top_k <= NUCLEUS:
            raise ValueError(f"top_k = {self.top_k}: must be 0 to {NUCLEUS}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}: must be above 0 and at most 1")
        if self.repetition_penalty < 1:
            raise ValueError(f"repetition_penalty = {self.repetition_penalty}: must be at least 1")


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


def adjust(log_p: jax.Array, history: jax.Array, known: jax.Array, how: Sampling) -> jax.Array:
    """Scores to draw from, [B, V]: penalties, then top-k and top-p, −inf for what is left out."""
    rows = jnp.arange(log_p.shape[0], dtype=jnp.int32)[:, None]
    if not how.unknown:
        log_p = log_p.at[:, UNKNOWN].set(-jnp.inf)
    if how.repetition_penalty > 1:
        age = jnp.arange(history.shape[1], 0, -1, dtype=jnp.int32)
        words = jnp.where(age[None, :] <= known[:, None], history, log_p.shape[1])
        seen = jnp.zeros(log_p.shape, bool).at[rows, words].set(True, mode="drop")
        log_p = jnp.where(seen, log_p * jnp.float32(how.repetition_penalty), log_p)
    if how.temperature not in (0.0, 1.0):
        log_p = log_p / jnp.float32(how.temperature)
    if how.top_k == 0 and how.top_p == 1.0:
        return log_p
    size = min(how.top_k or NUCLEUS, log_p.shape[1])
    # Behind the barrier top_k stays one pass and doesn't become a sort.
    best, words = jax.lax.optimization_barrier(jax.lax.top_k(log_p, size))
    whole = best if how.top_k else log_p
    share = jnp.exp(best - jax.nn.logsumexp(whole, axis=1, keepdims=True))
    # A word is in if the likelier ones sum to less than top_p: the first always is.
    kept = jnp.cumsum(share, axis=1) - share < jnp.float32(how.top_p)
    scores = jnp.where(kept, best, -jnp.inf)
    return jnp.full_like(log_p, -jnp.inf).at[rows, words].set(scores)


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
    """The likeliest continuations that a beam finds, best first: (log p, token ids).

    A continuation ends at the end of the document, which isn't in its ids.

    Raises:
      ValueError: if beams or tokens is not positive.
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
