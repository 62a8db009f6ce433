"""From a batch's positions to the model's query and mixture: look up, gather, run the trunk."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax import layers
from sparse_jax.lm import attention, keyvalue, model
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import Positions
from sparse_jax.lm.text import DOCUMENT
from sparse_jax.retrieval import index
from sparse_jax.rows import take_rows, unique_ids


class BatchRows(NamedTuple):
    """What a batch reads, gathered once: the loss is differentiated with respect to this."""

    embed: jax.Array  # float32 [U, e], of the distinct words of the batch
    copyable: jax.Array  # float32 [U]
    memory: jax.Array | None  # float32 [B·O, d], distinct rows
    trunk: model.Params
    pairs: tuple[jax.Array, jax.Array] | None = None  # keys and values, float32 [U, hidden] each


class Inputs(NamedTuple):
    """Where what was read goes."""

    at: Positions
    words: jax.Array  # int32 [U], distinct words and DOCUMENT, -1 = padding
    places: jax.Array  # int32 [S * W + 1] into words: those of the window, and DOCUMENT's
    contexts: mem.ContextRows | None
    evidence: model.Evidence | None
    pairs: keyvalue.SlotRows | None = None


def find_inputs(
    memory: mem.Memory | None,
    at: Positions,
    *,
    claim: bool,
    counted: bool = False,
    config: model.Config,
) -> tuple[mem.Memory | None, Inputs]:
    """Looks up what a batch needs; the words and rows themselves are gathered by `read`.

    Args:
      memory: of the model, or None.
      at: the batch's positions.
      claim: whether new contexts may claim rows; static.
      counted: whether the memory has counted these very tokens; static.
      config: the model's; static.

    Returns:
      (the memory with its tags updated, `Inputs`).
    """
    window = jnp.append(at.window.reshape(-1), jnp.int32(DOCUMENT))
    words, places, _ = unique_ids(
        window, num_rows=config.vocabulary, size=min(window.size, config.vocabulary)
    )
    contexts = evidence = None
    if memory is not None:
        # known + 1: the end of the document before marks the start, and is context too.
        hashes, tags = mem.hash_contexts(at.history, at.known + 1, config.orders)
        tags = jnp.where((at.targets >= 0)[:, None] | (not claim), tags, jnp.uint32(0))
        memory, contexts = mem.find(memory, hashes, tags, claim=claim)
        evidence = model.gather_evidence(contexts, at.targets if counted else None)
    return memory, Inputs(at, words, places, contexts, evidence)


def read(params: model.Params, memory: mem.Memory | None, inputs: Inputs) -> BatchRows:
    """Gathers the rows of a batch; those of the key-value memory are `read_pairs`'s."""
    return BatchRows(
        embed=take_rows(params["embed"], inputs.words),
        copyable=take_rows(params["copyable"], inputs.words),
        memory=None if memory is None else take_rows(memory.rows, inputs.contexts.ids),  # type: ignore[union-attr]
        trunk=params["trunk"],
    )


def read_pairs(
    params: model.Params,
    lsh: index.LshIndex | None,
    rows: BatchRows,
    inputs: Inputs,
    *,
    config: model.Config,
) -> tuple[BatchRows, Inputs, jax.Array | None]:
    """Looks up and gathers what a batch reads of the key-value memory, if there is one.

    Args:
      params: of the model.
      lsh: of its keys.
      rows: of `read`; with `inputs` it gives the queries.
      inputs: of `find_inputs`.
      config: the model's.

    Returns:
      (rows, inputs) completed, and the queries, float32 [B, hidden].

    Raises:
      ValueError: if there is a key-value memory and no index of it.
    """
    if not config.pairs:
        return rows, inputs, None
    if lsh is None:
        raise ValueError(f"lsh is None with pairs = {config.pairs}: give the state's lsh")
    # `forward` does this again under the gradient: the queries must be known before it.
    queries = layers.normalize(_hidden(rows, inputs, config=config)[0])
    slots = keyvalue.look_up(lsh, queries, candidates=config.pair_candidates)
    pairs = take_rows(params["keys"], slots.ids), take_rows(params["values"], slots.ids)
    return rows._replace(pairs=pairs), inputs._replace(pairs=slots), queries


class Forward(NamedTuple):
    """The model's output but for the softmax."""

    query: jax.Array  # float32 [B, out]
    log_mix: jax.Array  # float32 [B, parts]
    recent: jax.Array  # float32 [B, recent], weights of the recent words


def infer(
    params: model.Params,
    memory: mem.Memory | None,
    inputs: Inputs,
    lsh: index.LshIndex | None,
    *,
    config: model.Config,
) -> Forward:
    """From what `find_inputs` found to the query and the mixture."""
    rows, inputs, _ = read_pairs(params, lsh, read(params, memory, inputs), inputs, config=config)
    return forward(rows, inputs, config=config)


def _hidden(
    rows: BatchRows, inputs: Inputs, *, config: model.Config
) -> tuple[jax.Array, attention.Context]:
    """The trunk's hidden vectors [B, hidden], and what attention looks at."""
    at = inputs.at
    runs, places = at.window.shape
    known = at.known.reshape(runs, -1)
    gathered = take_rows(rows.embed, inputs.places)
    words, start = gathered[:-1].reshape(runs, places, -1), gathered[-1]
    near = attention.latest(words, start, known, config.window).reshape(at.known.size, -1)
    context = None
    if rows.memory is not None and inputs.contexts is not None and inputs.evidence is not None:
        vectors = take_rows(rows.memory, inputs.contexts.inverse.reshape(-1))
        vectors = vectors.reshape(at.known.size, len(config.orders), config.width)
        # A context whose only occurrence is this one counts as new: the trunk reads zeros, and the
        # gradient still reaches the row.
        hidden = ~inputs.evidence.known[..., None]
        vectors = jnp.where(hidden, vectors - jax.lax.stop_gradient(vectors), vectors)
        context = vectors.reshape(at.known.size, -1)
    back = attention.look_back(rows.trunk["attention"], words, start, known)
    return model.trunk(rows.trunk, near, context, inputs.evidence, back), back


def forward(rows: BatchRows, inputs: Inputs, *, config: model.Config) -> Forward:
    """From gathered rows to the query and the mixture."""
    h, back = _hidden(rows, inputs, config=config)
    if rows.pairs is not None and inputs.pairs is not None:
        h = h + keyvalue.attend(*rows.pairs, layers.normalize(h), inputs.pairs.inverse)
    h = layers.normalize(h)
    query, log_mix = model.head(
        rows.trunk, h, inputs.evidence, jnp.any(back.visible, 2).reshape(-1), config=config
    )
    if not config.evidence:
        return Forward(query, log_mix, jnp.zeros((h.shape[0], config.recent), jnp.float32))
    copyable = take_rows(rows.copyable, inputs.places)[:-1].reshape(inputs.at.window.shape)
    return Forward(query, log_mix, model.recent_weights(rows.trunk, back, h, copyable))
