"""A moving average of weights, by rows: a step costs the rows that it touches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.rows import RowSparse, add_rows, set_rows, take_rows


class EmaState(NamedTuple):
    """An average as of each row's last touch; `ema_read` brings all of it to the present."""

    average: Any  # like the parameters
    last: Any  # int32 [N] for each table: the step that touched a row last; [] for scalars
    step: jax.Array  # int32 []


def ema_init(params: Any) -> EmaState:
    """The average of no step: the parameters themselves.

    Args:
      params: a pytree of tables [N, ...] and scalars.
    """
    last = jax.tree.map(lambda p: jnp.zeros(p.shape[:1], jnp.int32), params)
    return EmaState(jax.tree.map(jnp.copy, params), last, jnp.zeros((), jnp.int32))


def ema_update(state: EmaState, params: Any, updates: Any, *, decay: float) -> EmaState:
    """The average after one more step: average ← decay · average + (1 − decay) · new weights.

    A row that no step touches keeps its weights p, so that k steps bring its average a to
    p + decay^k (a − p): this is made up for at its next touch, and nothing is ever lost.

    Args:
      state: of `ema_init`; donate it.
      params: before the updates are applied.
      updates: arrays, and `RowSparse` where only rows move.
      decay: from 0 to 1, such as 0.999.

    Returns:
      The new state, in work of O(rows touched).

    Raises:
      ValueError: if decay is not in [0, 1].

    Example:
      >>> params = {"table": jnp.zeros((1000, 2))}
      >>> state = ema_init(params)
      >>> rows = RowSparse(jnp.asarray([7], jnp.int32), jnp.ones((1, 2)), num_rows=1000)
      >>> state = ema_update(state, params, {"table": rows}, decay=0.5)
      >>> params = {"table": params["table"] + rows}
      >>> ema_read(state, params, decay=0.5)["table"][7].tolist()
      [0.5, 0.5]
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay = {decay}: must be from 0 to 1")
    step = state.step + 1
    rate = jnp.float32(decay)

    def one(average: jax.Array, last: jax.Array, p: jax.Array, u: Any) -> Any:
        if not isinstance(u, RowSparse):
            kept = _present(average, p, last, state.step, rate)
            new = p + u.astype(p.dtype)
            return _toward(new, kept, rate), jnp.broadcast_to(step, last.shape)
        u = u.merged()
        before = take_rows(p, u.ids)
        since = take_rows(last, u.ids)
        kept = _present(take_rows(average, u.ids), before, since, state.step, rate)
        new = before + u.rows.astype(before.dtype)
        average = set_rows(average, u.ids, _toward(new, kept, rate))
        # A sum, not a write: it waits for what was read, where XLA would copy all of `last`.
        return average, add_rows(last, u.ids, step - since)

    treedef: Any
    leaves, treedef = jax.tree.flatten(state.average)
    lasts, given, moves = (treedef.flatten_up_to(t) for t in (state.last, params, updates))
    pairs = [one(*each) for each in zip(leaves, lasts, given, moves, strict=True)]
    average, last = (treedef.unflatten(list(part)) for part in zip(*pairs, strict=True))
    return EmaState(average, last, step)


def ema_read(state: EmaState, params: Any, *, decay: float) -> Any:
    """The average of all rows as of now: for evaluation, since it takes O(all rows).

    Args:
      state: of `ema_update`.
      params: the weights now.
      decay: as it was given to `ema_update`.
    """
    rate = jnp.float32(decay)
    return jax.tree.map(
        lambda average, last, p: _present(average, p, last, state.step, rate),
        state.average,
        state.last,
        params,
    )


def _present(
    average: jax.Array, p: jax.Array, last: jax.Array, step: jax.Array, decay: jax.Array
) -> jax.Array:
    """The average of rows whose weights have been p since their last touch."""
    missed = jnp.power(decay, (step - last).astype(jnp.float32))
    return _toward(p, average, missed.reshape(last.shape + (1,) * (average.ndim - last.ndim)))


def _toward(new: jax.Array, average: jax.Array, decay: jax.Array) -> jax.Array:
    """new + decay · (average − new), in the dtype of the average."""
    wide = new.astype(jnp.float32)
    moved = wide + decay * (average.astype(jnp.float32) - wide)
    return moved.astype(average.dtype)
