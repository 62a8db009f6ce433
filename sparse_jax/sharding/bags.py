"""Embedding bags over a dealt table, inside `jax.shard_map`, without moving a row of it.

Each shard sums, for every bag of all shards, the rows that it holds itself; these partial sums, as
wide as one row a bag, are exchanged and added. Ids go one way, bags and their gradient the other:
bytes do not depend on how many rows there are, nor on how many a bag has.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax import rows as local
from sparse_jax.rows import RowSparse, check_ids
from sparse_jax.sharding.placing import AXIS, Dealing
from sparse_jax.sharding.reducing import gather, gather_together, total, total_of_own


class Entries(NamedTuple):
    """Entries of the bags of all shards, as one shard sees them; `gather_entries` makes it."""

    slots: jax.Array  # int32 [S·E]; rows of this shard, −1 = padding or another's
    segments: jax.Array  # int32 [S·E]; bags of all shards, ascending
    weights: jax.Array  # float32 [S·E]
    num_segments: int  # bags of one shard


class RowGradient(NamedTuple):
    """The gradient of this shard's rows, as `bag_gradient` returns it."""

    rows: RowSparse  # of size ids
    overflow: jax.Array  # int32 []; distinct rows of all shards that found no place


def gather_entries(
    ids: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    dealing: Dealing,
    *,
    num_segments: int,
) -> Entries:
    """What all shards have in their bags, and which of it lies here.

    Args:
      ids: int32 [E] of this shard's; −1 is padding. E is the same on all shards.
      segments: int32 [E], the bag of each entry.
      weights: float32 [E].
      dealing: of the table.
      num_segments: bags of this shard, as many as of each other.

    Returns:
      `Entries`.

    Raises:
      TypeError: if ids or segments are not int32.
      ValueError: if they are not [E].

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def see(ids, segments):
      ...     return gather_entries(ids, segments, jnp.ones(2), Dealing(9, 1), num_segments=1).slots
      >>> run = on_shards(see, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> run(jnp.asarray([7, -1], jnp.int32), jnp.zeros(2, jnp.int32)).tolist()
      [7, -1]
    """
    check_ids("ids", ids)
    check_ids("segments", segments)
    me = jax.lax.axis_index(AXIS)
    segments = segments + me * jnp.int32(num_segments)
    rows, segments, weights = gather_together(dealing.row_of(ids), segments, weights)
    return entries_here(rows, segments, weights, dealing, num_segments=num_segments)


def entries_here(
    rows: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    dealing: Dealing,
    *,
    num_segments: int,
) -> Entries:
    """What of all shards' entries lies here, for a caller that has gathered them already.

    Args:
      rows: int32 [S·E] of all shards, by `Dealing.row_of`: each shard asks it of its own entries,
        so that none has to ask it of all.
      segments: int32 [S·E], bags of all shards, ascending.
      weights: float32 [S·E].
      dealing: of the table.
      num_segments: bags of one shard.

    Returns:
      `Entries`.
    """
    slots = rows - jax.lax.axis_index(AXIS) * jnp.int32(dealing.per_shard)
    here = (rows >= 0) & (slots >= 0) & (slots < dealing.per_shard)
    return Entries(jnp.where(here, slots, -1), segments, weights, num_segments)


def embedding_bag(table: jax.Array, entries: Entries) -> jax.Array:
    """Weighted sums of rows: what `rows.embedding_bag` gives of the whole table, for own bags.

    Args:
      table: float [N / S, d], this shard's.
      entries: of `gather_entries`.

    Returns:
      [num_segments, d]; the parts that shards hold of a bag are added in their order.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def bags(table, ids, segments):
      ...     entries = gather_entries(
      ...         ids, segments, jnp.ones(3), Dealing(3, 1), num_segments=2)
      ...     return embedding_bag(table, entries)
      >>> run = on_shards(bags, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> ids, segments = jnp.asarray([0, 2, 2], jnp.int32), jnp.asarray([0, 0, 1], jnp.int32)
      >>> run(jnp.eye(3), ids, segments).tolist()
      [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """
    return total_of_own(partial_bags(table, entries))


def partial_bags(table: jax.Array, entries: Entries) -> jax.Array:
    """What this shard's rows add to the bags of all shards, [S·num_segments, d]."""
    count = jax.lax.axis_size(AXIS) * entries.num_segments
    return local.embedding_bag(
        table, entries.slots, entries.segments, entries.weights, num_segments=count
    )


def bag_gradient(grad: jax.Array, entries: Entries, *, per_shard: int, size: int) -> RowGradient:
    """The gradient of this shard's rows, of the bags of all shards.

    Args:
      grad: float32 [num_segments, d], of this shard's bags.
      entries: of `gather_entries`.
      per_shard: rows that a shard holds.
      size: distinct rows of this shard that all bags together may have.

    Returns:
      `RowGradient`.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def pull(grad, ids, segments):
      ...     entries = gather_entries(
      ...         ids, segments, jnp.ones(3), Dealing(3, 1), num_segments=2)
      ...     return bag_gradient(grad, entries, per_shard=3, size=3).rows.to_dense()
      >>> run = on_shards(pull, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> ids, segments = jnp.asarray([0, 2, 2], jnp.int32), jnp.asarray([0, 0, 1], jnp.int32)
      >>> run(jnp.ones((2, 1)), ids, segments).tolist()
      [[1.0], [0.0], [2.0]]
    """
    distinct = distinct_rows(entries, per_shard=per_shard, size=size)
    rows = gradient_here(gather(grad), entries, distinct, per_shard=per_shard)
    return RowGradient(rows, total(distinct.lost))


class DistinctRows(NamedTuple):
    """Rows of this shard that the bags of all shards have; `distinct_rows` makes it."""

    slots: jax.Array  # int32 [size]; ascending, −1 behind them
    positions: jax.Array  # int32 [S·E]; of each entry among slots, −1 = none
    lost: jax.Array  # int32 []; rows of this shard that found no place


def distinct_rows(entries: Entries, *, per_shard: int, size: int) -> DistinctRows:
    """The distinct rows among entries, at most `size`."""
    slots, positions, found = local.unique_ids(entries.slots, num_rows=per_shard, size=size)
    return DistinctRows(slots, positions, jnp.maximum(found - jnp.int32(size), 0))


def gradient_here(
    grad: jax.Array, entries: Entries, distinct: DistinctRows, *, per_shard: int
) -> RowSparse:
    """The gradient of this shard's rows, of all bags' float32 [S·num_segments, d]."""
    # A bag is linear in its rows: zeros serve as well as the rows themselves.
    zeros = jnp.zeros((distinct.slots.size, grad.shape[1]), grad.dtype)
    _, pull = jax.vjp(
        lambda rows: local.embedding_bag(
            rows,
            distinct.positions,
            entries.segments,
            entries.weights,
            num_segments=grad.shape[0],
        ),
        zeros,
    )
    (rows,) = pull(grad)
    return RowSparse(distinct.slots, rows, num_rows=per_shard, distinct=True)
