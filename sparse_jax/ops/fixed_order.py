"""Products and sums whose bits don't depend on the number of threads.

On XLA:CPU the gradient of a matrix product, and a sum over the batch, change their order of
summation with the number of threads; an explicit transpose, and a product with ones, do not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def matmul_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x @ rows.T: [B, d] and [A, d] give [B, A]."""
    return jax.lax.dot_general(x, rows, (((1,), (1,)), ((), ())))


def _matmul_rows_fwd(
    x: jax.Array, rows: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul_rows(x, rows), (x, rows)


def _matmul_rows_bwd(
    saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, rows = saved
    # (x.T @ grad).T, so that the small factor and the small result are transposed, not grad.
    return grad @ rows, jax.lax.optimization_barrier(transpose(x) @ grad).T


matmul_rows.defvjp(_matmul_rows_fwd, _matmul_rows_bwd)


@jax.custom_vjp
def matmul_columns(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x @ rows: [B, A] and [A, d] give [B, d]."""
    return x @ rows


def _matmul_columns_fwd(
    x: jax.Array, rows: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ rows, (x, rows)


def _matmul_columns_bwd(
    saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, rows = saved
    return jax.lax.dot_general(grad, rows, (((1,), (1,)), ((), ()))), transpose(x) @ grad


matmul_columns.defvjp(_matmul_columns_fwd, _matmul_columns_bwd)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [B, A] plus bias [A]; its gradient sums the batch in a fixed order."""
    return x + bias[None, :]


def _add_bias_fwd(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(x, bias), None


def _add_bias_bwd(_: None, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # XLA:CPU splits grad.sum(0) by the number of threads; a product with ones it does not.
    ones = jnp.ones((1, grad.shape[0]), grad.dtype)
    return grad, (ones @ grad)[0]


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)


def repeat_row(row: jax.Array, count: int) -> jax.Array:
    """The row [d], `count` times: [count, d]; its gradient sums them in a fixed order."""
    return add_bias(jnp.zeros((count, row.size), row.dtype), row)


def transpose(x: jax.Array) -> jax.Array:
    """x.T, laid out: fused into a product, XLA:CPU's order of summation follows the threads."""
    return jax.lax.optimization_barrier(x.T)


def weighted_total(x: jax.Array) -> jax.Array:
    """The sum of a vector [B], taken in one order at any number of threads: a product with ones."""
    return (x[None, :] @ jnp.ones((x.size, 1), x.dtype))[0, 0]
