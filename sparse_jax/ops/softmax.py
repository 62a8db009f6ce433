"""The loss behind `layers.softmax_head`, with its gradient: kernel or plain JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.bag import _no_gradient


@jax.custom_vjp
def head(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(loss [B], best place [B]) of logits hidden @ rows.T + bias; −inf in bias leaves one out."""
    _, loss, best = _loss_and_gradient(hidden, rows, bias, label_rows, positions)
    return loss, best


def _forward(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    grad, loss, best = _loss_and_gradient(hidden, rows, bias, label_rows, positions)
    return (loss, best), (hidden, rows, grad, label_rows, positions)


def _backward(saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]) -> tuple[Any, ...]:
    hidden, rows, grad, label_rows, positions = saved
    scale = cotangents[0][:, None]
    # The examples' cotangents scale the small factors, not the [B, A] gradient; and a column of
    # them beside the hidden layer makes the bias's gradient a part of the rows' product. The
    # transposes are laid out: fused into a product, its order of summation follows the threads.
    wide = jnp.concatenate([scale * hidden, scale], axis=1)
    product = jax.lax.optimization_barrier(jax.lax.optimization_barrier(wide.T) @ grad)
    grad_rows, grad_bias = _split_columns(product)
    return (
        scale * (grad @ rows),
        grad_rows,
        grad_bias,
        _no_gradient(label_rows),
        _no_gradient(positions),
    )


head.defvjp(_forward, _backward)


def _split_columns(product: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[d + 1, A] as rows [A, d] and what stands below them, [A]; XLA:CPU transposes slowly."""
    width, active = product.shape[0] - 1, product.shape[1]
    if not ffi.AVAILABLE:
        return product[:width].T, product[width]
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((active, width), (active,))]
    rows, last = ffi.call("split_columns", results)(product)
    return rows, last


def _loss_and_gradient(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(d loss_b / d logits_ba [B, A], loss [B], best [B])."""
    logits = jax.lax.dot_general(hidden, rows, (((1,), (1,)), ((), ())))
    if not ffi.AVAILABLE:
        return _loss_and_gradient_jax(logits, bias, label_rows, positions)
    results = [
        jax.ShapeDtypeStruct(logits.shape, jnp.float32),
        jax.ShapeDtypeStruct(logits.shape[:1], jnp.float32),
        jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32),
    ]
    call = ffi.call("softmax_loss", results, aliases={0: 0})
    grad, loss, best = call(logits, bias, label_rows, positions)
    return grad, loss, best


def _loss_and_gradient_jax(
    logits: jax.Array, bias: jax.Array, label_rows: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    logits = logits + bias[None, :]
    active = logits.shape[1]
    kept = (positions >= 0) & (positions < active)
    column = jnp.where(kept, positions, active)
    targets = jnp.zeros(logits.shape, logits.dtype)
    targets = targets.at[label_rows, column].add(jnp.float32(1), mode="drop")
    labels = jnp.sum(targets, axis=1, keepdims=True)
    shares = targets / jnp.maximum(labels, jnp.float32(1))
    most = jnp.max(logits, axis=1, keepdims=True)
    above = jnp.exp(logits - most)
    sums = jnp.sum(above, axis=1, keepdims=True)
    at_labels = jnp.sum(jnp.where(targets > 0, shares * (logits - most), jnp.float32(0)), axis=1)
    loss = jnp.log(sums[:, 0]) - at_labels
    grad = above / sums - shares
    some = labels > 0
    best = jnp.argmax(logits, axis=1).astype(jnp.int32)
    return (
        jnp.where(some, grad, jnp.float32(0)),
        jnp.where(some[:, 0], loss, jnp.float32(0)),
        best,
    )
