"""What the stored points nearest to a query say of labels: the share that each label has of them.

    share(l | x) = Σ_p s_p^16 y_pl / Σ_p s_p^16, over the 64 points with the largest s_p = x · p

An inverted index holds the points: a query adds up, for each of its features, the points that the
feature points to, as `ops.wide` does for labels. The kernel of `ops.ensemble` does so without an
array of all points; this is its reference.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.ops.wide import Entries, wide_scores

NEAR = 64  # points that are looked at
_SQUARED = 4  # times: likenesses to the power 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neighbours:
    """P points by feature, and their labels."""

    offsets: jax.Array  # int32 [F + 1]; points of feature f: offsets[f] to offsets[f + 1]
    point_ids: jax.Array  # int32 [E], ascending in a feature
    values: jax.Array  # float32 [E], of rows of unit length
    label_offsets: jax.Array  # int32 [P + 1]
    label_ids: jax.Array  # int32 [L]
    label_weights: jax.Array  # float32 [L], from 0 to 1
    weight: jax.Array  # float32 [], of a share beside a label's margin of 1

    @property
    def num_points(self) -> int:
        """P."""
        return self.label_offsets.size - 1


def shares(near: Neighbours, entries: Entries, num_points: int, num_labels: int) -> jax.Array:
    """The labels' shares of each point's neighbours: float32 [B, N].

    Args:
      near: P stored points.
      entries: the features of B points.
      num_points: B.
      num_labels: N.

    Returns:
      From 0 to 1; 0 for all labels of a point that no stored one is like.
    """
    stored = near.num_points
    if not stored or not near.values.size:
        return jnp.zeros((num_points, num_labels), jnp.float32)
    zeros = jnp.zeros(stored, jnp.float32)
    likeness = wide_scores(near.offsets, near.point_ids, near.values, zeros, entries, num_points)
    likeness = jnp.where(jnp.isfinite(likeness), likeness, jnp.float32(0))
    # Behind the barrier XLA:CPU keeps its fast top_k.
    best, ids = jax.lax.optimization_barrier(jax.lax.top_k(likeness, min(NEAR, stored)))
    first = jnp.where(best[:, :1] > 0, best[:, :1], jnp.float32(1))
    power = jnp.where(best > 0, best / first, jnp.float32(0))
    for _ in range(_SQUARED):
        power = power * power
    owners = jnp.repeat(
        jnp.arange(stored), jnp.diff(near.label_offsets), total_repeat_length=near.label_ids.size
    )
    labels = jnp.where(near.label_ids < 0, num_labels, near.label_ids)

    def one(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, points = given
        said = jnp.zeros(stored, jnp.float32).at[points].set(own)[owners] * near.label_weights
        return jnp.zeros(num_labels, jnp.float32).at[labels].add(said, mode="drop")

    # One point after the other: all at once would take an array of points x stored labels.
    totals = jax.lax.map(one, (power, ids))
    return totals / jnp.maximum(jnp.sum(power, axis=1, keepdims=True), jnp.float32(1))
