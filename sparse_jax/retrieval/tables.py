"""LSH tables: which rows share a bucket with a query, and in how many tables.

A `HashTables` is a pytree of int32 arrays: it passes through `jit`, `scan`, `cond`, donation and
checkpoints as any other state. Its contents are a pure function of the codes, the order of
insertion and a seed, so an `update` equals a rebuild and every thread count gives the same bits.

A bucket keeps `capacity` ids. What it keeps when more belong there is the policy:

- ``"reservoir"``: the members with the smallest seeded priority, which is a uniform sample without
  replacement (bottom-k sampling, Cohen & Kaplan 2007), independent of the order of insertion;
- ``"fifo"``: the newest members; the age of a row is that of its insertion, and re-hashing a row
  (`update`) does not make it younger.

Rows that found no place are counted (`stats`), and a query simply doesn't see them in that table.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.tables import (
    POLICIES,
    HashTables,
    Policy,
    tables_build,
    tables_query,
    tables_write,
)

__all__ = [
    "Candidates",
    "HashTables",
    "TableStats",
    "build",
    "init",
    "insert",
    "memory_bytes",
    "query",
    "remove",
    "stats",
    "update",
    "update_many",
]


class Candidates(NamedTuple):
    """Ranked candidates of a batch of queries, as `query` returns them."""

    ids: jax.Array  # int32 [B, max_candidates]; most collisions first, -1 = none
    counts: jax.Array  # int32 [B, max_candidates]; tables in which the id shares the bucket
    distinct: jax.Array  # int32 [B]; distinct ids in the buckets, the cut-off ones included


class TableStats(NamedTuple):
    """Occupancy, as `stats` returns it."""

    members: jax.Array  # int32 []; (row, table) pairs present
    dropped: jax.Array  # int32 []; those of them that found no place
    largest: jax.Array  # int32 []; members of the fullest bucket
    empty_fraction: jax.Array  # float32 []; buckets with no member
    rejected: jax.Array  # int32 []; writes refused since init or build


def init(
    num_rows: int,
    *,
    num_tables: int,
    num_buckets: int,
    capacity: int = 16,
    policy: Policy = "reservoir",
    seed: int = 0,
) -> HashTables:
    """Empty tables.

    Args:
      num_rows: N; ids are 0 … N − 1.
      num_tables: L.
      num_buckets: buckets of one table; codes are 0 … num_buckets − 1.
      capacity: ids a bucket can hold. Two to four times N / num_buckets drops little.
      policy: what a full bucket keeps, "reservoir" or "fifo".
      seed: of the reservoir and of the order of ties in `query`.

    Returns:
      A `HashTables` in which every row is absent.

    Raises:
      ValueError: if a size is not positive or doesn't fit int32, or the policy is unknown.

    Example:
      >>> init(100, num_tables=4, num_buckets=16).buckets.shape
      (4, 16, 16)
    """
    sizes = {
        "num_rows": num_rows,
        "num_tables": num_tables,
        "num_buckets": num_buckets,
        "capacity": capacity,
    }
    for name, value in sizes.items():
        if not 1 <= value < 2**31:
            raise ValueError(f"{name} = {value}: must be from 1 to 2**31 - 1")
    if policy not in POLICIES:
        raise ValueError(f"policy = {policy!r}: must be one of {sorted(POLICIES)}")
    zero = jnp.zeros((), jnp.int32)
    return HashTables(
        buckets=jnp.full((num_tables, num_buckets, capacity), -1, jnp.int32),
        sizes=jnp.zeros((num_tables, num_buckets), jnp.int32),
        codes=jnp.full((num_tables, num_rows), -1, jnp.int32),
        stamps=jnp.zeros((num_rows,), jnp.int32),
        clock=zero,
        rejected=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(np.uint32(seed % 2**32).astype(np.int32)),
        policy=policy,
    )


def build(tables: HashTables, codes: jax.Array, *, by_table: bool = False) -> HashTables:
    """Fills the tables from the codes of all rows, forgetting what they held.

    The rows count as inserted in the order of their ids. A code outside [0, num_buckets) leaves its
    row out of that table and is counted in `rejected`, −1 excepted: that is how to say "absent".

    Args:
      tables: gives the shape, policy and seed.
      codes: int32 [N, L].
      by_table: codes are [L, N], as the tables hold them, which saves a transpose of them all.

    Returns:
      The filled tables.

    Raises:
      TypeError: if codes is not int32.
      ValueError: if its shape is not [N, L], or [L, N].

    Example:
      >>> tables = init(3, num_tables=2, num_buckets=4)
      >>> tables = build(tables, jnp.array([[0, 1], [0, 2], [3, 1]], jnp.int32))
      >>> query(tables, jnp.array([[0, 1]], jnp.int32), max_candidates=3).ids.shape
      (1, 3)
    """
    if by_table:
        _check_by_table(codes, tables)
    else:
        _check_codes("codes", codes, tables.num_rows, tables)
    out_of_range = (codes < -1) | (codes >= tables.num_buckets)
    stamps = jnp.arange(tables.num_rows, dtype=jnp.int32)
    return dataclasses.replace(
        _fill(tables, codes if by_table else codes.T, stamps),
        clock=jnp.full((), tables.num_rows, jnp.int32),
        rejected=jnp.sum(out_of_range, dtype=jnp.int32),
    )


def insert(tables: HashTables, ids: jax.Array, codes: jax.Array) -> HashTables:
    """Inserts rows; one that is present moves, and counts as new under "fifo".

    Of equal ids in one call the last counts. Where ids or codes are out of range the row is left
    alone and `rejected` grows by one; outside `jit` this raises instead.

    Args:
      tables: donated to keep this in place.
      ids: int32 [n]; −1 is padding.
      codes: int32 [n, L].

    Returns:
      The new tables.

    Raises:
      TypeError: if ids or codes are not int32.
      ValueError: on a wrong shape, or, outside `jit`, on an id or code out of range.

    Example:
      >>> tables = init(10, num_tables=1, num_buckets=4)
      >>> tables = insert(tables, jnp.array([7], jnp.int32), jnp.array([[2]], jnp.int32))
      >>> int(query(tables, jnp.array([[2]], jnp.int32), max_candidates=1).ids[0, 0])
      7
    """
    return _write(tables, ids, codes, restamp=True)


def update(tables: HashTables, ids: jax.Array, codes: jax.Array) -> HashTables:
    """Re-hashes rows: equal, bit for bit, to a rebuild from all rows' present codes.

    As `insert`, but the age of a row stays. A bucket that loses a member while others wait outside
    for a place takes the best of them in, which costs one pass over its table's codes.

    Args:
      tables: donated to keep this in place.
      ids: int32 [n]; −1 is padding.
      codes: int32 [n, L].

    Returns:
      The new tables.

    Raises:
      TypeError: if ids or codes are not int32.
      ValueError: on a wrong shape, or, outside `jit`, on an id or code out of range.

    Example:
      >>> tables = build(init(2, num_tables=1, num_buckets=4), jnp.array([[0], [1]], jnp.int32))
      >>> moved = update(tables, jnp.array([0], jnp.int32), jnp.array([[1]], jnp.int32))
      >>> rebuilt = build(tables, jnp.array([[1], [1]], jnp.int32))
      >>> bool(jnp.array_equal(moved.buckets, rebuilt.buckets))
      True
    """
    return _write(tables, ids, codes, restamp=False)


def update_many(tables: HashTables, codes: jax.Array) -> HashTables:
    """As `update` with all rows' codes [L, N], by a build: cheaper where many rows have moved.

    Args:
      tables: donated to keep this in place.
      codes: int32 [L, N], of all rows as they are now.

    Returns:
      The new tables.

    Raises:
      TypeError: if codes is not int32.
      ValueError: if its shape is not [L, N].

    Example:
      >>> tables = build(init(2, num_tables=1, num_buckets=4), jnp.array([[0], [1]], jnp.int32))
      >>> update_many(tables, jnp.array([[1, 1]], jnp.int32)).sizes.tolist()
      [[0, 2, 0, 0]]
    """
    _check_by_table(codes, tables)
    return _fill(tables, codes, tables.stamps)


def remove(tables: HashTables, ids: jax.Array) -> HashTables:
    """Takes rows out of every table; absent ones are no error.

    Args:
      tables: donated to keep this in place.
      ids: int32 [n]; −1 is padding.

    Returns:
      The new tables.

    Raises:
      TypeError: if ids is not int32.
      ValueError: if it is not [n], or, outside `jit`, holds an id out of range.

    Example:
      >>> tables = build(init(2, num_tables=1, num_buckets=4), jnp.array([[0], [1]], jnp.int32))
      >>> int(stats(remove(tables, jnp.array([0], jnp.int32))).members)
      1
    """
    _check_int32("ids", ids)
    absent = jnp.full((ids.size, tables.num_tables), -1, jnp.int32)
    return _write(tables, ids, absent, restamp=False)


def query(tables: HashTables, codes: jax.Array, *, max_candidates: int) -> Candidates:
    """Ranks, for each query, the rows that share buckets with it by the number of tables.

    Never cut in arbitrary order: the `max_candidates` with the most collisions come out, ties in an
    order seeded by the tables' seed.

    Args:
      tables: the tables.
      codes: int32 [B, L], the codes of the queries; one out of range finds an empty bucket.
      max_candidates: ids to return for each query.

    Returns:
      `Candidates` with ids and counts [B, max_candidates], and the number of distinct ids [B].

    Raises:
      TypeError: if codes is not int32.
      ValueError: on a wrong shape or a max_candidates below 1.

    Example:
      >>> tables = build(init(2, num_tables=2, num_buckets=4),
      ...                jnp.array([[0, 1], [0, 2]], jnp.int32))
      >>> found = query(tables, jnp.array([[0, 2]], jnp.int32), max_candidates=3)
      >>> found.ids.tolist(), found.counts.tolist()
      ([[1, 0, -1]], [[2, 1, 0]])
    """
    _check_int32("codes", codes)
    _check_codes("codes", codes, codes.shape[0] if codes.ndim else 0, tables)
    if max_candidates < 1:
        raise ValueError(f"max_candidates = {max_candidates}: must be at least 1")
    return Candidates(*tables_query(tables, codes, max_candidates))


def stats(tables: HashTables) -> TableStats:
    """Occupancy of the tables: what is in, what found no place, how uneven the buckets are.

    Args:
      tables: the tables.

    Returns:
      `TableStats`, scalars.

    Example:
      >>> tables = init(3, num_tables=1, num_buckets=2, capacity=2)
      >>> tables = build(tables, jnp.zeros((3, 1), jnp.int32))
      >>> int(stats(tables).dropped)
      1
    """
    over = jnp.maximum(tables.sizes - jnp.int32(tables.capacity), 0)
    return TableStats(
        members=jnp.sum(tables.sizes, dtype=jnp.int32),
        dropped=jnp.sum(over, dtype=jnp.int32),
        largest=jnp.max(tables.sizes),
        empty_fraction=jnp.mean((tables.sizes == 0).astype(jnp.float32)),
        rejected=tables.rejected,
    )


def memory_bytes(num_rows: int, *, num_tables: int, num_buckets: int, capacity: int = 16) -> int:
    """Bytes of the tables that `init` makes with these arguments.

    Args:
      num_rows: N.
      num_tables: L.
      num_buckets: buckets of one table.
      capacity: ids a bucket can hold.

    Returns:
      Bytes.

    Example:
      >>> memory_bytes(10, num_tables=2, num_buckets=4, capacity=3)
      260
    """
    words = num_tables * (num_buckets * (capacity + 1) + num_rows) + num_rows + 3
    return 4 * words


def _fill(tables: HashTables, codes: jax.Array, stamps: jax.Array) -> HashTables:
    """The buckets of codes [L, N]."""
    codes, stamps, buckets, sizes = tables_build(tables, codes, stamps)
    return dataclasses.replace(tables, buckets=buckets, sizes=sizes, codes=codes, stamps=stamps)


def _write(tables: HashTables, ids: jax.Array, codes: jax.Array, *, restamp: bool) -> HashTables:
    _check_int32("ids", ids)
    if ids.ndim != 1:
        raise ValueError(f"ids has shape {ids.shape}: must be [n]")
    _check_codes("codes", codes, ids.size, tables)
    _check_values(tables, ids, codes)
    buckets, sizes, by_table, stamps, refused = tables_write(tables, ids, codes, restamp)
    return dataclasses.replace(
        tables,
        buckets=buckets,
        sizes=sizes,
        codes=by_table,
        stamps=stamps,
        clock=tables.clock + jnp.int32(ids.size if restamp else 0),
        rejected=tables.rejected + refused,
    )


def _check_int32(name: str, value: jax.Array) -> None:
    if not hasattr(value, "dtype"):
        raise TypeError(f"{name} is a {type(value).__name__}: must be an int32 array")
    if value.dtype != jnp.int32:
        raise TypeError(f"{name} has dtype {value.dtype}: must be int32; cast it knowingly")


def _check_codes(name: str, codes: jax.Array, rows: int, tables: HashTables) -> None:
    _check_int32(name, codes)
    if codes.shape != (rows, tables.num_tables):
        raise ValueError(
            f"{name} has shape {codes.shape}: must be [{rows}, {tables.num_tables}], "
            "a bucket for each row and table"
        )


def _check_by_table(codes: jax.Array, tables: HashTables) -> None:
    _check_int32("codes", codes)
    if codes.shape != tables.codes.shape:
        raise ValueError(f"codes has shape {codes.shape}: must be {tables.codes.shape}")


def _check_values(tables: HashTables, ids: jax.Array, codes: jax.Array) -> None:
    """Raises on values out of range where there are values: outside `jit`."""
    if isinstance(ids, jax.core.Tracer) or isinstance(codes, jax.core.Tracer):
        return
    for name, values, end in (
        ("ids", np.asarray(ids), tables.num_rows),
        ("codes", np.asarray(codes), tables.num_buckets),
    ):
        bad = values[(values < -1) | (values >= end)]
        if bad.size:
            raise ValueError(f"{name} holds {bad[0]}: must be from 0 to {end - 1}, or -1 for none")
