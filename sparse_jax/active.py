"""Active sets: which rows of a large layer a step touches.

An active set holds exactly A distinct ids: first the labels of the batch, then the candidates the
tables rank best, then ids drawn uniformly. `shared_set` makes one set for a whole batch (one
gather, one matrix product, one scatter); `per_example_sets` makes one for each example.

Samples are corrected, if at all, by what `log_inclusion` and `lsh_log_inclusion` return.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import _ffi, _tables_jax

_NONE = 2**31 - 1  # sorts behind every id


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActiveSet:
    """Distinct rows, and where the labels stand among them; [A] shared or [B, A] per example."""

    ids: jax.Array  # int32 [A] or [B, A]; distinct; -1 only where A exceeds the rows there are
    positions: jax.Array  # int32 [P]; place of each label entry in its set, -1 = padding, dropped
    sources: jax.Array  # int8, as ids: LABEL, CANDIDATE, FILL, or PADDING
    dropped: jax.Array  # int32 []; label entries that found no place; 0 when A is large enough

    @property
    def mask(self) -> jax.Array:
        """Bool, as ids: which places hold a row."""
        return self.ids >= 0


PADDING, LABEL, CANDIDATE, FILL = -1, 0, 1, 2
"""What brought an id in, in `ActiveSet.sources`."""


def shared_set(
    key: jax.Array,
    labels: jax.Array,
    candidates: jax.Array | None = None,
    counts: jax.Array | None = None,
    *,
    size: int,
    num_rows: int,
) -> ActiveSet:
    """One active set for a batch: labels, then candidates by collision count, then uniform ids.

    A candidate's rank is the sum of its collision counts over the queries of the batch.

    Args:
      key: PRNG key of the uniform fill.
      labels: int32 [P], the label entries of the batch, repeats allowed; −1 is padding.
      candidates: int32 [B, M] or None, as `tables.query` returns; −1 is none.
      counts: int32 [B, M] or None, their collisions; None counts each candidate once.
      size: A.
      num_rows: N.

    Returns:
      An `ActiveSet` with ids [A] in ascending order of source, then of id or rank.

    Raises:
      ValueError: if size or num_rows is not positive.
      TypeError: if ids are not int32.

    Example:
      >>> labels = jnp.array([3, 3, 8], jnp.int32)
      >>> active = shared_set(jax.random.key(0), labels, size=4, num_rows=10)
      >>> active.ids[:2].tolist(), active.positions.tolist()
      ([3, 8], [0, 0, 1])
    """
    _check(labels, candidates, size, num_rows)
    if candidates is None:
        candidates = jnp.full((1,), -1, jnp.int32)
    found = candidates.reshape(1, -1)
    scores = jnp.ones_like(found) if counts is None else counts.reshape(1, -1)
    bits = jax.random.bits(key, (1, 2), jnp.uint32)
    ids, sources, positions = _sets(bits, labels[None], found, scores, size=size, num_rows=num_rows)
    dropped = jnp.sum((labels >= 0) & (positions[0] < 0), dtype=jnp.int32)
    return ActiveSet(ids=ids[0], positions=positions[0], sources=sources[0], dropped=dropped)


def per_example_sets(
    key: jax.Array,
    labels: jax.Array,
    label_rows: jax.Array,
    candidates: jax.Array | None = None,
    counts: jax.Array | None = None,
    *,
    batch_size: int,
    max_labels: int,
    size: int,
    num_rows: int,
) -> ActiveSet:
    """An active set for each example: its labels, its candidates by count, then uniform ids.

    Args:
      key: PRNG key of the uniform fill.
      labels: int32 [P], the label entries of the batch; −1 is padding.
      label_rows: int32 [P], the example of each entry, ascending.
      candidates: int32 [B, M] or None, as `tables.query` returns.
      counts: int32 [B, M] or None, their collisions.
      batch_size: B.
      max_labels: labels one example can have; entries beyond are dropped and counted.
      size: A, of one example.
      num_rows: N.

    Returns:
      An `ActiveSet` with ids [B, A].

    Raises:
      ValueError: if size or num_rows is not positive.
      TypeError: if ids are not int32.

    Example:
      >>> labels, rows = jnp.array([3, 8], jnp.int32), jnp.array([0, 1], jnp.int32)
      >>> active = per_example_sets(jax.random.key(0), labels, rows, batch_size=2, max_labels=1,
      ...                           size=3, num_rows=10)
      >>> active.ids[:, 0].tolist(), active.positions.tolist()
      ([3, 8], [0, 0])
    """
    _check(labels, candidates, size, num_rows)
    entries = jnp.arange(labels.size, dtype=jnp.int32)
    first = jnp.full(batch_size, labels.size, jnp.int32).at[label_rows].min(entries, mode="drop")
    column = entries - first.at[label_rows].get(mode="clip")
    padded = jnp.full((batch_size, max_labels), -1, jnp.int32)
    padded = padded.at[label_rows, column].set(labels, mode="drop")

    if candidates is None:
        candidates = jnp.full((batch_size, 1), -1, jnp.int32)
    if counts is None:
        counts = jnp.ones_like(candidates)
    keys = jax.random.split(key, batch_size)
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
    ids, sources, _ = _sets(bits, padded, candidates, counts, size=size, num_rows=num_rows)
    own = ids[label_rows] == labels[:, None]
    found = jnp.any(own, axis=1) & (labels >= 0)
    positions = jnp.where(found, jnp.argmax(own, axis=1).astype(jnp.int32), -1)
    dropped = jnp.sum((labels >= 0) & ~found, dtype=jnp.int32)
    return ActiveSet(ids=ids, positions=positions, sources=sources, dropped=dropped)


def full_set(labels: jax.Array, *, num_rows: int) -> ActiveSet:
    """The active set of the dense layer: all rows in order, each label at its own id.

    Example:
      >>> full_set(jnp.array([2, -1], jnp.int32), num_rows=3).positions.tolist()
      [2, -1]
    """
    return ActiveSet(
        ids=jnp.arange(num_rows, dtype=jnp.int32),
        positions=labels,
        sources=jnp.full(num_rows, FILL, jnp.int8),
        dropped=jnp.zeros((), jnp.int32),
    )


def log_inclusion(active: ActiveSet, *, num_rows: int) -> jax.Array:
    """Log probability that each id is in the set, by the uniform fill ("logQ" correction).

    Labels and candidates are in with certainty (0); an id of the fill is in with probability
    F / (N − certain), F being how many were drawn. Subtracting this from the logits makes the
    softmax's partition function unbiased over the draw (Bengio & Senécal 2008).

    Args:
      active: of `shared_set` or `per_example_sets`.
      num_rows: N.

    Returns:
      float32, as `active.ids`.

    Example:
      >>> active = shared_set(jax.random.key(0), jnp.array([3], jnp.int32), size=4, num_rows=10)
      >>> [round(float(x), 3) for x in log_inclusion(active, num_rows=10)]
      [0.0, -1.099, -1.099, -1.099]
    """
    fill = active.sources == FILL
    drawn = jnp.sum(fill, axis=-1, keepdims=True, dtype=jnp.float32)
    certain = jnp.sum(active.mask & ~fill, axis=-1, keepdims=True, dtype=jnp.float32)
    chance = drawn / jnp.maximum(jnp.float32(num_rows) - certain, jnp.float32(1))
    logs = jnp.log(jnp.clip(chance, jnp.float32(1e-30), jnp.float32(1)))
    return jnp.where(fill, jnp.broadcast_to(logs, fill.shape), jnp.float32(0))


def lsh_log_inclusion(cosines: jax.Array, *, num_bits: int, num_tables: int) -> jax.Array:
    """Log probability that L tables of K sign bits find a row at this cosine to the query.

    1 − (1 − p^K)^L with p = 1 − θ/π, the law of SimHash (Charikar 2002); what LSH sampling divides
    by (Spring & Shrivastava 2017, "A New Unbiased and Efficient Class of LSH-Based Samplers").

    Args:
      cosines: float32, any shape.
      num_bits: K.
      num_tables: L.

    Returns:
      float32, the same shape; at least log(1e-6), which bounds the weights.

    Example:
      >>> float(lsh_log_inclusion(jnp.float32(1.0), num_bits=4, num_tables=2))
      0.0
    """
    angle = jnp.arccos(jnp.clip(cosines, jnp.float32(-1), jnp.float32(1)))
    agree = (jnp.float32(1) - angle / jnp.float32(jnp.pi)) ** num_bits
    found = jnp.float32(1) - (jnp.float32(1) - agree) ** num_tables
    return jnp.log(jnp.clip(found, jnp.float32(1e-6), jnp.float32(1)))


def _sets(
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
    if _ffi.AVAILABLE:
        sets = labels.shape[0]
        results = [
            jax.ShapeDtypeStruct((sets, size), jnp.int32),
            jax.ShapeDtypeStruct((sets, size), jnp.int8),
            jax.ShapeDtypeStruct(labels.shape, jnp.int32),
        ]
        seeds = jax.lax.bitcast_convert_type(bits, jnp.int32)
        call = _ffi.call("active_sets", results)
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
    ties = _tables_jax.priority(bits[0], jnp.uint32(0), at)
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
            mixed = _tables_jax.priority(bits, jnp.uint32(turn + 1), right)
            left, right = right, left ^ (mixed & mask)
        return (left << jnp.uint32(half)) | right

    outside = lambda x: x >= jnp.uint32(num_rows)  # noqa: E731
    return jax.lax.while_loop(
        lambda x: jnp.any(outside(x)),
        lambda x: jnp.where(outside(x), permute(x), x),
        permute(jnp.arange(count, dtype=jnp.uint32)),
    ).astype(jnp.int32)


def _check(labels: jax.Array, candidates: jax.Array | None, size: int, num_rows: int) -> None:
    for name, ids in (("labels", labels), ("candidates", candidates)):
        if ids is not None and ids.dtype != jnp.int32:
            raise TypeError(f"{name} has dtype {ids.dtype}: must be int32; cast it knowingly")
    for name, value in (("size", size), ("num_rows", num_rows)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
