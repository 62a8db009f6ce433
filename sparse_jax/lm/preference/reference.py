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
class RowBackup:
    """The rows of a table [N, d] as they were before they were first changed."""

    place: jax.Array  # int32 [N], place of its old row in `rows`; -1 = never changed
    ids: jax.Array  # int32 [M], the row of the table that each is; -1 = free
    rows: jax.Array  # float32 [M, d], the old rows
    count: jax.Array  # int32 [], rows in the backup


def init(table: jax.Array, room: int) -> RowBackup:
    """An empty backup with room for M rows.

    Example:
      >>> table = jnp.zeros((9, 2))
      >>> ids = jnp.array([4, -1], jnp.int32)
      >>> backup, _ = keep(init(table, 3), ids, take_rows(table, ids))
      >>> changed = set_rows(table, ids, jnp.ones((2, 2)))
      >>> backup, first = keep(backup, ids, take_rows(changed, ids))
      >>> first[0].tolist(), int(backup.count)
      ([0.0, 0.0], 1)
    """
    size = min(room, table.shape[0])
    return RowBackup(
        place=jnp.full(table.shape[0], -1, jnp.int32),
        ids=jnp.full(size, -1, jnp.int32),
        rows=jnp.zeros((size, *table.shape[1:]), table.dtype),
        count=jnp.zeros((), jnp.int32),
    )


def make_room(backup: RowBackup, max_rows: int) -> RowBackup:
    """Doubles the room until `max_rows` more rows fit; on the host, between steps."""
    size, needed = backup.ids.size, min(int(backup.count) + max_rows, backup.place.size)
    if needed <= size:
        return backup
    while size < needed:
        size = min(2 * size, backup.place.size)
    more = size - backup.ids.size
    return dataclasses.replace(
        backup,
        ids=jnp.pad(backup.ids, (0, more), constant_values=-1),
        rows=jnp.pad(backup.rows, ((0, more), *[(0, 0)] * (backup.rows.ndim - 1))),
    )


def keep(backup: RowBackup, ids: jax.Array, rows: jax.Array) -> tuple[RowBackup, jax.Array]:
    """Copies the rows about to be changed that weren't changed before.

    Neither reads nor writes the table itself, so a step that donates it updates it in place.

    Args:
      backup: with room for them (`make_room`).
      ids: int32 [n], distinct, -1 = padding.
      rows: float32 [n, d], those rows of the table as they are now.

    Returns:
      (backup, the rows as they first were [n, d]; padding gives zeros).
    """
    place = take_rows(backup.place, ids)
    new = (ids >= 0) & (place < 0)
    upto = jax.lax.associative_scan(jnp.add, new.astype(jnp.int32))
    at = jnp.where(new, backup.count + upto - 1, -1)
    new_backup = RowBackup(
        place=set_rows(backup.place, jnp.where(new, ids, -1), at),
        ids=set_rows(backup.ids, at, ids),
        rows=set_rows(backup.rows, at, rows),
        count=backup.count + upto[-1],
    )
    place = jnp.where(ids < 0, -1, jnp.where(new, at, place))
    return new_backup, take_rows(new_backup.rows, place)


def swap(backup: RowBackup, table: jax.Array) -> tuple[RowBackup, jax.Array]:
    """Puts the old rows into the table and keeps the new ones; twice changes nothing.

    Jit it with both donated: the table becomes the reference in place.
    """
    now = jax.lax.optimization_barrier(take_rows(table, backup.ids))
    return dataclasses.replace(backup, rows=now), set_rows(table, backup.ids, backup.rows)
