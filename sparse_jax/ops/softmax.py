"""The loss behind `layers.softmax_head`, with its gradient: kernel or plain JAX.

Mixed, its three products take factors rounded to bfloat16 and add up in float32: the rows, the
hidden vectors, and the gradient of the logits, which leaves the loss's own pass rounded.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.bag import _no_gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def head(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    mixed: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """(loss [B], best place [B]) of logits hidden @ rows.T + bias; −inf in bias leaves one out."""
    hidden, rows = _factors(mixed, hidden, rows)
    _, loss, best = _loss_and_gradient(hidden, rows, bias, label_rows, positions, mixed)
    return loss, best


def _forward(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    mixed: bool,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    given = hidden
    hidden, rows = _factors(mixed, hidden, rows)
    grad, loss, best = _loss_and_gradient(hidden, rows, bias, label_rows, positions, mixed)
    return (loss, best), (given, rows, grad, label_rows, positions)


def _backward(
    mixed: bool, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]
) -> tuple[Any, ...]:
    hidden, rows, grad, label_rows, positions = saved
    scale = cotangents[0][:, None]
    # The examples' cotangents scale the small factors, not the [B, A] gradient; and a column of
    # them beside the hidden layer makes the bias's gradient a part of the rows' product. The
    # transposes are laid out: fused into a product, its order of summation follows the threads.
    (wide,) = _factors(mixed, jnp.concatenate([scale * hidden, scale], axis=1))
    product = jax.lax.optimization_barrier(_product(jax.lax.optimization_barrier(wide.T), grad))
    grad_rows, grad_bias = _split_columns(product)
    return (
        scale * _product(grad, rows),
        grad_rows,
        grad_bias,
        _no_gradient(label_rows),
        _no_gradient(positions),
    )


head.defvjp(_forward, _backward)


def _factors(mixed: bool, *factors: jax.Array) -> tuple[jax.Array, ...]:
    """What goes into a product."""
    return tuple(x.astype(jnp.bfloat16) for x in factors) if mixed else factors


def _product(x: jax.Array, y: jax.Array, by: int = 0) -> jax.Array:
    """x @ y in float32, y's axis `by` being summed over."""
    contracted = (((1,), (by,)), ((), ()))
    return jax.lax.dot_general(x, y, contracted, preferred_element_type=jnp.float32)


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
    mixed: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(d loss_b / d logits_ba [B, A], loss [B], best [B]); the first is bfloat16 where mixed."""
    logits = _product(hidden, rows, by=1)
    if not ffi.AVAILABLE:
        grad, loss, best = _loss_and_gradient_jax(logits, bias, label_rows, positions)
        (grad,) = _factors(mixed, grad)
        return grad, loss, best
    results = [
        jax.ShapeDtypeStruct(logits.shape, jnp.bfloat16 if mixed else jnp.float32),
        jax.ShapeDtypeStruct(logits.shape[:1], jnp.float32),
        jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32),
    ]
    call = ffi.call("softmax_loss", results, aliases={} if mixed else {0: 0})
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
