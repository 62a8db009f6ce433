"""A key-value memory that the trunk reads through an LSH index: attention over a few of M slots.

    h ← h + Σ_c softmax_c(q · k_c / sqrt(d)) v_c

c runs over the C slots whose keys share the most hash buckets with the query q, so a position costs
C slots, whatever M. Keys and values are row-sparse parameters: a step updates the slots that some
position of its batch read, and no others.

References:
  Lample et al. 2019, "Large Memory Layers with Product Keys": the layer, with another way to look
  up; Kitaev, Kaiser and Levskaya 2020, "Reformer": attention over what hashing finds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax import layers
from sparse_jax.retrieval import index, schedules
from sparse_jax.rows import embedding_bag, take_rows, unique_ids


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotRows:
    """The slots that a batch reads, each distinct one once."""

    ids: jax.Array  # int32 [U], distinct slots, ascending, -1 = padding
    inverse: jax.Array  # int32 [B, C], place of each candidate in ids; -1 = no candidate


class Slots(NamedTuple):
    """Parameters of the memory."""

    keys: jax.Array  # float32 [M, d]
    values: jax.Array  # float32 [M, d]


def init(key: jax.Array, num_slots: int, width: int) -> Slots:
    """Parameters of M slots.

    Keys are normal, as long as a normalized query; values are zeros, so that the layer begins by
    adding nothing.

    Example:
      >>> keys, values = init(jax.random.key(0), 16, 4)
      >>> keys.shape, float(values.max())
      ((16, 4), 0.0)
    """
    shape = (num_slots, width)
    return Slots(jax.random.normal(key, shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def index_config(num_slots: int, candidates: int) -> index.IndexConfig:
    """The index of M slots: 8 SimHash tables of some 16 slots a bucket.

    Example:
      >>> index_config(65_536, 16).num_bits
      12
    """
    bits = max(1, round(math.log2(num_slots / 16)))
    return index.IndexConfig(
        num_tables=8, num_bits=bits, max_candidates=candidates, rehash=schedules.fixed(100)
    )


def look_up(lsh: index.LshIndex, queries: jax.Array, *, candidates: int) -> SlotRows:
    """The slots whose keys share the most buckets with each query.

    Args:
      lsh: over the keys [M, d].
      queries: float32 [B, d].
      candidates: C, at most so many a query.

    Returns:
      `SlotRows`, with room for all B · C candidates, or all M slots if those are fewer.
    """
    num_slots = lsh.changed.size
    config = index_config(num_slots, candidates)
    ids = index.candidates(lsh, queries, config=config).ids
    distinct, places, _ = unique_ids(
        ids.reshape(-1), num_rows=num_slots, size=min(ids.size, num_slots)
    )
    return SlotRows(distinct, places.reshape(ids.shape))


def attend(keys: jax.Array, values: jax.Array, queries: jax.Array, places: jax.Array) -> jax.Array:
    """What each query reads: Σ_c softmax_c(q · k_c / sqrt(d)) v_c; zeros where it has no candidate.

    Args:
      keys: float32 [U, d], gathered rows.
      values: float32 [U, d], of the same slots.
      queries: float32 [B, d].
      places: int32 [B, C] into both, distinct in a row; −1 = none.

    Returns:
      float32 [B, d].

    Example:
      >>> keys, values = jnp.eye(2), jnp.array([[1.0, 0.0], [3.0, 0.0]])
      >>> places = jnp.array([[0, 1], [1, -1]], jnp.int32)
      >>> attend(keys, values, jnp.zeros((2, 2)), places).tolist()
      [[2.0, 0.0], [3.0, 0.0]]
    """
    size, width = queries.shape
    flat, known = places.reshape(-1), places >= 0
    rows = take_rows(keys, flat).reshape(*places.shape, width)
    none = jnp.zeros(places.shape, jnp.float32)
    scores = layers.sparse_dense(rows, none, queries * jnp.float32(width**-0.5))
    weights = jax.nn.softmax(jnp.where(known, scores, jnp.float32(-1e9)), axis=1)
    weights = jnp.where(known, weights, none)
    example = jnp.repeat(jnp.arange(size, dtype=jnp.int32), places.shape[1])
    return embedding_bag(values, flat, example, weights.reshape(-1), num_segments=size)


def note(lsh: index.LshIndex, queries: jax.Array, ids: jax.Array) -> index.LshIndex:
    """After a step: takes its queries into their mean and marks its slots as changed."""
    return index.mark(index.observe(lsh, queries), ids)


@functools.partial(jax.jit, static_argnames="candidates", donate_argnames="lsh")
def maintain(
    lsh: index.LshIndex, step: jax.Array, keys: jax.Array, *, candidates: int
) -> index.LshIndex:
    """Hashes changed keys anew each 100 steps, and all of them with new functions now and then.

    Args:
      lsh: donated.
      step: int32 [], steps done.
      keys: float32 [M, d], as they are now.
      candidates: C, as in `look_up`.
    """
    config = index_config(keys.shape[0], candidates)
    return index.maintain(lsh, step, keys, config=config)
