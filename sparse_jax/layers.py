"""Layers as init/apply pairs over gathered rows.

Applying takes rows, not tables of N rows: gather them with `rows.take_rows`, differentiate with
respect to them, and the gradient has their size. The products are arranged so that XLA:CPU gives
the same bits at any thread count, which the plain gradient of a matrix product does not.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax import _softmax
from sparse_jax.rows import draw_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseActivation:
    """The output of a `sparse_dense` hidden layer: values of the active units, the rest zero."""

    ids: jax.Array  # int32 [A] shared, or [B, A]; -1 = padding, whose values are zero
    values: jax.Array  # float32 [B, A]
    num_units: int = dataclasses.field(metadata={"static": True})


def sparse_dense_init(
    key: jax.Array, in_dim: int, num_units: int, *, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    """Weights [num_units, in_dim], uniform in ±1/sqrt(in_dim), and zero bias [num_units].

    A unit is a row, so that its weights lie together. They have the dtype given, the bias float32.

    Example:
      >>> sparse_dense_init(jax.random.key(0), 8, 100)["weights"].shape
      (100, 8)
    """
    bound = 1.0 / max(in_dim, 1) ** 0.5

    def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        rows = jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)
        return rows.astype(dtype)

    weights = draw_rows(draw, key, num_units, in_dim)
    return {"weights": weights, "bias": jnp.zeros(num_units, jnp.float32)}


def sparse_dense(weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """The outputs of some units: y_ba = w_a · x_b + bias_a.

    Args:
      weights: float32 [A, d], rows shared by the batch, or [B, A, d], rows of each example.
      bias: float32 [A] or [B, A].
      x: float32 [B, d].

    Returns:
      float32 [B, A].

    Raises:
      ValueError: if the shapes don't fit together.

    Example:
      >>> sparse_dense(jnp.ones((3, 2)), jnp.zeros(3), jnp.ones((1, 2))).tolist()
      [[2.0, 2.0, 2.0]]
    """
    if weights.shape[-1] != x.shape[-1] or bias.shape != weights.shape[:-1]:
        raise ValueError(
            f"weights {weights.shape}, bias {bias.shape} and x {x.shape} don't fit: must be "
            "[A, d], [A], [B, d], or [B, A, d], [B, A], [B, d]"
        )
    if weights.ndim == 3:
        return jnp.einsum("bad,bd->ba", weights, x) + bias
    return add_bias(matmul_rows(x, weights), bias)


def sparse_hidden(
    weights: jax.Array, bias: jax.Array, x: jax.Array, ids: jax.Array, *, num_units: int
) -> SparseActivation:
    """A hidden layer of which only some units are computed: ReLU of `sparse_dense`.

    Args:
      weights: float32 [A, d] or [B, A, d], the rows of the active units.
      bias: float32 [A] or [B, A].
      x: float32 [B, d].
      ids: int32 [A] or [B, A], the active units; −1 is padding.
      num_units: units of the whole layer.

    Returns:
      A `SparseActivation`, which `read_sparse` takes as its input.

    Example:
      >>> ids = jnp.array([4, 9], jnp.int32)
      >>> h = sparse_hidden(jnp.ones((2, 3)), jnp.zeros(2), jnp.ones((1, 3)), ids, num_units=10)
      >>> read_sparse(jnp.ones((2, 5)), h).tolist()
      [[6.0, 6.0, 6.0, 6.0, 6.0]]
    """
    values = jax.nn.relu(sparse_dense(weights, bias, x))
    mask = jnp.broadcast_to(ids if ids.ndim == 2 else ids[None, :], values.shape) >= 0
    return SparseActivation(ids, jnp.where(mask, values, jnp.float32(0)), num_units)


def read_sparse(rows: jax.Array, activation: SparseActivation) -> jax.Array:
    """What the next layer makes of a sparse activation: y_b = Σ_a value_ba row_a.

    Args:
      rows: float32 [A, d_out], the rows of the active units in a table [num_units, d_out] (the
        next layer's weights, input-major); or [B, A, d_out].
      activation: values [B, A].

    Returns:
      float32 [B, d_out].
    """
    if rows.ndim == 3:
        return jnp.einsum("bad,ba->bd", rows, activation.values)
    return matmul_columns(activation.values, rows)


def softmax_head(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    *,
    mask: jax.Array | None = None,
    log_inclusion: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`losses.softmax_cross_entropy` of `sparse_dense`, for a shared set, in one piece.

    loss_b = logsumexp_a(z_ba) − mean_{labels l of b} z_bl with z_ba = w_a · h_b + bias_a, less
    log_inclusion. The logits are visited once: loss, gradient and best place come out of the same
    pass, and nothing else of size B·A is made. Differentiable in hidden, weights and bias.

    Args:
      hidden: float32 [B, d].
      weights: float32 [A, d], the active rows.
      bias: float32 [A].
      label_rows: int32 [P], the example of each label entry, ascending.
      positions: int32 [P], its place in the active set; −1 is padding.
      mask: bool [A] or None: the places that hold a row.
      log_inclusion: float32 [A] or None, subtracted from the logits (see `active`).

    Returns:
      Losses, float32 [B], 0 for an example without a label in the set; and the place of the largest
      logit of each, int32 [B].

    Raises:
      ValueError: if the shapes don't fit together.

    Example:
      >>> rows, positions = jnp.array([0], jnp.int32), jnp.array([1], jnp.int32)
      >>> weights, bias = jnp.zeros((4, 2)), jnp.array([0.0, 0.0, 0.0, 0.1])
      >>> loss, best = softmax_head(jnp.ones((1, 2)), weights, bias, rows, positions)
      >>> round(float(loss[0]), 3), int(best[0])
      (1.412, 3)
    """
    if weights.shape != (*bias.shape, hidden.shape[-1]) or hidden.ndim != 2 or bias.ndim != 1:
        raise ValueError(
            f"weights {weights.shape}, bias {bias.shape} and hidden {hidden.shape} don't fit: "
            "must be [A, d], [A], [B, d]"
        )
    for name, given in (("mask", mask), ("log_inclusion", log_inclusion)):
        if given is not None and given.shape != bias.shape:
            raise ValueError(f"{name} has shape {given.shape}: must be {bias.shape}, as bias")
    if log_inclusion is not None:
        bias = bias - log_inclusion
    if mask is not None:
        bias = jnp.where(mask, bias, -jnp.inf)
    return _softmax.head(hidden, weights, bias, label_rows, positions)


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
    return grad @ rows, jax.lax.optimization_barrier(_transpose(x) @ grad).T


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
    return jax.lax.dot_general(grad, rows, (((1,), (1,)), ((), ()))), _transpose(x) @ grad


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


def _transpose(x: jax.Array) -> jax.Array:
    """x.T, laid out: fused into a product, XLA:CPU's order of summation follows the threads."""
    return jax.lax.optimization_barrier(x.T)
