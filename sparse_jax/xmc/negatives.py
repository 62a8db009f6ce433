"""Where the negatives of an active set come from, and how a sampled loss is corrected for it.

A batch's own labels are always in; what joins them is the strategy's choice, and a uniform sample
fills the rest. docs/negatives.md has what each brings. A new strategy is one entry of `STRATEGIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers import active, sparse_dense
from sparse_jax.ops.active_sets import CANDIDATE
from sparse_jax.retrieval import index
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.xmc.network import Params


class Candidates(NamedTuple):
    """Rows that should join a batch's labels, for each example, best first."""

    ids: jax.Array  # int32 [B, M], -1 for none
    counts: jax.Array  # int32 [B, M], the larger the sooner in


Find = Callable[[LshIndex | None, Params, jax.Array, IndexConfig], Candidates]


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to choose negatives."""

    about: str  # for --help
    find: Find | None = None  # candidates of hidden vectors [B, d]; None takes a uniform sample
    uses_index: bool = False  # hash tables over the output layer
    whole_layer: bool = False  # no active set: all outputs of every example


def _from_tables(
    tables: LshIndex | None, params: Params, hidden: jax.Array, config: IndexConfig
) -> Candidates:
    assert tables is not None
    ranked = index.candidates(tables, hidden, config=config)
    return Candidates(ranked.ids, ranked.counts)


def _exact(
    tables: LshIndex | None, params: Params, hidden: jax.Array, config: IndexConfig
) -> Candidates:
    weights = params["output"].astype(hidden.dtype)
    logits = sparse_dense(weights, params["output_bias"], hidden)
    most = min(config.max_candidates, weights.shape[0])
    # Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all.
    ids = jax.lax.optimization_barrier(jax.lax.top_k(logits, most))[1].astype(jnp.int32)
    places = jnp.arange(most, dtype=jnp.int32)[None, :]
    return Candidates(ids, jnp.broadcast_to(most - places, ids.shape))


STRATEGIES: dict[str, Strategy] = {
    "lsh": Strategy("those that hash tables find for each example", _from_tables, uses_index=True),
    "uniform": Strategy("a uniform sample; the strongest at equal time for most data"),
    "oracle": Strategy("the exactly best-scoring labels: a bound, it costs O(N·d)", _exact),
    "dense": Strategy("no sample: all labels, every row updated", whole_layer=True),
}


def choose(
    key: jax.Array,
    params: Params,
    tables: LshIndex | None,
    batch: Any,
    hidden: jax.Array,
    *,
    config: Any,
) -> active.ActiveSet:
    """The active set of a batch, shared or one for each example.

    Args:
      key: PRNG key of the uniform fill.
      params: of the network.
      tables: over its output layer, where the strategy uses them.
      batch: B points.
      hidden: float32 [B, d].
      config: a `step.Config`.
    """
    num_rows = params["output"].shape[0]
    find = STRATEGIES[config.strategy].find
    ids: jax.Array | None = None
    counts: jax.Array | None = None
    if find is not None:
        ids, counts = find(tables, params, jax.lax.stop_gradient(hidden), config.index)
        ids = jnp.where(batch.row_mask[:, None], ids, -1)
    size = min(config.active, num_rows)
    if config.mode == "shared":
        return active.shared_set(key, batch.label_ids, ids, counts, size=size, num_rows=num_rows)
    return active.per_example_sets(
        key,
        batch.label_ids,
        batch.label_rows,
        ids,
        counts,
        batch_size=batch.row_mask.shape[0],
        max_labels=config.max_labels,
        size=size,
        num_rows=num_rows,
    )


def log_inclusion(
    params: Params,
    tables: LshIndex | None,
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    chosen: active.ActiveSet,
    *,
    config: Any,
) -> jax.Array | None:
    """The correction, a constant to the gradient: [A] or [B, A], or None.

    Under "lsh" a candidate is in with the probability that the tables find its row for the example
    at hand; in a shared set other examples may have found it too, which this leaves out.
    """
    if config.correction == "none":
        return None
    logs = active.log_inclusion(chosen, num_rows=params["output"].shape[0])
    if config.correction == "logq" or tables is None:
        return logs
    keys = _unit(transforms.keys(tables.transform, weights, bias))
    centred = hidden - tables.centre[None, :]  # as `index.candidates` hashes them
    queries = _unit(transforms.queries(tables.transform, centred))
    found = active.lsh_log_inclusion(
        queries @ keys.T, num_bits=config.index.num_bits, num_tables=config.index.num_tables
    )
    is_candidate = jnp.broadcast_to(chosen.sources == CANDIDATE, found.shape)
    return jnp.where(is_candidate, found, jnp.broadcast_to(logs, found.shape))


def _unit(x: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(norms, jnp.float32(1e-12))
