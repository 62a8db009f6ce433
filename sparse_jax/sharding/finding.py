"""Which rows of a dealt layer a batch should see, and its best rows, inside `jax.shard_map`.

An active set is drawn by all shards alike, from the labels of all and one key: the set of one
machine. Each then keeps what lies on it. Searches are made by each shard over its own rows, and
their results merged.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers import active
from sparse_jax.ops import mixing
from sparse_jax.ops.topk import best
from sparse_jax.retrieval import index, quantized, topk
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.retrieval.tables import Candidates
from sparse_jax.retrieval.topk import TopK
from sparse_jax.sharding.exchange import rank_within
from sparse_jax.sharding.placing import AXIS, Dealing
from sparse_jax.sharding.reducing import gather, swap


class ShardSet(NamedTuple):
    """An active set, and what of it lies here; `active_set` makes it."""

    chosen: active.ActiveSet  # of all shards, the same on each
    slots: jax.Array  # int32 [C]; rows of this shard, −1 = none
    places: jax.Array  # int32 [C]; of those among chosen.ids, −1 = none
    positions: jax.Array  # int32 [P]; of each label entry among slots, −1 = elsewhere, or padding
    label_counts: jax.Array  # int32 [S·B]; label entries of each example that are in the set
    overflow: jax.Array  # int32 []; active rows of all shards that found no place


def active_set(
    key: jax.Array,
    labels: jax.Array,
    label_rows: jax.Array,
    dealing: Dealing,
    *,
    size: int,
    capacity: int,
    num_examples: int,
    candidates: Candidates | None = None,
) -> ShardSet:
    """The set that `layers.active.shared_set` draws on one machine, dealt to the shards.

    Args:
      key: PRNG key of the uniform fill, the same on all shards.
      labels: int32 [P], label entries of all shards; −1 is padding.
      label_rows: int32 [P], the example of each.
      dealing: of the layer's rows.
      size: A, of the whole set.
      capacity: C, of it that one shard may hold. Labels come first: what finds no place is, as long
        as it can be, of the fill.
      num_examples: S·B, of all shards.
      candidates: of all shards' examples, as `candidates` here finds them.

    Returns:
      `ShardSet`.

    Raises:
      ValueError: if a size is below 1.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def draw(key, labels):
      ...     return active_set(
      ...         key, labels, jnp.zeros(2, jnp.int32), Dealing(9, 1), size=4, capacity=4,
      ...         num_examples=1)
      >>> run = on_shards(draw, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> found = run(jax.random.key(0), jnp.asarray([3, 8], jnp.int32))
      >>> found.slots[:2].tolist(), found.positions.tolist(), found.label_counts.tolist()
      ([3, 8], [0, 1], [2])
    """
    if capacity < 1:
        raise ValueError(f"capacity = {capacity}: must be at least 1")
    ids, counts = (None, None) if candidates is None else (candidates.ids, candidates.counts)
    chosen = active.shared_set(key, labels, ids, counts, size=size, num_rows=dealing.num_rows)
    owners, slots = dealing.place(chosen.ids)
    rank = rank_within(owners, dealing.shards)
    kept = (owners >= 0) & (rank < capacity)
    mine = kept & (owners == jax.lax.axis_index(AXIS))
    at = jnp.where(mine, rank, capacity)
    empty = jnp.full(capacity, -1, jnp.int32)
    placed = jnp.arange(size, dtype=jnp.int32)

    def at_label(values: jax.Array) -> jax.Array:
        where = jnp.where(chosen.positions < 0, size, chosen.positions)
        return values.at[where].get(mode="fill", fill_value=-1)

    in_set = at_label(jnp.where(kept, jnp.int32(1), jnp.int32(-1))) > 0
    label_counts = jnp.zeros(num_examples, jnp.int32)
    return ShardSet(
        chosen=chosen,
        slots=empty.at[at].set(slots, mode="drop"),
        places=empty.at[at].set(placed, mode="drop"),
        positions=at_label(jnp.where(mine, rank, -1)),
        label_counts=label_counts.at[label_rows].add(in_set.astype(jnp.int32), mode="drop"),
        overflow=jnp.sum((owners >= 0) & ~kept, dtype=jnp.int32),
    )


def candidates(
    tables: LshIndex, queries: jax.Array, dealing: Dealing, *, config: IndexConfig
) -> Candidates:
    """The rows that share most buckets with each query of all shards.

    With one key for the indexes of all shards, and the transform "none", a row's collisions are
    those that one index over all rows would count, less what its fuller buckets would have dropped.
    Other transforms are fitted to this shard's rows, so that counts differ slightly in meaning.

    Args:
      tables: of `retrieval.index.init` over this shard's rows, with the key of all.
      queries: float32 [B, d], of this shard.
      dealing: of the rows.
      config: as the index was made with.

    Returns:
      `Candidates` with ids [S·B, max_candidates], the same on all shards.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> config = IndexConfig(num_tables=8, num_bits=3, transform="none", max_candidates=2)
      >>> def find(key, rows):
      ...     tables = index.init(key, rows, config=config)
      ...     return candidates(tables, rows[7:8], Dealing(100, 1), config=config)
      >>> run = on_shards(find, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> found = run(jax.random.key(1), jax.random.normal(jax.random.key(0), (100, 16)))
      >>> int(found.ids[0, 0]), int(found.counts[0, 0])
      (7, 8)
    """
    found = index.candidates(tables, gather(queries), config=config)
    ids = dealing.ids_of(jax.lax.axis_index(AXIS), found.ids)
    ids = jnp.where(found.ids < 0, -1, ids)
    count = jnp.where(ids < 0, 0, found.counts)
    ids, count = (_beside(jax.lax.all_gather(x, AXIS)) for x in (ids, count))
    ties = mixing.priority(jnp.uint32(0), jnp.uint32(0), ids)
    order, _, ids = jax.lax.sort((-count, ties, ids), num_keys=2)
    most = config.max_candidates
    distinct = jax.lax.all_gather(found.distinct, AXIS).sum(axis=0, dtype=jnp.int32)
    return Candidates(ids[:, :most], -order[:, :most], distinct)


def _beside(parts: jax.Array) -> jax.Array:
    """[S, B, m] as [B, S·m]."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1)


def top_rows(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, dealing: Dealing, *, k: int
) -> TopK:
    """The k rows of all shards with the largest w·x + b: what `retrieval.topk.rows` gives of all.

    Args:
      queries: float32 [B, d], of this shard.
      weights: float32 or bfloat16 [N / S, d], rows that lie here.
      bias: float32 [N / S].
      dealing: of the rows.
      k: at least 1.

    Returns:
      `TopK` with ids [B, k] of this shard's queries, by ids of the whole table. Of equal scores at
      the end of a shard's best k, hash dealing may keep another one than one machine would.

    Raises:
      ValueError: if shapes don't fit together, or k is below 1.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> find = lambda x, w, b: top_rows(x, w, b, Dealing(3, 1), k=2)
      >>> run = on_shards(find, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> run(jnp.ones((1, 2)), jnp.eye(3, 2), jnp.zeros(3)).ids.tolist()
      [[0, 1]]
    """
    bias = without_padding(bias, dealing)
    return _merge(topk.rows(gather(queries), weights, bias, k=k), dealing, k)


def without_padding(bias: jax.Array, dealing: Dealing) -> jax.Array:
    """The bias of this shard's rows, −∞ where no row of the table lies: that is never found.

    Args:
      bias: float32 [N / S].
      dealing: of the rows.

    Returns:
      float32 [N / S].

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> run = on_shards(
      ...     lambda b: without_padding(b, Dealing(2, 1)), mesh(1), in_specs=jax.P(),
      ...     out_specs=jax.P())
      >>> run(jnp.zeros(2)).tolist()
      [0.0, 0.0]
    """
    slots = jnp.arange(dealing.per_shard, dtype=jnp.int32)
    real = dealing.ids_of(jax.lax.axis_index(AXIS), slots) >= 0
    return jnp.where(real, bias, -jnp.inf)


def search_quantized(
    codes: quantized.QuantizedIndex,
    queries: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    dealing: Dealing,
    *,
    k: int,
    rescored: int = 256,
) -> TopK:
    """As `retrieval.quantized.search`, with an index of its own on each shard.

    Args:
      codes: of `retrieval.quantized.fit` over this shard's rows, with `without_padding(bias)`.
      queries: float32 [B, d], of this shard.
      weights: float32 or bfloat16 [N / S, d].
      bias: float32 [N / S].
      dealing: of the rows.
      k: at least 1.
      rescored: rows of each shard that get an exact score; at least k.

    Returns:
      `TopK` with ids [B, k] of this shard's queries.

    Raises:
      ValueError: if shapes don't fit together, or a size is out of range.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def find(rows):
      ...     codes = quantized.fit(jax.random.key(1), rows, jnp.zeros(100), rows)
      ...     return search_quantized(
      ...         codes, rows[:2], rows, jnp.zeros(100), Dealing(100, 1), k=1, rescored=100)
      >>> run = on_shards(find, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> rows = jax.random.normal(jax.random.key(0), (100, 8))
      >>> rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
      >>> run(rows).ids.tolist()
      [[0], [1]]
    """
    bias = without_padding(bias, dealing)
    everyone = gather(queries)
    found = quantized.search(codes, everyone, weights, bias, k=k, rescored=rescored)
    return _merge(found, dealing, k)


def _merge(found: TopK, dealing: Dealing, k: int) -> TopK:
    """Each shard's best k for the queries of all, to the best k for its own."""
    ids = dealing.ids_of(jax.lax.axis_index(AXIS), found.ids)
    shape = (dealing.shards, found.ids.shape[0] // dealing.shards, k)
    scores, ids = (_beside(swap(x.reshape(shape))) for x in (found.scores, ids))
    return TopK(*best(scores, ids, k))
