"""A row-sparse memory keyed by hashed contexts: an embedding and the words that came next.

A context is the last n tokens, for each n of a few orders. Each context that recurs owns one of R
rows: a learned vector, and the few words that most often followed with their counts. A row carries
the tag of its owner, so that a context never reads another context's row.

A context of order n gets a row only when its suffix of the next lower order already has one:
until then it would know nothing that its suffix doesn't. Free rows are zeros, and pages of them
take no memory until they are written.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.rows import add_rows, set_rows, take_rows, unique_ids

COUNT_BITS = 11
"""A slot of `Memory.followers` packs a token id above its count."""
MAX_IDS = 1 << (32 - COUNT_BITS)
_COUNT_MASK = (1 << COUNT_BITS) - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """R rows; everything of a row that was never claimed is zero."""

    rows: jax.Array  # float32 or bfloat16 [R, d]
    scales: jax.Array  # float32 [R]; sum over touches of the mean squared gradient
    tags: jax.Array  # uint32 [R]; the owner's tag, 0 = free
    counts: jax.Array  # int32 [R]; occurrences of the owner since it claimed the row
    followers: jax.Array  # uint32 [R, K]; token id << COUNT_BITS | count, 0 = empty


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContextRows:
    """The rows of a batch's contexts, each distinct row once."""

    ids: jax.Array  # int32 [B * O], distinct rows, ascending, -1 = padding
    inverse: jax.Array  # int32 [B, O], place of each context's row in ids; -1 = it has none
    counts: jax.Array  # int32 [B * O], occurrences so far of the owner of each distinct row
    followers: jax.Array  # uint32 [B * O, K], of each distinct row


class ContextHashes(NamedTuple):
    """What a memory knows a context by, for each of O orders."""

    places: jax.Array  # uint32 [B, O], where its row may lie
    tags: jax.Array  # uint32 [B, O], its owner's tag; 0 = the context is longer than the history


class Followers(NamedTuple):
    """Words that came next; arrays of any one shape."""

    ids: jax.Array  # int32, token ids
    counts: jax.Array  # int32, 0 = empty slot


def init(num_rows: int, width: int, *, slots: int = 8, dtype: Any = jnp.float32) -> Memory:
    """An empty memory of num_rows * width parameters.

    Args:
      num_rows: R.
      width: d.
      slots: K, followers that a row keeps.
      dtype: of the rows: jnp.float32, or jnp.bfloat16 in half the bytes.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> init(16, 4, slots=2).rows.shape
      (16, 4)
    """
    for name, value in (("num_rows", num_rows), ("width", width), ("slots", slots)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    return Memory(
        rows=jnp.zeros((num_rows, width), dtype),
        scales=jnp.zeros(num_rows, jnp.float32),
        tags=jnp.zeros(num_rows, jnp.uint32),
        counts=jnp.zeros(num_rows, jnp.int32),
        followers=jnp.zeros((num_rows, slots), jnp.uint32),
    )


def hash_contexts(history: jax.Array, known: jax.Array, orders: tuple[int, ...]) -> ContextHashes:
    """Two 32-bit hashes of the last n tokens, for each n of `orders`.

    Args:
      history: int32 [B, C], the tokens before each position, the latest last.
      known: int32 [B], how many of them may be looked at.
      orders: ascending, at most C.

    Returns:
      `ContextHashes`. The tag is 0 where known is less than n, and nowhere else.

    Example:
      >>> history = jnp.array([[5, 6], [9, 6]], jnp.int32)
      >>> _, tags = hash_contexts(history, jnp.array([2, 2], jnp.int32), (1, 2))
      >>> bool(tags[0, 0] == tags[1, 0]), bool(tags[0, 1] == tags[1, 1])
      (True, False)
    """
    place = jnp.full(known.shape, 0x9E3779B9, jnp.uint32)
    tag = jnp.full(known.shape, 0x85EBCA6B, jnp.uint32)
    places, tags = [], []
    for n in range(1, orders[-1] + 1):
        token = history[:, -n].astype(jnp.uint32)
        place = _mix(place ^ (token + jnp.uint32(0x7F4A7C15)))
        tag = _mix((tag + jnp.uint32(0x6C8E9CF5)) ^ (token * jnp.uint32(0xC2B2AE35)))
        if n in orders:
            places.append(_mix(place + jnp.uint32(n)))
            tags.append(jnp.where(known >= n, tag | jnp.uint32(1), jnp.uint32(0)))
    return ContextHashes(jnp.stack(places, 1), jnp.stack(tags, 1))


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby 2011): every bit of x reaches every bit."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def find(
    memory: Memory, hashes: jax.Array, tags: jax.Array, *, claim: bool
) -> tuple[Memory, ContextRows]:
    """The row of each context, and rows for those that may have one now.

    Each context may live in two places and takes the first that is free. Of two contexts that
    claim one row in the same batch the later wins, the other gets its row another time.

    Args:
      memory: with R rows.
      hashes: uint32 [B, O].
      tags: uint32 [B, O], 0 = no context; orders ascending.
      claim: whether new contexts may claim rows; static.

    Returns:
      (the memory with its tags updated, `ContextRows`).
    """
    num_rows = memory.tags.size
    first = (hashes % jnp.uint32(num_rows)).astype(jnp.int32)
    second = (_mix(hashes ^ jnp.uint32(0x27D4EB2F)) % jnp.uint32(num_rows)).astype(jnp.int32)
    at_first = memory.tags.at[first].get(mode="promise_in_bounds")
    at_second = memory.tags.at[second].get(mode="promise_in_bounds")
    real = tags != jnp.uint32(0)
    in_first, in_second = real & (at_first == tags), real & (at_second == tags)
    row = jnp.where(in_first, first, jnp.where(in_second, second, -1))
    if claim:
        suffix_known = jnp.concatenate(
            [jnp.ones_like(in_first[:, :1]), (in_first | in_second)[:, :-1]], 1
        )
        wanted = real & (row < 0) & suffix_known
        free = jnp.where(
            at_first == jnp.uint32(0), first, jnp.where(at_second == jnp.uint32(0), second, -1)
        )
        claimed = jnp.where(wanted, free, -1)
        # XLA:CPU runs a scatter in order, so the winner doesn't depend on threads.
        new_tags = memory.tags.at[jnp.where(claimed < 0, num_rows, claimed)].set(tags, mode="drop")
        won = new_tags.at[jnp.maximum(claimed, 0)].get(mode="promise_in_bounds") == tags
        row = jnp.where((claimed >= 0) & won, claimed, row)
        memory = dataclasses.replace(memory, tags=new_tags)
    flat = row.reshape(-1)
    ids, inverse, _ = unique_ids(flat, num_rows=num_rows, size=flat.size)
    # Behind the barrier the rows are read before `observe` writes. Fused into what comes after,
    # the reads would make XLA copy whole tables.
    counts, followers = jax.lax.optimization_barrier(
        (take_rows(memory.counts, ids), take_rows(memory.followers, ids))
    )
    return memory, ContextRows(ids, inverse.reshape(row.shape), counts, followers)


def unpack(followers: jax.Array) -> Followers:
    """Token ids and counts of packed followers.

    Example:
      >>> [int(x) for x in unpack(jnp.uint32(5 << COUNT_BITS | 3))]
      [5, 3]
    """
    ids = (followers >> jnp.uint32(COUNT_BITS)).astype(jnp.int32)
    return Followers(ids, (followers & jnp.uint32(_COUNT_MASK)).astype(jnp.int32))


def observe(memory: Memory, contexts: ContextRows, targets: jax.Array) -> Memory:
    """Counts each context, and the word that followed it.

    A word among a row's followers has its count raised, any other takes the place of the rarest
    (Metwally et al. 2005, "Space-Saving", with the count begun anew). A row that occurs several
    times in a batch learns the last of its words.

    Args:
      memory: after `find`.
      contexts: of `find`.
      targets: int32 [B], what followed; -1 = nothing, the example is not counted.

    Returns:
      The memory.
    """
    size = contexts.ids.size
    shape = contexts.inverse.shape
    real = (contexts.inverse >= 0) & (targets >= 0)[:, None]
    place = jnp.where(real, contexts.inverse, size).reshape(-1)
    seen = jnp.zeros(size, jnp.int32).at[place].add(jnp.ones_like(place), mode="drop")
    entry = jnp.arange(place.size, dtype=jnp.int32)
    last = jnp.full(size, -1, jnp.int32).at[place].max(entry, mode="drop")
    word = take_rows(targets, jnp.where(last < 0, -1, last // shape[1]))
    ids, counts = unpack(contexts.followers)
    same = (ids == word[:, None]) & (counts > 0)
    # The slot that holds the word already, or else the rarest.
    slot = jnp.argmin(jnp.where(same, -1, counts), axis=1)
    chosen = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :] == slot[:, None].astype(jnp.int32)
    raised = jnp.where(same, jnp.minimum(counts + 1, _COUNT_MASK), 1)
    learns = chosen & (last >= 0)[:, None]
    ids = jnp.where(learns, word[:, None], ids)
    counts = jnp.where(learns, raised, counts)
    packed = (ids.astype(jnp.uint32) << jnp.uint32(COUNT_BITS)) | counts.astype(jnp.uint32)
    return dataclasses.replace(
        memory,
        counts=set_rows(memory.counts, contexts.ids, contexts.counts + seen),
        followers=set_rows(memory.followers, contexts.ids, packed),
    )


def update_rows(
    memory: Memory,
    ids: jax.Array,
    grads: jax.Array,
    *,
    learning_rate: jax.Array | float,
    key: jax.Array,
) -> Memory:
    """One step of Adagrad with one scale a row, on the rows touched.

    s ← s + mean(g²),  row ← row − η · g / sqrt(s): a row's first step has length η · sqrt(d),
    however long its gradient is, so a row learns from one touch.

    Args:
      memory: with R rows.
      ids: int32 [n], distinct, -1 = padding.
      grads: float32 [n, d].
      learning_rate: η.
      key: PRNG key by which rows of bfloat16 are rounded up or down.

    Returns:
      The memory.

    References:
      Duchi, Hazan and Singer 2011; a scale a row as in Mudigere et al. 2022, "Software-Hardware
      Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", section 4.
    """
    narrow = memory.rows.dtype == jnp.bfloat16
    seed = jax.random.bits(key, (), jnp.uint32) if narrow else None
    squares = jnp.mean(grads * grads, axis=1)
    scales = take_rows(memory.scales, ids) + squares
    steps = (
        jnp.asarray(learning_rate, jnp.float32)
        * grads
        / jnp.sqrt(scales + jnp.float32(1e-12))[:, None]
    )
    return dataclasses.replace(
        memory,
        rows=add_rows(memory.rows, ids, -steps, seed=seed),
        scales=set_rows(memory.scales, ids, scales),
    )
