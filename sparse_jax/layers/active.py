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

from sparse_jax.ops import active_sets as ops
from sparse_jax.ops.active_sets import CANDIDATE, FILL, LABEL, PADDING
from sparse_jax.ops.topk import topk_run
from sparse_jax.runtime.arguments import check_whole

__all__ = [
    "CANDIDATE",
    "FILL",
    "LABEL",
    "PADDING",
    "ActiveSet",
    "best_of_run",
    "full_set",
    "log_inclusion",
    "lsh_log_inclusion",
    "per_example_sets",
    "run_size",
    "shared_set",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActiveSet:
    """Distinct rows, and where the labels are among them; `shared_set` and the like make it.

    Attributes:
      ids: int32 [A] or [B, A], distinct; -1 only where A exceeds the rows there are.
      positions: int32 [P], the place of each label entry in its set; -1 = padding, or dropped.
      sources: int8 [A] or [B, A]: LABEL, CANDIDATE, FILL, or PADDING.
      dropped: int32 [], label entries that found no place; 0 when A is large enough.
    """

    ids: jax.Array  # int32 [A] or [B, A]; distinct; -1 only where A exceeds the rows there are
    positions: jax.Array  # int32 [P]; place of each label entry in its set, -1 = padding, dropped
    sources: jax.Array  # int8, as ids: LABEL, CANDIDATE, FILL, or PADDING
    dropped: jax.Array  # int32 []; label entries that found no place; 0 when A is large enough

    @property
    def mask(self) -> jax.Array:
        """Bool, as ids: which places hold a row."""
        return self.ids >= 0


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
    ids, sources, positions = ops.active_sets(
        bits, labels[None], found, scores, size=size, num_rows=num_rows
    )
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
    ids, sources, _ = ops.active_sets(
        bits, padded, candidates, counts, size=size, num_rows=num_rows
    )
    own = ids[label_rows] == labels[:, None]
    found = jnp.any(own, axis=1) & (labels >= 0)
    positions = jnp.where(found, jnp.argmax(own, axis=1).astype(jnp.int32), -1)
    dropped = jnp.sum((labels >= 0) & ~found, dtype=jnp.int32)
    return ActiveSet(ids=ids, positions=positions, sources=sources, dropped=dropped)


def best_of_run(
    key: jax.Array, queries: jax.Array, weights: jax.Array, bias: jax.Array, *, run: int, k: int
) -> jax.Array:
    """The k best rows of a random run of the table for each query: hard negatives at little cost.

    The rows are parted into runs of equal size; one is drawn and read where it lies, all its logits
    are computed. So each row is a sample's with the same chance, but in the rest that the last run
    shares with the one before it. The best of a sample train better than the best of all rows,
    which are often right ones that nobody noted, and for a shared set few queries suffice
    (docs/negatives.md).

    Args:
      key: PRNG key of the run.
      queries: float32 [B, d]: some 16 of a batch's hidden vectors; no gradient is taken of them.
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      run: rows of a run, at most.
      k: at most as many come of each query.

    Returns:
      int32 [B, min(k, rows of a run)], best first: candidates for `shared_set`; −1 for a logit
      that is −inf or NaN.

    Raises:
      TypeError: if run or k is no whole number, or queries are not float32. ValueError: if run or k
        is below 1, queries and table have other widths, or there are no rows.

    Example:
      >>> rows, zeros = jnp.eye(6), jnp.zeros(6)
      >>> best_of_run(jax.random.key(0), rows[:2], rows, zeros, run=100, k=1).tolist()
      [[0], [1]]

    Reference:
      Zhang, Chen, Wang and Yu 2013, "Optimizing top-n collaborative filtering via dynamic negative
      item sampling".
    """
    num_rows = weights.shape[0]
    k, size = check_whole("k", k), run_size(num_rows, run)
    if queries.dtype != jnp.float32:
        raise TypeError(
            f"queries has dtype {queries.dtype}: must be float32; take queries.astype(jnp.float32)"
        )
    if queries.ndim != 2 or queries.shape[1:] != weights.shape[1:]:
        raise ValueError(
            f"queries has shape {queries.shape}: must be [B, {weights.shape[1]}], as wide as the "
            "rows of weights; give one query as queries[None]"
        )
    drawn = jax.random.randint(key, (), 0, -(-num_rows // size))
    first = jnp.minimum(drawn * size, num_rows - size)
    queries, weights, bias = jax.lax.stop_gradient((queries, weights, bias))
    return topk_run(queries, weights, bias, first, size=size, k=min(k, size))[1]


def run_size(num_rows: int, run: int) -> int:
    """Rows of a run, of which the fewest that hold all rows are made.

    Args:
      num_rows: N.
      run: most rows of a run.

    Raises:
      TypeError: if run is no whole number. ValueError: if it is below 1, or there are no rows.

    Example:
      >>> run_size(9_333, 4_096), run_size(100, 4_096)
      (3111, 100)
    """
    if num_rows < 1:
        raise ValueError(f"num_rows = {num_rows}: must be at least 1")
    run = check_whole("run", run)
    return -(-num_rows // -(-num_rows // run))


def full_set(labels: jax.Array, *, num_rows: int) -> ActiveSet:
    """The active set of the dense layer: all rows in order, each label at its own id.

    Args:
      labels: int32 [P], the label entries of the batch; −1 is padding.
      num_rows: N.

    Returns:
      An `ActiveSet` with ids [N].

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
      float32 [A] or [B, A], as `active.ids`.

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
      cosines: float32 [...], of any shape.
      num_bits: K.
      num_tables: L.

    Returns:
      float32 [...], of the same shape; at least log(1e-6), which bounds the weights.

    Example:
      >>> float(lsh_log_inclusion(jnp.float32(1.0), num_bits=4, num_tables=2))
      0.0
    """
    angle = jnp.arccos(jnp.clip(cosines, jnp.float32(-1), jnp.float32(1)))
    agree = (jnp.float32(1) - angle / jnp.float32(jnp.pi)) ** num_bits
    found = jnp.float32(1) - (jnp.float32(1) - agree) ** num_tables
    return jnp.log(jnp.clip(found, jnp.float32(1e-6), jnp.float32(1)))


def _check(labels: jax.Array, candidates: jax.Array | None, size: int, num_rows: int) -> None:
    for name, ids in (("labels", labels), ("candidates", candidates)):
        if ids is not None and ids.dtype != jnp.int32:
            raise TypeError(f"{name} has dtype {ids.dtype}: must be int32; cast it knowingly")
    for name, value in (("size", size), ("num_rows", num_rows)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
