"""A softmax over an active set whose rows lie on many shards, inside `jax.shard_map`.

Each shard has the logits of its own active rows for the examples of all shards. Of them it tells
the others one maximum and one sum of exponentials an example; hidden vectors are gathered, their
gradient is added and handed back. Gradients of rows need no exchange: all examples are here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.fixed_order import transpose
from sparse_jax.sharding.placing import AXIS
from sparse_jax.sharding.reducing import gather, total, total_of_own


class HeadLoss(NamedTuple):
    """What `softmax_head` returns, for this shard's examples."""

    loss: jax.Array  # float32 [B]; 0 for an example without a label in the set
    hit: jax.Array  # bool [B]; whether its largest logit is that of a label


@jax.custom_vjp
def softmax_head(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    label_counts: jax.Array,
) -> HeadLoss:
    """`layers.softmax_head` over the active rows of all shards.

    loss_b = logsumexp_a(z_ba) − mean_{labels l of b} z_bl with z_ba = w_a · h_b + bias_a, over the
    active rows a of all shards. Differentiable in hidden, weights and bias.

    Args:
      hidden: float32 [B, d], of this shard's examples, as many as of each other's.
      weights: float32 [C, d], active rows that lie here; C is the same on all shards.
      bias: float32 [C]; −∞ leaves a place out.
      label_rows: int32 [P], the example of each label entry of all shards, from 0 to S·B − 1.
      positions: int32 [P], its place among the rows here; −1 is elsewhere, or padding.
      label_counts: int32 [S·B], label entries of each example that are in the set, on any shard.

    Returns:
      `HeadLoss`.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> rows, positions = jnp.array([0], jnp.int32), jnp.array([1], jnp.int32)
      >>> run = on_shards(softmax_head, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> bias = jnp.array([0.0, 0.0, 0.0, 0.1])
      >>> counts = jnp.ones(1, jnp.int32)
      >>> loss, hit = run(jnp.ones((1, 2)), jnp.zeros((4, 2)), bias, rows, positions, counts)
      >>> round(float(loss[0]), 3), bool(hit[0])
      (1.412, False)
    """
    return _forward(hidden, weights, bias, label_rows, positions, label_counts)[0]


def _forward(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    label_counts: jax.Array,
) -> tuple[HeadLoss, tuple[jax.Array, ...]]:
    everyone = gather(hidden)
    logits = jax.lax.dot_general(everyone, weights, (((1,), (1,)), ((), ()))) + bias[None, :]
    places = logits.shape[1]
    kept = (positions >= 0) & (positions < places)
    column = jnp.where(kept, positions, places)
    targets = jnp.zeros(logits.shape, logits.dtype)
    targets = targets.at[label_rows, column].add(jnp.float32(1), mode="drop")
    shares = targets / jnp.maximum(label_counts.astype(jnp.float32), jnp.float32(1))[:, None]
    here = jnp.max(logits, axis=1)
    tops = jax.lax.all_gather(here, AXIS)
    # A maximum of gathered numbers, on each shard: one of JAX's over shards would lose a NaN.
    most = jnp.max(tops, axis=0)
    above = jnp.exp(logits - most[:, None])
    differences = jnp.where(targets > 0, shares * (logits - most[:, None]), jnp.float32(0))
    both = total(jnp.stack([jnp.sum(above, axis=1), jnp.sum(differences, axis=1)]))
    some = label_counts > 0
    loss = jnp.where(some, jnp.log(both[0]) - both[1], jnp.float32(0))
    grad = jnp.where(some[:, None], above / both[0][:, None] - shares, jnp.float32(0))
    # The first shard with the largest logit, and its first place, decide; as argmax would.
    best = jnp.argmax(logits, axis=1).astype(jnp.int32)
    best_is_label = jnp.take_along_axis(targets, best[:, None], axis=1)[:, 0] > 0
    first = jnp.argmax(tops, axis=0).astype(jnp.int32) == jax.lax.axis_index(AXIS)
    hit = total((best_is_label & first).astype(jnp.int32)) > 0
    start = jax.lax.axis_index(AXIS) * jnp.int32(hidden.shape[0])
    own = HeadLoss(
        jax.lax.dynamic_slice_in_dim(loss, start, hidden.shape[0]),
        jax.lax.dynamic_slice_in_dim(hit, start, hidden.shape[0]),
    )
    return own, (everyone, weights, grad, label_rows, positions, label_counts)


def _backward(saved: tuple[jax.Array, ...], cotangents: HeadLoss) -> tuple[Any, ...]:
    everyone, weights, grad, *integers = saved
    grad = gather(cotangents.loss)[:, None] * grad
    # Explicit transposes: fused into a product, XLA:CPU's order of sums follows the threads.
    wide = jnp.concatenate([everyone, jnp.ones((everyone.shape[0], 1), everyone.dtype)], axis=1)
    product = jax.lax.optimization_barrier(transpose(wide) @ grad)
    none = [np.zeros(x.shape, jax.dtypes.float0) for x in integers]
    return (total_of_own(grad @ weights), product[:-1].T, product[-1], *none)


softmax_head.defvjp(_forward, _backward)
