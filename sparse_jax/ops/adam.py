"""The row kernels behind `fused`, with the plain JAX they must equal."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.ops import ffi
from sparse_jax.ops.rows import add_rows


def adam_rows(
    mu: jax.Array, nu: jax.Array, ids: jax.Array, grad: jax.Array, scalars: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mu, nu, update [n, ...]) with the moments of rows `ids` moved on in place.

    Args:
      mu, nu: float32 [N, ...].
      ids: int32 [n], distinct; those out of range are padding, whose update is 0.
      grad: float32 [n, ...].
      scalars: float32 [9]: b1, b2, 1 − b1, 1 − b2, eps, eps_root, 1 − b1^t, 1 − b2^t, and the step
        size with its sign.
    """
    if ffi.AVAILABLE:
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (mu, nu, grad)]
        call = ffi.call("adam_rows", results, aliases={0: 0, 1: 1, 2: 2})
        mu, nu, update = call(mu, nu, grad, ids, scalars)
        return mu, nu, update
    b1, b2, rest1, rest2, eps, eps_root, correction1, correction2, rate = scalars
    valid = (ids >= 0) & (ids < mu.shape[0])
    at = jnp.where(valid, ids, mu.shape[0])
    grad = jnp.where(valid.reshape(-1, *[1] * (grad.ndim - 1)), grad, jnp.float32(0))
    m = rest1 * grad + b1 * mu.at[at].get(mode="fill", fill_value=0)
    v = rest2 * (grad * grad) + b2 * nu.at[at].get(mode="fill", fill_value=0)
    root = jnp.sqrt(v * (jnp.float32(1) / correction2) + eps_root)
    update = rate / correction1 * m / (root + eps)
    return mu.at[at].set(m, mode="drop"), nu.at[at].set(v, mode="drop"), update


def adam_rows_added(
    mu: jax.Array,
    nu: jax.Array,
    table: jax.Array,
    ids: jax.Array,
    grad: jax.Array,
    scalars: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mu, nu, table) after `adam_rows` and `add_rows` of its update, in one visit to each row.

    Args:
      mu, nu, table: float32 [N, ...].
      ids: int32 [n], distinct; those out of range are padding.
      grad: float32 [n, ...].
      scalars: float32 [9], as `adam_rows` takes them.
    """
    if ffi.AVAILABLE:
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (mu, nu, table)]
        call = ffi.call("adam_rows_added", results, aliases={0: 0, 1: 1, 2: 2})
        mu, nu, table = call(mu, nu, table, grad, ids, scalars)
        return mu, nu, table
    mu, nu, update = adam_rows(mu, nu, ids, grad, scalars)
    at = jnp.where((ids >= 0) & (ids < table.shape[0]), ids, table.shape[0])
    return mu, nu, add_rows(table, at, update)
