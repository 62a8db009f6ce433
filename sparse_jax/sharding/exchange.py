"""Rows of a dealt table by their ids, inside `jax.shard_map`: ids go to owners, rows come back.

Each shard asks each other one for at most `capacity` rows, so that shapes are static. What finds no
place is counted in `overflow`, the same number on all shards: look at it, and raise the capacity.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax import rows as local
from sparse_jax.rows import RowSparse, check_ids
from sparse_jax.sharding.placing import Dealing
from sparse_jax.sharding.reducing import swap, total


class Route(NamedTuple):
    """Which rows go where; `route` makes it."""

    wanted: jax.Array  # int32 [S, capacity]; rows of this shard that shard s asks for, −1 = none
    places: jax.Array  # int32 [n]; of each id among the S·capacity answers, −1 = none
    overflow: jax.Array  # int32 []; ids that found no place, over all shards


class Distinct(NamedTuple):
    """Distinct rows of all shards; `unique_ids` makes it."""

    slots: jax.Array  # int32 [size]; rows of this shard that some shard asks for, ascending, −1
    found: jax.Array  # int32 []; how many those are
    inverse: jax.Array  # int32 [n]; of each id its owner · size + place among slots, −1 = none
    overflow: jax.Array  # int32 []; ids that found no place, over all shards


def route(ids: jax.Array, dealing: Dealing, *, capacity: int) -> Route:
    """Sends ids to the shards that hold their rows.

    Args:
      ids: int32 [n] of this shard's; −1 is padding. Repeats are sent as often as they come: make
        them distinct first by `rows.unique_ids`.
      dealing: of the table.
      capacity: ids that one shard may ask of another.

    Returns:
      `Route`.

    Raises:
      TypeError: if ids are not int32.
      ValueError: if ids are not [n], or capacity is below 1.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> ask = lambda ids: route(ids, Dealing(9, 1), capacity=2)
      >>> run = on_shards(ask, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> found = run(jnp.asarray([7, -1, 2, 3], jnp.int32))
      >>> found.places.tolist(), found.wanted.tolist(), int(found.overflow)
      ([0, -1, 1, -1], [[7, 2]], 1)
    """
    check_ids("ids", ids)
    if capacity < 1:
        raise ValueError(f"capacity = {capacity}: must be at least 1")
    owners, slots = dealing.place(ids)
    rank = rank_within(owners, dealing.shards)
    kept = (owners >= 0) & (rank < capacity)
    places = jnp.where(kept, owners * jnp.int32(capacity) + rank, -1)
    size = dealing.shards * capacity
    asked = jnp.full(size, -1, jnp.int32)
    asked = asked.at[jnp.where(kept, places, size)].set(slots, mode="drop")
    overflow = jnp.sum((owners >= 0) & ~kept, dtype=jnp.int32)
    return Route(swap(asked.reshape(dealing.shards, capacity)), places, total(overflow))


def rank_within(owners: jax.Array, shards: int) -> jax.Array:
    """How many entries before each one have the same owner, int32 [n]; of −1 as well."""
    mine = owners[:, None] == jnp.arange(shards, dtype=jnp.int32)[None, :]
    before = jnp.cumsum(mine.astype(jnp.int32), axis=0) - 1
    at = jnp.maximum(owners, 0)[:, None]
    return jnp.take_along_axis(before, at, axis=1)[:, 0]


def take_rows(table: jax.Array, way: Route) -> jax.Array:
    """Rows of all shards: what `rows.take_rows` gives of the whole table.

    Args:
      table: array [N / S, ...], this shard's.
      way: of `route`.

    Returns:
      [n, ...], a row for each id; zeros for −1 and for ids that found no place.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def ask(table, ids):
      ...     return take_rows(table, route(ids, Dealing(3, 1), capacity=2))
      >>> run = on_shards(ask, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> run(jnp.eye(3), jnp.asarray([2, -1], jnp.int32)).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    found = local.take_rows(table, way.wanted.reshape(-1))
    answers = swap(found.reshape(*way.wanted.shape, *found.shape[1:]))
    return local.take_rows(answers.reshape(found.shape), way.places)


def give_rows(rows: jax.Array, way: Route, *, per_shard: int) -> RowSparse:
    """The way back: gradients of the rows that `take_rows` gave, to their owners.

    Args:
      rows: array [n, ...], one for each id of the route.
      way: of `route`.
      per_shard: rows of the table that a shard holds.

    Returns:
      A `RowSparse` of this shard's table, for a `rowwise` optimizer on this shard's slots; rows of
      one id are summed in the order of the shards that gave them.

    Raises:
      ValueError: if rows are not as many as ids.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def give(ids, rows):
      ...     way = route(ids, Dealing(3, 1), capacity=2)
      ...     return give_rows(rows, way, per_shard=3).to_dense()
      >>> run = on_shards(give, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> run(jnp.asarray([2, 2], jnp.int32), jnp.ones((2, 1))).tolist()
      [[0.0], [0.0], [2.0]]
    """
    if rows.shape[0] != way.places.shape[0]:
        raise ValueError(f"rows has shape {rows.shape}: must be [{way.places.shape[0]}, ...]")
    size = way.wanted.size
    sent = jnp.zeros((size, *rows.shape[1:]), rows.dtype)
    sent = sent.at[jnp.where(way.places < 0, size, way.places)].set(rows, mode="drop")
    got = swap(sent.reshape(*way.wanted.shape, *rows.shape[1:]))
    ids = way.wanted.reshape(-1)
    return RowSparse(ids, got.reshape(size, *rows.shape[1:]), num_rows=per_shard).merged()


def add_rows(table: jax.Array, way: Route, rows: jax.Array) -> jax.Array:
    """Adds rows of all shards into the table, those of one id summed: `rows.add_rows` of the whole.

    Args:
      table: array [N / S, ...], this shard's.
      way: of `route`.
      rows: array [n, ...], one for each id of the route.

    Returns:
      [N / S, ...].

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> def add(table, ids, rows):
      ...     return add_rows(table, route(ids, Dealing(2, 1), capacity=2), rows)
      >>> run = on_shards(add, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> run(jnp.zeros((2, 1)), jnp.asarray([1, -1], jnp.int32), jnp.ones((2, 1))).tolist()
      [[0.0], [1.0]]
    """
    got = give_rows(rows, way, per_shard=table.shape[0])
    return local.add_rows(table, got.ids, got.rows)


def unique_ids(ids: jax.Array, dealing: Dealing, *, size: int, capacity: int) -> Distinct:
    """Distinct rows that any shard asks for, each on its owner: to compute something once for each.

    Args:
      ids: int32 [n] of this shard's; −1 is padding.
      dealing: of the table.
      size: distinct rows that one shard may be asked for.
      capacity: ids that one shard may ask of another.

    Returns:
      `Distinct`. An id that found no place, by either limit, has the inverse −1.

    Raises:
      TypeError: if ids are not int32.
      ValueError: if ids are not [n], or a size is below 1.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> find = lambda ids: unique_ids(ids, Dealing(9, 1), size=3, capacity=4)
      >>> run = on_shards(find, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> found = run(jnp.asarray([7, -1, 2, 7], jnp.int32))
      >>> found.slots.tolist(), found.inverse.tolist()
      ([2, 7, -1], [1, -1, 0, 1])
    """
    way = route(ids, dealing, capacity=capacity)
    slots, inverse, found = local.unique_ids(
        way.wanted.reshape(-1), num_rows=dealing.per_shard, size=size
    )
    answers = swap(inverse.reshape(way.wanted.shape)).reshape(-1)
    at = jnp.where(way.places < 0, answers.size, way.places)
    place = answers.at[at].get(mode="fill", fill_value=-1)
    owner = jnp.where(way.places < 0, 0, way.places // jnp.int32(capacity))
    lost = total(jnp.sum((way.places >= 0) & (place < 0), dtype=jnp.int32))
    return Distinct(
        slots=slots,
        found=found,
        inverse=jnp.where(place < 0, -1, owner * jnp.int32(size) + place),
        overflow=way.overflow + lost,
    )
