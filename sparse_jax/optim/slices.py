"""One update of an Optax transformation on the rows that a gradient touches; for `optim`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparse_jax.rows import RowSparse, check_ids, set_rows, take_rows


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _is_leaf(x: Any) -> bool:
    """Leaves of a gradient tree: None and masked leaves hold their place."""
    return x is None or _is_masked(x) or isinstance(x, RowSparse)


def _tree_map(f: Callable[..., Any], grads: Any, *rest: Any) -> Any:
    """``jax.tree.map`` over a gradient tree, with whatever ``rest`` has at its leaves."""
    return jax.tree.map(f, grads, *rest, is_leaf=_is_leaf)


def _optax_promotion() -> contextlib.AbstractContextManager[None]:
    """Optax mixes ints and floats (``b1 ** count``), which strict dtype promotion forbids."""
    return jax.numpy_dtype_promotion("standard")


def _map_slots(tx: Any, f: Callable[[Any], Any], state: Any) -> Any:
    """Applies ``f`` to each slot: a whole tree like the parameters inside ``state``."""
    with _optax_promotion():
        return optax.tree_utils.tree_map_params(tx, f, state, is_leaf=lambda _: True)


def _slots(tx: Any, state: Any) -> list[Any]:
    found: list[Any] = []
    _map_slots(tx, found.append, state)
    return found


def _with_slots(tx: Any, state: Any, slots: list[Any]) -> Any:
    """``state`` with its slots replaced, in the order of :func:`_slots`."""
    remaining = iter(slots)
    return _map_slots(tx, lambda _: next(remaining), state)


def _has_rows(g: Any, x: Any) -> bool:
    """Whether ``x``, in a tree like the parameters, is a table of which ``g`` touches rows."""
    return isinstance(g, RowSparse) and not _is_masked(x)


def _gather(grads: Any, tree: Any) -> Any:
    """Touched rows of a tree like the parameters; dense leaves as they are."""

    def take(g: Any, x: Any) -> Any:
        return take_rows(x, g.ids).astype(x.dtype) if _has_rows(g, x) else x

    return _tree_map(take, grads, tree)


def _widen(params: Any) -> Any:
    """bfloat16 leaves as float32."""
    narrow = jnp.bfloat16
    return jax.tree.map(lambda p: p.astype(jnp.float32) if p.dtype == narrow else p, params)


def _scatter(grads: Any, old: Any, new: Any) -> Any:
    """Touched rows ``new`` written into ``old``; dense leaves taken from ``new``."""

    def put(g: Any, x: Any, rows: Any) -> Any:
        return set_rows(x, g.ids, rows) if _has_rows(g, x) else rows

    return _tree_map(put, grads, old, new)


def _init_float32(init: Callable[[Any], Any], params: Any) -> Any:
    """``init(params)`` with the slots of bfloat16 parameters in float32.

    A moment in bfloat16 would stand still: its steps are smaller than its rounding. Under ``jit``
    no float32 copy of a table is made.
    """
    if all(p.dtype != jnp.bfloat16 for p in jax.tree.leaves(params)):
        return init(params)
    return jax.jit(lambda params: init(_widen(params)))(params)


def _along_rows(x: jax.Array, like: jax.Array) -> jax.Array:
    """``[n]`` to ``[n, 1, ...]``, of the rank of ``like``."""
    return x.reshape((-1,) + (1,) * (like.ndim - 1))


def _row_grad(g: Any) -> Any:
    """The slice of a gradient, rows of padding zeroed so that norms and moments miss them."""
    if not isinstance(g, RowSparse):
        return g
    valid = _along_rows((g.ids >= 0) & (g.ids < g.num_rows), g.rows)
    return jnp.where(valid, g.rows, jnp.zeros_like(g.rows))


def _row_update(
    tx: optax.GradientTransformationExtraArgs,
    grads: Any,
    state: Any,
    params: Any,
    extra_args: dict[str, Any],
    slots: list[Any] | None = None,
) -> tuple[Any, Any]:
    """One update of ``tx`` on row slices; ``slots`` are the slot rows, if not those stored."""
    full = _slots(tx, state)
    sliced = [_gather(grads, slot) for slot in full] if slots is None else slots
    with _optax_promotion():
        updates, new_state = tx.update(
            _tree_map(_row_grad, grads),
            _with_slots(tx, state, sliced),
            None if params is None else _widen(_gather(grads, params)),
            **extra_args,
        )
    new = [_scatter(grads, a, b) for a, b in zip(full, _slots(tx, new_state), strict=True)]

    def wrap(g: Any, u: Any) -> Any:
        return g.map(lambda _: u) if isinstance(g, RowSparse) else u

    return _tree_map(wrap, grads, updates), _with_slots(tx, new_state, new)


def _check_grads(grads: Any, params: Any) -> None:
    for path, g in jax.tree_util.tree_leaves_with_path(
        grads, is_leaf=lambda x: isinstance(x, RowSparse)
    ):
        if isinstance(g, RowSparse):
            name = f"grads{jax.tree_util.keystr(path)}"
            check_ids(f"{name}.ids", g.ids)
            if g.rows.shape[:1] != g.ids.shape:
                raise ValueError(
                    f"{name}.rows must have one row an id, got {g.rows.shape[0]} rows for "
                    f"{g.ids.shape[0]} ids."
                )
    if params is None:
        return

    def check(g: Any, p: Any) -> None:
        if isinstance(g, RowSparse) and g.shape != tuple(p.shape):
            raise ValueError(
                f"a RowSparse gradient of shape {g.shape} belongs to a parameter of shape "
                f"{tuple(p.shape)}: give RowSparse the num_rows of that table."
            )

    _tree_map(check, grads, params)
