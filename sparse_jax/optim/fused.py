"""Optax optimizers written out for row-sparse gradients: one pass over the touched rows.

:func:`sparse_jax.optim.rowwise` runs any elementwise transformation on gathered slices; what is
here does the same for one of them, reading and writing the slots where they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparse_jax.ops.adam import adam_rows, adam_rows_added
from sparse_jax.optim.rowwise import apply_updates
from sparse_jax.optim.slices import _init_float32
from sparse_jax.rows import RowSparse

__all__ = ["adam"]


def adam(
    learning_rate: float | Callable[[jax.Array], Any],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """``rowwise(optax.adam(...))``, fused: equal but for rounding.

    For the touched rows, with g their gradient and t the number of updates so far::

        mu <- (1 - b1) g + b1 mu,   nu <- (1 - b2) g^2 + b2 nu
        update = -lr (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Rows that a step doesn't touch keep their moments (``decay="touched"``), which are float32. The
    state is that of ``optax.adam``, so one takes up what the other has left. The updates of tables
    in bfloat16 are for `optim.apply_updates`.

    Args:
      learning_rate: a number, or a schedule of the number of updates.
      b1: decay of the first moment.
      b2: decay of the second.
      eps: added to the root.
      eps_root: added under it.

    Returns:
      A transformation of gradients whose leaves are RowSparse or arrays.

    Raises:
      ValueError: from ``init``, if a parameter is neither float32 nor bfloat16.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparse_jax.rows import RowSparse
      >>> params, tx = {"table": jnp.ones((1000, 2))}, adam(0.1)
      >>> state = tx.init(params)
      >>> rows = RowSparse(jnp.asarray([7, -1], jnp.int32), jnp.ones((2, 2)), num_rows=1000)
      >>> updates, state = tx.update({"table": rows}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> [round(float(params["table"][i, 0]), 3) for i in (6, 7, 999)]
      [1.0, 0.9, 1.0]

    References:
      Kingma and Ba, "Adam", 2015, section 2, algorithm 1.
    """
    dense = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)

    def init(params: Any) -> Any:
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if leaf.dtype not in (jnp.float32, jnp.bfloat16):
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} has dtype {leaf.dtype}: must be float32 "
                    "or bfloat16; use optim.rowwise(optax.adam(...)) for others"
                )
        with jax.numpy_dtype_promotion("standard"):
            return _init_float32(dense.init, params)

    def scalars_of(count: jax.Array, rest: Any) -> jax.Array:
        steps = count.astype(jnp.float32)
        rate = learning_rate(rest.count) if callable(learning_rate) else learning_rate
        rests, corrections = (1 - b1, 1 - b2), (1 - b1**steps, 1 - b2**steps)
        given = (b1, b2, *rests, eps, eps_root, *corrections, -rate)
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in given])

    def run(move: Callable[..., Any], grads: Any, state: Any, *rest_of: Any) -> tuple[Any, Any]:
        """The trees that `move` returns of each parameter, but for its moments, and the state."""
        moments, rest = state
        count = optax.safe_increment(moments.count)
        with jax.numpy_dtype_promotion("standard"):
            scalars = scalars_of(count, rest)
        treedef: Any
        leaves, treedef = jax.tree.flatten(grads, is_leaf=lambda x: isinstance(x, RowSparse))
        slots = [treedef.flatten_up_to(slot) for slot in (moments.mu, moments.nu, *rest_of)]
        moved = [move(scalars, *each) for each in zip(leaves, *slots, strict=True)]
        parts = list(zip(*moved, strict=True)) or [()] * (3 + len(rest_of))
        *found, mu, nu = (treedef.unflatten(part) for part in parts)
        if callable(learning_rate):
            rest = rest._replace(count=optax.safe_increment(rest.count))
        return found, (moments._replace(count=count, mu=mu, nu=nu), rest)

    def update(grads: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        del params
        (updates,), state = run(_move, grads, state)
        return updates, state

    def step(grads: Any, state: Any, params: Any, key: jax.Array) -> tuple[Any, Any]:
        (params, updates), state = run(_move_added, grads, state, params)
        return apply_updates(params, updates, key), state

    tx = _Adam(init, update)
    tx.step = step
    return tx


class _Adam(optax.GradientTransformationExtraArgs):
    """A transformation that can also add its updates itself."""

    step: Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]]


def step(
    tx: optax.GradientTransformation, grads: Any, state: Any, params: Any, key: jax.Array
) -> tuple[Any, Any]:
    """(parameters, state) after an update: `tx.update` and `optim.apply_updates`.

    Of an `adam` of this module, rows of float32 tables are updated in one visit to each.

    Args:
      tx: any transformation that takes the gradients.
      grads: a pytree of `RowSparse` and arrays.
      state: of `tx`.
      params: of the same structure.
      key: PRNG key of `apply_updates`.

    Example:
      >>> params, tx = {"table": jnp.ones((1000, 2))}, adam(0.1)
      >>> grads = {"table": RowSparse(jnp.asarray([7], jnp.int32), jnp.ones((1, 2)), num_rows=1000)}
      >>> params, state = step(tx, grads, tx.init(params), params, jax.random.key(0))
      >>> [round(float(params["table"][i, 0]), 3) for i in (6, 7)]
      [1.0, 0.9]
    """
    if isinstance(tx, _Adam):
        return tx.step(grads, state, params, key)
    updates, state = tx.update(grads, state, params)
    return apply_updates(params, updates, key), state


def _move_added(
    scalars: jax.Array, grad: Any, mu: jax.Array, nu: jax.Array, param: jax.Array
) -> tuple[Any, Any, Any, Any]:
    """(parameter, what remains to be added, mu, nu)."""
    if not isinstance(grad, RowSparse) or param.dtype != jnp.float32:
        return param, *_move(scalars, grad, mu, nu)
    grad = grad.merged()
    mu, nu, param = adam_rows_added(mu, nu, param, grad.ids, grad.rows, scalars)
    return param, None, mu, nu


def _move(scalars: jax.Array, grad: Any, mu: jax.Array, nu: jax.Array) -> tuple[Any, Any, Any]:
    """(update, mu, nu) of one parameter."""
    if isinstance(grad, RowSparse):
        grad = grad.merged()
        mu, nu, rows = adam_rows(mu, nu, grad.ids, grad.rows, scalars)
        return grad.map(lambda _: rows), mu, nu
    ids = jnp.zeros(1, jnp.int32)
    shape = (1, *grad.shape)
    mu, nu, rows = adam_rows(
        mu.reshape(shape), nu.reshape(shape), ids, grad.reshape(shape), scalars
    )
    return rows.reshape(grad.shape), mu.reshape(grad.shape), nu.reshape(grad.shape)
