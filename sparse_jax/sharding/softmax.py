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


def _forward(*given: jax.Array) -> tuple[HeadLoss, tuple[jax.Array, ...]]:
    hidden, weights, bias, label_rows, positions, label_counts = given
    everyone = gather(hidden)
    logits = jax.lax.dot_general(everyone, weights, (((1,), (1,)), ((), ()))) + bias[None, :]
    places = logits.shape[1]
    kept = (positions >= 0) & (positions < places)
    at = (label_rows, jnp.where(kept, positions, places))
    here = logits.at[at].get(mode="fill", fill_value=0)
    share = jnp.float32(1) / jnp.maximum(label_counts, 1).astype(jnp.float32)[label_rows]
    share = jnp.where(kept, share, jnp.float32(0))
    # A maximum of gathered numbers, on each shard: one of JAX's over shards would lose a NaN.
    most = jnp.max(jax.lax.all_gather(jnp.max(logits, axis=1), AXIS), axis=0)
    above = jnp.exp(logits - most[:, None])
    labels = jnp.where(kept, share * (here - most[label_rows]), jnp.float32(0))
    labels = jnp.zeros_like(most).at[label_rows].add(labels)
    both = total(jnp.stack([jnp.sum(above, axis=1), labels]))
    some = label_counts > 0
    loss = jnp.where(some, jnp.log(both[0]) - both[1], jnp.float32(0))
    grad = above * jnp.where(some, jnp.float32(1) / both[0], jnp.float32(0))[:, None]
    grad = grad.at[at].add(-share, mode="drop")
    best = (kept & (here >= most[label_rows])).astype(jnp.int32)
    hit = total(jnp.zeros(some.shape, jnp.int32).at[label_rows].add(best)) > 0
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
