"""Active sets from labels, ranked candidates and a seeded permutation: kernel or plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi, mixing

_NONE = 2**31 - 1  # sorts behind every id


PADDING, LABEL, CANDIDATE, FILL = -1, 0, 1, 2
"""What brought an id in, in `ActiveSet.sources`."""


def active_sets(
    bits: jax.Array,
    labels: jax.Array,
    candidates: jax.Array,
    scores: jax.Array,
    *,
    size: int,
    num_rows: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ids [S, size], sources [S, size], positions [S, P] of S sets, from uint32 bits [S, 2].

    The cost is that of the items and places, not of the N rows.
    """
    if ffi.AVAILABLE:
        sets = labels.shape[0]
        results = [
            jax.ShapeDtypeStruct((sets, size), jnp.int32),
            jax.ShapeDtypeStruct((sets, size), jnp.int8),
            jax.ShapeDtypeStruct(labels.shape, jnp.int32),
        ]
        seeds = jax.lax.bitcast_convert_type(bits, jnp.int32)
        call = ffi.call("active_sets", results)
        ids, sources, positions = call(
            seeds, labels, candidates, scores, num_rows=np.int64(num_rows)
        )
        return ids, sources, positions

    def one(*args: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return _one_set(*args, size=size, num_rows=num_rows)

    return jax.vmap(one)(bits, labels, candidates, scores)


def _one_set(
    bits: jax.Array,
    labels: jax.Array,
    candidates: jax.Array,
    scores: jax.Array,
    *,
    size: int,
    num_rows: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As the kernel, for one set: the items are sorted, which brings equal ids together."""
    items = jnp.concatenate([labels, candidates])
    scores = jnp.concatenate([jnp.zeros_like(labels), scores])
    outside = (items < 0) | (items >= num_rows)
    candidate = jnp.arange(items.size, dtype=jnp.int32) >= labels.size
    # A label before its candidates, so that the first of a run tells whether it is one.
    at, is_candidate, scores = jax.lax.sort(
        (jnp.where(outside, _NONE, items), candidate.astype(jnp.int32), scores), num_keys=2
    )
    first = jnp.concatenate([jnp.ones(1, bool), at[1:] != at[:-1]])
    run = jnp.cumsum(first.astype(jnp.int32)) - 1
    total = jnp.zeros_like(scores).at[run].add(scores)[run]
    # A sum that has wrapped around is a large one.
    total = jnp.where((total < 0) | (total > 2**30), jnp.int32(2**30), total)
    score = jnp.where(is_candidate == 0, jnp.int32(2**31 - 1), total)
    score = jnp.where(first & (at < num_rows), score, -1)

    # Ties by a seeded hash of the id, as the tables do; labels by their id.
    ties = mixing.priority(bits[0], jnp.uint32(0), at)
    is_label = score == jnp.int32(2**31 - 1)
    ties = jnp.where(is_label, at.astype(jnp.uint32), ties)
    _, _, ranked, score = jax.lax.sort((-score, ties, at, score), num_keys=2)
    chosen = jnp.where(score >= 0, ranked, -1)
    source = jnp.where(score == jnp.int32(2**31 - 1), jnp.int8(LABEL), jnp.int8(CANDIDATE))
    width = max(0, size - chosen.size)
    chosen = jnp.pad(chosen, (0, width), constant_values=-1)[:size]
    source = jnp.pad(source, (0, width))[:size]
    ids, source = _fill(bits[1], chosen, source, num_rows=num_rows)
    places = _places(ids, labels)
    return ids, source, jnp.where((labels >= 0) & (labels < num_rows), places, -1)


def _places(ids: jax.Array, wanted: jax.Array) -> jax.Array:
    """Where each of `wanted` stands among distinct `ids` (−1 is none), −1 if nowhere."""
    places = jnp.arange(ids.size, dtype=jnp.int32)
    ordered, places = jax.lax.sort((jnp.where(ids < 0, _NONE, ids), places), num_keys=1)
    at = jnp.minimum(jnp.searchsorted(ordered, wanted).astype(jnp.int32), ids.size - 1)
    return jnp.where(ordered[at] == wanted, places[at], -1)


def _fill(
    bits: jax.Array, chosen: jax.Array, source: jax.Array, *, num_rows: int
) -> tuple[jax.Array, jax.Array]:
    """Puts distinct ids not yet chosen into the places that are still -1.

    Among any 2·size consecutive members of a permutation at most size are taken already, so the
    first 2·size members of a seeded permutation of the ids always suffice.
    """
    size = chosen.size
    draws = _permutation_head(bits, min(2 * size, num_rows), num_rows)
    free = _places(chosen, draws) < 0
    rank = jnp.cumsum(free.astype(jnp.int32)) - 1
    pool = jnp.full(size, -1, jnp.int32)
    pool = pool.at[jnp.where(free, rank, size)].set(draws, mode="drop")
    empty = chosen < 0
    nth = jnp.cumsum(empty.astype(jnp.int32)) - 1
    drawn = pool.at[nth].get(mode="fill", fill_value=-1)
    ids = jnp.where(empty, drawn, chosen)
    filled = jnp.where(ids < 0, jnp.int8(PADDING), jnp.int8(FILL))
    return ids, jnp.where(empty, filled, source)


def _permutation_head(bits: jax.Array, count: int, num_rows: int) -> jax.Array:
    """The first `count` members of a seeded permutation of 0 … num_rows − 1, in O(count).

    Ten Feistel rounds permute a power-of-two range four times as large at most; members outside
    walk on along their cycle until they fall inside (Black & Rogaway 2002, "cycle walking"). Four
    rounds, enough for large ranges, are visibly uneven over seeds below 32 rows.
    """
    half = max(1, -(-max(1, (num_rows - 1).bit_length()) // 2))
    mask = jnp.uint32(2**half - 1)

    def permute(x: jax.Array) -> jax.Array:
        left, right = x >> jnp.uint32(half), x & mask
        for turn in range(10):
            mixed = mixing.priority(bits, jnp.uint32(turn + 1), right)
            left, right = right, left ^ (mixed & mask)
        return (left << jnp.uint32(half)) | right

    outside = lambda x: x >= jnp.uint32(num_rows)  # noqa: E731
    return jax.lax.while_loop(
        lambda x: jnp.any(outside(x)),
        lambda x: jnp.where(outside(x), permute(x), x),
        permute(jnp.arange(count, dtype=jnp.uint32)),
    ).astype(jnp.int32)
