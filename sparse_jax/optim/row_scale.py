"""An optimizer that keeps a number a row: for tables too large for Adam's two a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparse_jax.optim.slices import _check_grads, _optax_promotion
from sparse_jax.rows import RowSparse, set_rows, take_rows

__all__ = ["RowScaleState", "row_scale"]


class RowScaleState(NamedTuple):
    """State of `row_scale`.

    Attributes:
      step: int32 [], updates so far.
      squares: for each parameter [N, ...] a float32 [N]: the moving mean, over the steps that
        touched a row, of its gradient's mean square; [] for scalars.
    """

    step: jax.Array
    squares: Any


def row_scale(
    learning_rate: float | Callable[[jax.Array], Any], *, decay: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """RMSProp with one scale a row, and Adam's correction for the number of steps.

    For the touched rows, with g a row of the gradient and t the number of updates so far::

        s <- decay s + (1 - decay) mean(g^2)
        update = -lr g / (sqrt(s / (1 - decay^t)) + eps)

    so 4 bytes a row where Adam keeps 8 a weight. Rows that a step doesn't touch keep their scale. A
    row that is first touched late has a scale far below its gradient's and takes a long first step,
    as long as 1 / sqrt(1 - decay) times the rate: rare rows learn from few touches. A dense
    gradient touches all rows; a row of a vector is one number.

    Args:
      learning_rate: a number, or a schedule of the number of updates.
      decay: of the scale, in [0, 1).
      eps: added to the root.

    Returns:
      A transformation of gradients whose leaves are `RowSparse` or arrays; tables may be float32
      or bfloat16. The updates of the latter are for `optim.apply_updates`.

    Raises:
      ValueError: if decay is not in [0, 1); from ``update``, if a RowSparse doesn't fit its
        parameter.

    Example:
      >>> params, tx = {"table": jnp.ones((1000, 2))}, row_scale(0.1)
      >>> state = tx.init(params)
      >>> rows = RowSparse(jnp.asarray([7, -1], jnp.int32), jnp.ones((2, 2)), num_rows=1000)
      >>> updates, state = tx.update({"table": rows}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> [round(float(params["table"][i, 0]), 3) for i in (6, 7, 999)]
      [1.0, 0.9, 1.0]

    References:
      Hinton, "Neural networks for machine learning", lecture 6e, 2012 (RMSProp); Kingma and Ba,
      "Adam", 2015, section 3 (the correction); Mudigere et al., "Software-Hardware Co-design for
      Fast and Scalable Training of Deep Learning Recommendation Models", 2022, section 4 (a scale a
      row, there of Adagrad).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay = {decay}: must be at least 0 and below 1")

    def init(params: Any) -> RowScaleState:
        squares = jax.tree.map(lambda p: jnp.zeros(p.shape[:1], jnp.float32), params)
        return RowScaleState(jnp.zeros((), jnp.int32), squares)

    def update(
        grads: Any, state: RowScaleState, params: Any = None, **_: Any
    ) -> tuple[Any, RowScaleState]:
        _check_grads(grads, params)
        count = optax.safe_increment(state.step)
        with _optax_promotion():  # for schedules
            rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(rate, jnp.float32)
        correction = 1 - jnp.float32(decay) ** count.astype(jnp.float32)

        def step(rows: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
            rows = rows.astype(jnp.float32)
            new = jnp.float32(decay) * old + jnp.float32(1 - decay) * _mean_squares(rows)
            length = -rate / (jnp.sqrt(new / correction) + jnp.float32(eps))
            return length.reshape(length.shape + (1,) * (rows.ndim - length.ndim)) * rows, new

        def move(grad: Any, squares: jax.Array) -> tuple[Any, jax.Array]:
            if not isinstance(grad, RowSparse):
                return step(grad, squares)
            grad = grad.merged()
            rows, new = step(grad.rows, take_rows(squares, grad.ids))
            return grad.map(lambda _: rows), set_rows(squares, grad.ids, new)

        treedef: Any
        leaves, treedef = jax.tree.flatten(grads, is_leaf=lambda x: isinstance(x, RowSparse))
        kept = treedef.flatten_up_to(state.squares)
        moved = [move(*each) for each in zip(leaves, kept, strict=True)]
        updates, squares = ([part[i] for part in moved] for i in (0, 1))
        return treedef.unflatten(updates), RowScaleState(count, treedef.unflatten(squares))

    return optax.GradientTransformationExtraArgs(init, update)


def _mean_squares(rows: jax.Array) -> jax.Array:
    """The mean square of each row of [n, ...]; [n], or [] of a scalar.

    A product with ones: sums that XLA:CPU splits by threads would depend on their number.
    """
    if rows.ndim < 2:
        return rows * rows
    flat = rows.reshape(rows.shape[0], -1)
    ones = jnp.full((flat.shape[1], 1), 1.0 / max(flat.shape[1], 1), jnp.float32)
    return ((flat * flat) @ ones)[:, 0]
