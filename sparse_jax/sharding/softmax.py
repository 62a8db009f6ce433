"""A softmax over an active set whose rows lie on many shards, inside `jax.shard_map`.

Each shard has the hidden vectors of all examples and the logits of its own active rows. Of them it
tells the others five numbers an example, in one exchange; the gradient of hidden vectors is added.
Gradients of rows need no exchange: all examples are here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.fixed_order import transpose
from sparse_jax.sharding.placing import AXIS
from sparse_jax.sharding.reducing import in_order, total_for_all

_LEAST = np.float32(-1e30)  # of logits


class HeadLoss(NamedTuple):
    """What `softmax_head` returns, for the examples of all shards: the same on each."""

    loss: jax.Array  # float32 [S·B]; 0 for an example without a label in the set
    hit: jax.Array  # bool [S·B]; whether its largest logit is that of a label


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
    active rows a of all shards. Differentiable in hidden, weights and bias; the cotangent of the
    loss must be the same on all shards, as is then the gradient of hidden.

    Args:
      hidden: float32 [S·B, d], of the examples of all shards, the same on each.
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
    logits = jax.lax.dot_general(hidden, weights, (((1,), (1,)), ((), ()))) + bias[None, :]
    places = logits.shape[1]
    kept = (positions >= 0) & (positions < places)
    at = (label_rows, jnp.where(kept, positions, places))
    here = logits.at[at].get(mode="fill", fill_value=0)
    share = jnp.float32(1) / jnp.maximum(label_counts, 1).astype(jnp.float32)[label_rows]
    share = jnp.where(kept, share, jnp.float32(0))
    # A shard without a row, or with −∞ alone, has a finite maximum too: −∞ less itself is NaN.
    most = jnp.maximum(jnp.max(logits, axis=1), _LEAST)
    above = jnp.exp(logits - most[:, None])
    # Labels' logits are told less this shard's maximum, like the sums: no digits are lost.
    zeros = jnp.zeros_like(most)
    less = jnp.where(kept, share * (here - most[label_rows]), jnp.float32(0))
    shares = zeros.at[label_rows].add(share)
    labels = zeros.at[label_rows].add(less)
    best = (zeros + _LEAST).at[label_rows].max(jnp.where(kept, here, _LEAST))
    told = jnp.stack([most, jnp.sum(above, axis=1), labels, shares, best])
    told = jax.lax.all_gather(told, AXIS)  # [S, 5, S·B]
    # A maximum of gathered numbers, on each shard: one of JAX's over shards would lose a NaN.
    highest = jnp.max(told[:, 0], axis=0)
    lower = told[:, 0] - highest[None, :]
    sums = in_order(told[:, 1] * jnp.exp(lower))
    labels = in_order(told[:, 2] + told[:, 3] * lower)
    some = label_counts > 0
    loss = jnp.where(some, jnp.log(sums) - labels, jnp.float32(0))
    scale = jnp.exp(most - highest) / sums
    grad = above * jnp.where(some, scale, jnp.float32(0))[:, None]
    grad = grad.at[at].add(-share, mode="drop")
    hit = some & (jnp.max(told[:, 4], axis=0) >= highest)
    return HeadLoss(loss, hit), (hidden, weights, grad, label_rows, positions, label_counts)


def _backward(saved: tuple[jax.Array, ...], cotangents: HeadLoss) -> tuple[Any, ...]:
    hidden, weights, grad, *integers = saved
    grad = cotangents.loss[:, None] * grad
    # Explicit transposes: fused into a product, XLA:CPU's order of sums follows the threads.
    wide = jnp.concatenate([hidden, jnp.ones((hidden.shape[0], 1), hidden.dtype)], axis=1)
    product = jax.lax.optimization_barrier(transpose(wide) @ grad)
    none = [np.zeros(x.shape, jax.dtypes.float0) for x in integers]
    return (*total_for_all(grad @ weights), product[:-1].T, product[-1], *none)


softmax_head.defvjp(_forward, _backward)
