"""What a table was before training: copies of the rows that changed, and of no others.

A reference model costs 4 bytes a row of the table, and a row of its own for each row that training
touched. All other rows are read from the table itself.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.rows import set_rows, take_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """The rows of a table [N, d] as they were before they were first changed."""

    place: jax.Array  # int32 [N], where the old row is kept; -1 = never changed
    ids: jax.Array  # int32 [M], whose row each kept one is; -1 = free
    rows: jax.Array  # float32 [M, d]
    count: jax.Array  # int32 [], kept so far


def init(table: jax.Array, room: int) -> Kept:
    """Nothing kept yet; room for M rows.

    Example:
      >>> table = jnp.zeros((9, 2))
      >>> ids = jnp.array([4, -1], jnp.int32)
      >>> kept, _ = keep(init(table, 3), ids, take_rows(table, ids))
      >>> changed = set_rows(table, ids, jnp.ones((2, 2)))
      >>> kept, first = keep(kept, ids, take_rows(changed, ids))
      >>> first[0].tolist(), int(kept.count)
      ([0.0, 0.0], 1)
    """
    size = min(room, table.shape[0])
    return Kept(
        place=jnp.full(table.shape[0], -1, jnp.int32), ids=jnp.full(size, -1, jnp.int32),
        rows=jnp.zeros((size, *table.shape[1:]), table.dtype), count=jnp.zeros((), jnp.int32),
    )  # fmt: skip


def make_room(kept: Kept, most: int) -> Kept:
    """Doubles the room until `most` more rows fit; on the host, between steps."""
    size, needed = kept.ids.size, min(int(kept.count) + most, kept.place.size)
    if needed <= size:
        return kept
    while size < needed:
        size = min(2 * size, kept.place.size)
    more = size - kept.ids.size
    return dataclasses.replace(
        kept, ids=jnp.pad(kept.ids, (0, more), constant_values=-1),
        rows=jnp.pad(kept.rows, ((0, more), *[(0, 0)] * (kept.rows.ndim - 1))),
    )  # fmt: skip


def keep(kept: Kept, ids: jax.Array, rows: jax.Array) -> tuple[Kept, jax.Array]:
    """Copies the rows about to be changed that weren't changed before.

    Neither reads nor writes the table itself, so a step that donates it updates it in place.

    Args:
      kept: with room for them (`make_room`).
      ids: int32 [n], distinct, -1 = padding.
      rows: float32 [n, d], those rows of the table as they are now.

    Returns:
      (kept, the rows as they first were [n, d]; padding gives zeros).
    """
    place = take_rows(kept.place, ids)
    new = (ids >= 0) & (place < 0)
    upto = jax.lax.associative_scan(jnp.add, new.astype(jnp.int32))
    at = jnp.where(new, kept.count + upto - 1, -1)
    made = Kept(
        place=set_rows(kept.place, jnp.where(new, ids, -1), at),
        ids=set_rows(kept.ids, at, ids), rows=set_rows(kept.rows, at, rows),
        count=kept.count + upto[-1],
    )  # fmt: skip
    place = jnp.where(ids < 0, -1, jnp.where(new, at, place))
    return made, take_rows(made.rows, place)


def swap(kept: Kept, table: jax.Array) -> tuple[Kept, jax.Array]:
    """Puts the old rows into the table and keeps the new ones; twice changes nothing.

    Jit it with both donated: the table becomes the reference in place.
    """
    now = jax.lax.optimization_barrier(take_rows(table, kept.ids))
    return dataclasses.replace(kept, rows=now), set_rows(table, kept.ids, kept.rows)
