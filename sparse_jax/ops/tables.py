"""Hash tables as arrays: the kernels that build, write and query them, and their plain JAX."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi
from sparse_jax.ops.mixing import priority

Policy = Literal["reservoir", "fifo"]
POLICIES: dict[str, int] = {"reservoir": 0, "fifo": 1}
_TIES = 0xFFFFFFFF  # the "table" whose priorities order equal counts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HashTables:
    """L hash tables over N rows; `tables.init` makes them."""

    buckets: jax.Array  # int32 [L, num_buckets, capacity]; -1 behind the last member
    sizes: jax.Array  # int32 [L, num_buckets]; members, those without a place included
    codes: jax.Array  # int32 [L, N]; the bucket of each row, -1 = absent
    stamps: jax.Array  # int32 [N]; larger = inserted later
    clock: jax.Array  # int32 []; the next stamp; good for 2**31 insertions, `build` starts it anew
    rejected: jax.Array  # int32 []; writes refused so far: id or code out of range
    seed: jax.Array  # int32 []
    policy: Policy = dataclasses.field(default="reservoir", metadata={"static": True})

    @property
    def num_tables(self) -> int:
        """L."""
        return self.buckets.shape[0]

    @property
    def num_buckets(self) -> int:
        """Buckets of one table."""
        return self.buckets.shape[1]

    @property
    def capacity(self) -> int:
        """Places in one bucket."""
        return self.buckets.shape[2]

    @property
    def num_rows(self) -> int:
        """N: valid ids are 0 … N − 1."""
        return self.codes.shape[1]


def tables_build(tables: HashTables, codes: jax.Array, stamps: jax.Array) -> Any:
    """(codes [L, N], stamps, buckets, sizes) from codes [L, N] and stamps [N] of all rows."""
    if not ffi.AVAILABLE:
        return _build_jax(tables, codes, stamps)
    results = [_like(x) for x in (codes, stamps, tables.buckets, tables.sizes)]
    call = ffi.call("tables_build", results, aliases={0: 0, 1: 1})
    return call(codes, stamps, tables.seed, policy=np.int32(POLICIES[tables.policy]))


def tables_write(tables: HashTables, ids: jax.Array, codes: jax.Array, restamp: bool) -> Any:
    """(buckets, sizes, codes [L, N], stamps, refused) after writing codes [n, L] of ids [n]."""
    if not ffi.AVAILABLE:
        return _write_jax(tables, ids, codes, restamp)
    state = (tables.buckets, tables.sizes, tables.codes, tables.stamps)
    results = [*map(_like, state), jax.ShapeDtypeStruct((), jnp.int32)]
    call = ffi.call("tables_write", results, aliases={0: 0, 1: 1, 2: 2, 3: 3})
    return call(
        *state,
        ids,
        codes,
        tables.clock,
        tables.seed,
        policy=np.int32(POLICIES[tables.policy]),
        restamp=np.int32(restamp),
    )


def tables_query(tables: HashTables, codes: jax.Array, max_candidates: int) -> Any:
    """(ids, counts [B, max_candidates], distinct [B]) of the buckets codes [B, L]."""
    if not ffi.AVAILABLE:
        return _query_jax(tables, codes, max_candidates)
    n = codes.shape[0]
    ranked = jax.ShapeDtypeStruct((n, max_candidates), jnp.int32)
    call = ffi.call("tables_query", [ranked, ranked, jax.ShapeDtypeStruct((n,), jnp.int32)])
    return call(tables.buckets, codes, tables.seed, num_rows=np.int64(tables.num_rows))


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _build_jax(
    tables: HashTables, codes: jax.Array, stamps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """As the kernel: (codes [L, N], stamps, buckets, sizes) from codes [L, N]."""
    num_rows, num_buckets, capacity = tables.num_rows, tables.num_buckets, tables.capacity
    codes = jnp.where((codes >= 0) & (codes < num_buckets), codes, -1)
    ids = jnp.arange(num_rows, dtype=jnp.int32)

    def one(code: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        bucket = jnp.where(code < 0, num_buckets, code)
        if tables.policy == "fifo":
            keys = (bucket, ~stamps, ~ids, ids)
        else:
            keys = (bucket, priority(tables.seed, table, ids), ids, ids)
        bucket, _, _, order = jax.lax.sort(keys, num_keys=3)
        sizes = jnp.zeros(num_buckets, jnp.int32).at[bucket].add(1, mode="drop")
        place = ids - (jnp.cumsum(sizes) - sizes).at[bucket].get(mode="clip")
        empty = jnp.full((num_buckets, capacity), -1, jnp.int32)
        return empty.at[bucket, place].set(order, mode="drop"), sizes

    table_ids = jnp.arange(tables.num_tables, dtype=jnp.int32)
    buckets, sizes = jax.vmap(one)(codes, table_ids)
    return codes, stamps, buckets, sizes


def _write_jax(
    tables: HashTables, ids: jax.Array, codes: jax.Array, restamp: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """As the kernel: (buckets, sizes, codes [L, N], stamps, refused) after the writes.

    The state is a function of codes and stamps, so this sets those and builds everything anew.
    """
    n, num_rows = ids.size, tables.num_rows
    in_range = jnp.all((codes >= -1) & (codes < tables.num_buckets), axis=1)
    valid = (ids >= 0) & (ids < num_rows) & in_range
    refused = jnp.sum((ids != -1) & ~valid, dtype=jnp.int32)
    at = jnp.where(valid, ids, num_rows)
    position = jnp.arange(n, dtype=jnp.int32)
    last = jnp.full(num_rows, -1, jnp.int32).at[at].max(position, mode="drop")
    counts = valid & (last.at[at].get(mode="clip") == position)
    at = jnp.where(counts, ids, num_rows)
    by_table = tables.codes.at[:, at].set(codes.T, mode="drop")
    stamps = tables.stamps
    if restamp:
        stamps = stamps.at[at].set(tables.clock + position, mode="drop")
    by_table, stamps, buckets, sizes = _build_jax(tables, by_table, stamps)
    return buckets, sizes, by_table, stamps, refused


def _query_jax(
    tables: HashTables, codes: jax.Array, max_candidates: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As the kernel: (ids, counts [B, max_candidates], distinct [B])."""
    found = (codes >= 0) & (codes < tables.num_buckets)
    table_ids = jnp.arange(tables.num_tables, dtype=jnp.int32)
    buckets = tables.buckets[table_ids[None, :], jnp.where(found, codes, 0)]
    buckets = jnp.where(found[:, :, None], buckets, -1)
    ids = jnp.sort(buckets.reshape(codes.shape[0], tables.num_tables * tables.capacity), axis=1)
    width = ids.shape[1]
    first = jnp.concatenate([jnp.ones_like(ids[:, :1], bool), ids[:, 1:] != ids[:, :-1]], axis=1)
    first = first & (ids >= 0)
    # Runs of equal ids: from the first of each to the first of the next.
    position = jnp.arange(width, dtype=jnp.int32)
    starts = jnp.where(first, position[None, :], width)
    following = jax.lax.cummin(starts[:, ::-1], axis=1)[:, ::-1]
    following = jnp.concatenate([following[:, 1:], jnp.full_like(ids[:, :1], width)], axis=1)
    counts = jnp.where(first, following - position[None, :], 0)
    ties = priority(tables.seed, jnp.uint32(_TIES), ids)
    ids = jnp.where(first, ids, -1)
    _, _, ids, counts = jax.lax.sort((-counts, ties, ids, counts), dimension=1, num_keys=2)
    distinct = jnp.sum(first, axis=1, dtype=jnp.int32)
    pad = max(0, max_candidates - width)
    ids = jnp.pad(ids, ((0, 0), (0, pad)), constant_values=-1)[:, :max_candidates]
    counts = jnp.pad(counts, ((0, 0), (0, pad)))[:, :max_candidates]
    return ids, counts, distinct
