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

from sparse_jax.ops.fixed_order import add_bias, matmul_columns, matmul_rows
from sparse_jax.rows import draw_rows, take_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseActivation:
    """The output of a `sparse_dense` hidden layer: values of the active units, the rest zero."""

    ids: jax.Array  # int32 [A] shared, or [B, A]; -1 = padding, whose values are zero
    values: jax.Array  # float32 [B, A]
    num_units: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense vectors that it stands for: (B, num_units)."""
        return (self.values.shape[0], self.num_units)


def sparse_dense_init(
    key: jax.Array, in_dim: int, num_units: int, *, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    """Weights [num_units, in_dim], uniform in ±1/sqrt(in_dim), and zero bias [num_units].

    A unit is a row, so that its weights lie together. They have the dtype given, the bias float32.

    Args:
      key: PRNG key.
      in_dim: d, width of the input.
      num_units: N.
      dtype: of the weights: jnp.float32 or jnp.bfloat16.

    Returns:
      {"weights": [N, d], "bias": float32 [N]}.

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


def sparse_dense(weights: jax.Array, bias: jax.Array, x: jax.Array | SparseActivation) -> jax.Array:
    """The outputs of some units: y_ba = w_a · x_b + bias_a.

    Args:
      weights: float32 [A, d], rows shared by the batch, or [B, A, d], rows of each example.
      bias: float32 [A] or [B, A].
      x: float32 [B, d]; or the units of a sparse layer below, of d units, of which the active ones
        are multiplied and no others.

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
    if isinstance(x, SparseActivation):
        weights, x = at_units(weights, x), x.values
    if weights.ndim == 3:
        y = jnp.einsum("bad,bd->ba", weights, x)
        return y + bias if bias.ndim == 2 else add_bias(y, bias)
    return add_bias(matmul_rows(x, weights), bias)


def at_units(weights: jax.Array, x: SparseActivation) -> jax.Array:
    """The columns of weights that a sparse activation meets.

    Args:
      weights: float32 [A, d] or [B, A, d].
      x: of d units, C of them active.

    Returns:
      float32 [A, C], or [B, A, C] if weights or units are of each example; zero at padding.

    Example:
      >>> x = SparseActivation(jnp.array([2, -1], jnp.int32), jnp.ones((1, 2)), num_units=3)
      >>> at_units(jnp.array([[1.0, 2.0, 3.0]]), x).tolist()
      [[3.0, 0.0]]
    """
    if weights.ndim == 3 and x.ids.ndim == 2:
        at = jnp.where(x.ids < 0, x.num_units, x.ids)[:, None, :]
        return jnp.take_along_axis(weights, at, axis=2, mode="fill", fill_value=0)
    # By rows of the transposed weights, whose gradient takes half as long as that of columns.
    columns = take_rows(jnp.moveaxis(weights, -1, 0), x.ids.reshape(-1))
    columns = columns.reshape(*x.ids.shape, *weights.shape[:-1])
    return jnp.moveaxis(columns, x.ids.ndim - 1, -1)


def sparse_hidden(
    weights: jax.Array,
    bias: jax.Array,
    x: jax.Array | SparseActivation,
    ids: jax.Array,
    *,
    num_units: int,
) -> SparseActivation:
    """A hidden layer of which only some units are computed: ReLU of `sparse_dense`.

    Args:
      weights: float32 [A, d] or [B, A, d], the rows of the active units.
      bias: float32 [A] or [B, A].
      x: float32 [B, d], or what a sparse_hidden of d units returned.
      ids: int32 [A] or [B, A], the active units; −1 is padding.
      num_units: units of the whole layer.

    Returns:
      A `SparseActivation`, which another sparse_hidden, sparse_dense and `read_sparse` take.

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


def normalize(x: jax.Array) -> jax.Array:
    """Each row over its root mean square (Zhang and Sennrich 2019), without a learned gain."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + jnp.float32(1e-6))
