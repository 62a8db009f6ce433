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
from sparse_jax.ops.mach import Buckets, bucket_rows
from sparse_jax.retrieval import index
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.index import LshIndex
from sparse_jax.rows import unique_ids
from sparse_jax.xmc.network import Params


class Candidates(NamedTuple):
    """Rows that should join a batch's labels, for each example, best first."""

    ids: jax.Array  # int32 [B, M], -1 for none
    counts: jax.Array  # int32 [B, M], the larger the sooner in


# (key, tables, params, hidden [B, d], a `step.Config`) to candidates of the first examples or all.
Find = Callable[[jax.Array, LshIndex | None, Params, jax.Array, Any], Candidates]

RANKING = 16  # examples of a batch that rank a run of labels: their finds serve the whole batch
RUN = 2048  # labels of a run, at most
BEST = 8  # that each of these examples takes of the run


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to choose negatives."""

    about: str  # for --help
    find: Find | None = None  # candidates of hidden vectors [B, d]; None takes a uniform sample
    scored: Callable[[int, int], int] = lambda examples, labels: 0  # logits of choosing, a batch
    uses_index: bool = False  # hash tables over the output layer
    whole_layer: bool = False  # no active set: all outputs of every example


def _from_tables(
    key: jax.Array, tables: LshIndex | None, params: Params, hidden: jax.Array, config: Any
) -> Candidates:
    assert tables is not None
    ranked = index.candidates(tables, hidden, config=config.index)
    return Candidates(ranked.ids, ranked.counts)


def _exact(
    key: jax.Array, tables: LshIndex | None, params: Params, hidden: jax.Array, config: Any
) -> Candidates:
    logits = sparse_dense(params["output"].astype(hidden.dtype), params["output_bias"], hidden)
    return by_place(best_columns(logits, config.index.max_candidates))


def _of_a_run(
    key: jax.Array, tables: LshIndex | None, params: Params, hidden: jax.Array, config: Any
) -> Candidates:
    few = hidden if config.mode == "per_example" else hidden[:RANKING]  # batches are shuffled
    key = jax.random.fold_in(key, 1)
    rows, bias = params["output"], params["output_bias"]
    return by_place(active.best_of_run(key, few, rows, bias, run=RUN, k=BEST))


def best_columns(logits: jax.Array, most: int) -> jax.Array:
    """The columns with the largest logits of each row, int32 [B, at most `most`]."""
    # Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all.
    best = jax.lax.top_k(logits, min(most, logits.shape[1]))
    return jax.lax.optimization_barrier(best)[1].astype(jnp.int32)


def by_place(ids: jax.Array) -> Candidates:
    """Candidates [B, M] that come best first."""
    counts = ids.shape[1] - jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :]
    return Candidates(ids, jnp.broadcast_to(counts, ids.shape))


STRATEGIES: dict[str, Strategy] = {
    "lsh": Strategy("those that hash tables find for each example", _from_tables, uses_index=True),
    "uniform": Strategy("a uniform sample; the strongest at equal time where labels are rare"),
    "ranked": Strategy(
        "the best-scoring of a random run of labels, for a few examples; better where labels have "
        "several points each",
        _of_a_run,
        scored=lambda examples, labels: min(examples, RANKING) * active.run_size(labels, RUN),
    ),
    "oracle": Strategy(
        "the exactly best-scoring labels: a bound, it costs O(N·d)",
        _exact,
        scored=lambda examples, labels: examples * labels,
    ),
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
      key: PRNG key of the uniform fill, and of what else is drawn.
      params: of the network.
      tables: over its output layer, where the strategy uses them.
      batch: B points.
      hidden: float32 [B, d].
      config: a `step.Config`.
    """
    num_rows = params["output"].shape[0]
    if config.buckets is not None:  # labels are drawn, not the rows that they share
        num_rows = config.buckets.num_labels
    find = STRATEGIES[config.strategy].find
    ids: jax.Array | None = None
    counts: jax.Array | None = None
    size = min(config.active, num_rows)
    if find is not None and size < num_rows:
        ids, counts = find(key, tables, params, jax.lax.stop_gradient(hidden), config)
        ids = jnp.where(batch.row_mask[: ids.shape[0], None], ids, -1)
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


def output_rows(
    chosen: active.ActiveSet, num_rows: int, buckets: Buckets | None
) -> tuple[jax.Array, jax.Array | None]:
    """Distinct output rows, and where each place of a set finds its row, or its R rows."""
    ids = chosen.ids if buckets is None else bucket_rows(chosen.ids, buckets)
    if ids.ndim == 1:
        return ids, None
    flat = ids.reshape(-1)
    rows, places, _ = unique_ids(flat, num_rows=num_rows, size=min(flat.size, num_rows))
    return rows, places.reshape(ids.shape)


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
