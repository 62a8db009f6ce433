"""The tables in plain JAX: the fallback where the kernels are missing, and what they must equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from sparse_jax.tables import HashTables

_TIES = 0xFFFFFFFF  # the "table" whose priorities order equal counts


def mix(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 on uint32 words."""
    h = h ^ (h >> jnp.uint32(16))
    h = h * jnp.uint32(0x85EBCA6B)
    h = h ^ (h >> jnp.uint32(13))
    h = h * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> jnp.uint32(16))


def priority(seed: jax.Array, table: jax.Array, ids: jax.Array) -> jax.Array:
    """Seeded order of ids inside a table, uint32."""
    salt = mix(seed.astype(jnp.uint32) ^ mix(table.astype(jnp.uint32)))
    return mix(ids.astype(jnp.uint32) ^ salt)


def build(
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


def write(
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
    by_table, stamps, buckets, sizes = build(tables, by_table, stamps)
    return buckets, sizes, by_table, stamps, refused


def query(
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
