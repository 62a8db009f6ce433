"""Optax on the rows a step touches: ``rowwise(tx)``.

For each :class:`~sparse_jax.rows.RowSparse` gradient it gathers
the touched rows of every optimizer slot, runs the given transformation on those slices, and
scatters the new slot rows back in place. No step costs O(num_rows * d).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparse_jax.optim.probe import _check_state, _probe, _refuse
from sparse_jax.optim.slices import (
    _along_rows,
    _check_grads,
    _has_rows,
    _init_float32,
    _is_masked,
    _optax_promotion,
    _row_update,
    _slots,
    _tree_map,
    _with_slots,
)
from sparse_jax.rows import RowSparse, add_rows, set_rows, take_rows

__all__ = ["ElapsedState", "apply_scaled", "apply_updates", "rowwise"]

Decay = Literal["touched", "elapsed"]
_DECAYS = ("touched", "elapsed")


class ElapsedState(NamedTuple):
    """State of ``rowwise(tx, decay="elapsed")``.

    Attributes:
      inner_state: the state of ``tx``, slots of full shape.
      step: int32 ``[]``, number of updates so far.
      last: for each parameter ``[N, ...]`` an int32 ``[N]``: the step that touched the row last,
        0 for never; None for scalars.
    """

    inner_state: Any
    step: jax.Array
    last: Any


# decay="elapsed" --------------------------------------------------------------------------------


def _tiny(x: Any) -> Any:
    """Zeros of the rank and dtype of ``x``, with two rows of one element."""
    shape = (2,) + (1,) * (len(x.shape) - 1) if x.shape else ()
    return jnp.zeros(shape, x.dtype)


def _decay_factors(
    tx: optax.GradientTransformationExtraArgs,
    grads: Any,
    state: Any,
    params: Any,
    extra_args: dict[str, Any],
) -> list[Any]:
    """For each slot a tree of scalars ``c`` with ``slot -> c * slot`` at zero gradient.

    ``tx`` runs on two elements a parameter with zero gradients and parameters, one slot at a time
    holding 1 and 2, the others 0. What doesn't scale in proportion by a factor of [0, 1] gets
    ``c = 1``: no catch-up. None marks leaves that aren't row-sparse or aren't floats.
    """

    def decays(g: Any, x: Any) -> bool:
        return _has_rows(g, x) and bool(jnp.issubdtype(x.dtype, jnp.floating))

    def one_two(g: Any, x: Any) -> Any:
        if not decays(g, x):
            return x
        return _along_rows(jnp.arange(1, 3, dtype=jnp.int32).astype(x.dtype), x)

    def factor(g: Any, x: Any) -> Any:
        if not decays(g, x):
            return None
        at_one, at_two = x.astype(jnp.float32).reshape(2)
        # A NaN compares false and ends in "no catch-up".
        linear = jnp.abs(at_two - at_one - at_one) <= jnp.float32(1e-6)
        return jnp.where(linear & (at_one >= 0) & (at_one <= 1), at_one, jnp.ones_like(at_one))

    tiny_slots = [jax.tree.map(_tiny, slot) for slot in _slots(tx, state)]
    tiny_grads = _tree_map(lambda g: g if g is None or _is_masked(g) else _tiny(g), grads)
    tiny_params = None if params is None else jax.tree.map(_tiny, params)
    factors = []
    for k, slot in enumerate(tiny_slots):
        probe = [*tiny_slots[:k], _tree_map(one_two, grads, slot), *tiny_slots[k + 1 :]]
        with _optax_promotion():
            _, new = tx.update(tiny_grads, _with_slots(tx, state, probe), tiny_params, **extra_args)
        factors.append(_tree_map(factor, grads, _slots(tx, new)[k]))
    return factors


def _catch_up(grads: Any, slot: Any, factors: Any, missed: Any) -> Any:
    """Touched rows of a slot, decayed for the steps since their last touch."""

    def take(g: Any, x: Any, c: Any, steps: Any) -> Any:
        if not _has_rows(g, x):
            return x
        rows = take_rows(x, g.ids).astype(x.dtype)
        return rows if c is None else rows * _along_rows(jnp.power(c, steps), x).astype(x.dtype)

    return _tree_map(take, grads, slot, factors, missed)


def _elapsed_update(
    tx: optax.GradientTransformationExtraArgs,
    grads: Any,
    state: ElapsedState,
    params: Any,
    extra_args: dict[str, Any],
) -> tuple[Any, ElapsedState]:
    step = state.step + jnp.ones_like(state.step)

    def missed(g: Any, last: Any) -> Any:
        if not isinstance(g, RowSparse):
            return None
        return (state.step - take_rows(last, g.ids)).astype(jnp.float32)

    def touch(g: Any, last: Any) -> Any:
        if isinstance(g, RowSparse):
            return set_rows(last, g.ids, jnp.broadcast_to(step, g.ids.shape))
        if g is None or last is None or _is_masked(g):
            return last
        return jnp.broadcast_to(step, last.shape)

    steps = _tree_map(missed, grads, state.last)
    factors = _decay_factors(tx, grads, state.inner_state, params, extra_args)
    slots = [
        _catch_up(grads, slot, c, steps)
        for slot, c in zip(_slots(tx, state.inner_state), factors, strict=True)
    ]
    updates, inner = _row_update(tx, grads, state.inner_state, params, extra_args, slots)
    return updates, ElapsedState(inner, step, _tree_map(touch, grads, state.last))


def rowwise(
    tx: optax.GradientTransformation, *, decay: Decay = "touched"
) -> optax.GradientTransformationExtraArgs:
    """Turns an elementwise Optax transformation into one that updates touched rows only.

    For a parameter ``[N, d]`` with a :class:`~sparse_jax.rows.RowSparse` gradient of ``n`` ids,
    ``update`` gathers those rows of the parameter and of each slot, runs ``tx`` on arrays
    ``[n, d]``, scatters the slot rows back and returns a RowSparse update of them: work
    O(n d), whatever N, in place if the state is donated. Dense, None and masked leaves go
    through ``tx`` as ever, in the same call, so that norms see all of them. Whole chains go
    inside: a transformation outside ``rowwise`` would map over the ids.

    Semantics of rows that a step doesn't touch:

    * ``decay="touched"``: nothing happens to them. Moments and momentum count touches, not
      steps, while schedules and bias corrections count steps; weight decay acts at a touch. So
      do TensorFlow's LazyAdam and PyTorch's SparseAdam. The state is the state of ``tx``.
    * ``decay="elapsed"``: at a touch, each slot first decays for the steps missed,
      ``s <- c^missed s``, with ``c`` found by running ``tx`` at zero gradient (with the
      hyperparameters of the current step). Adam's ``m`` and ``v``, momentum traces, RMSProp's
      ``nu`` then equal the dense optimizer's at each touch. Slots that don't decay in proportion
      are left alone, and each slot decays on its own: where one feeds another (AdaBelief,
      momentum behind RMSProp), that flow during missed steps is left out. Parameters never move
      while untouched: dense Adam would go on moving them by their momentum. The state is an
      :class:`ElapsedState`; ``last`` takes 4 bytes a row.

    ``init`` refuses transformations whose rows are not independent: by the types in their state,
    by slots not shaped like their parameter, and by trying the rest on tables of five rows (once
    a tree structure; skipped if ``tx`` closes over traced values, which can't be looked at).
    Slots of a bfloat16 parameter are float32; apply its updates with :func:`apply_updates`.
    Every parameter given to ``init`` counts as a possible table. Keep others outside with
    ``optax.partition``, its labels given as a tree, since a function would see inside RowSparse.

    Args:
      tx: any transformation that treats elements alike and rows apart, or scales them by a norm
        over the whole gradient.
      decay: ``"touched"`` or ``"elapsed"``.

    Returns:
      An ``optax.GradientTransformationExtraArgs``.

    Raises:
      TypeError: if ``tx`` is no transformation, or (in ``update``) ids are not int32.
      ValueError: if ``decay`` is unknown; in ``init``, if ``tx`` can't run on row slices; in
        ``update``, if a RowSparse doesn't fit its parameter.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparse_jax.rows import RowSparse
      >>> params = {"table": jnp.ones((1000, 2)), "bias": jnp.zeros(2)}
      >>> tx = rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)))
      >>> state = tx.init(params)
      >>> rows = RowSparse(jnp.asarray([7, -1], jnp.int32), jnp.ones((2, 2)), num_rows=1000)
      >>> updates, state = tx.update({"table": rows, "bias": jnp.ones(2)}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> [round(float(params["table"][i, 0]), 3) for i in (6, 7, 999)]
      [1.0, 0.9, 1.0]

    References:
      Kingma and Ba, "Adam", 2015, section 2; LazyAdamOptimizer of TensorFlow and
      torch.optim.SparseAdam of PyTorch (``"touched"``); Carpenter, "Lazy Sparse Stochastic
      Gradient Descent for Regularized Multinomial Logistic Regression", 2008 (catching up at a
      touch).
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"tx must be an optax.GradientTransformation, got {type(tx).__name__}.")
    if decay not in _DECAYS:
        raise ValueError(f"decay must be one of {_DECAYS}, got {decay!r}.")
    inner = optax.with_extra_args_support(tx)
    verdicts: dict[Any, str | None] = {}

    def check(params: Any, state: Any) -> None:
        leaves, treedef = jax.tree.flatten(params)
        if not leaves:  # the placeholder of optax.tree_utils.tree_map_params
            return
        _check_state(inner, params, state)
        key = treedef, tuple((len(p.shape), jnp.dtype(p.dtype)) for p in leaves)
        if key not in verdicts:
            with jax.ensure_compile_time_eval(), jax.debug_nans(False):
                verdicts[key] = _probe(inner, params)
        verdict = verdicts[key]
        if verdict is not None:
            raise _refuse(verdict)

    def init(params: Any) -> Any:
        with _optax_promotion():
            state = inner.init(params)
        check(params, state)
        if decay == "touched":
            return state
        last = jax.tree.map(
            lambda p: jnp.zeros(p.shape[:1], jnp.int32) if len(p.shape) else None, params
        )
        return ElapsedState(state, jnp.zeros((), jnp.int32), last)

    def update(grads: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        _check_grads(grads, params)
        grads = _tree_map(lambda g: g.merged() if isinstance(g, RowSparse) else g, grads)
        run = _row_update if decay == "touched" else _elapsed_update
        return run(inner, grads, state, params, extra_args)

    return optax.GradientTransformationExtraArgs(partial(_init_float32, init), update)


def apply_updates(params: Any, updates: Any, key: jax.Array) -> Any:
    """`optax.apply_updates` for tables stored in bfloat16: sums in float32, rounded at random.

    Rounded to the nearest, steps below 2^-9 of a weight would be lost. Whatever isn't a `RowSparse`
    for a bfloat16 table is added as Optax does it.

    Args:
      params: a pytree of tables and arrays.
      updates: the same with `RowSparse` where only rows move, and None where nothing does.
      key: PRNG key, another one for each step.

    Returns:
      The new parameters, of the dtypes they had.

    Example:
      >>> params = {"table": jnp.ones((1000, 512), jnp.bfloat16)}
      >>> rows = RowSparse(jnp.asarray([7], jnp.int32), jnp.full((1, 512), 2**-12), num_rows=1000)
      >>> for turn in range(256):
      ...     params = apply_updates(params, {"table": rows}, jax.random.key(turn))
      >>> [round(float(take_rows(params["table"], rows.ids + i).mean()), 2) for i in (0, 1)]
      [1.06, 1.0]
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    seeds = jax.random.bits(key, (len(leaves),), jnp.uint32)

    def add(p: Any, u: Any, seed: jax.Array) -> Any:
        if u is None:
            return p
        if isinstance(u, RowSparse) and p.dtype == jnp.bfloat16:
            u = u.merged()
            return add_rows(p, u.ids, u.rows, seed=seed)
        return optax.apply_updates(p, u)

    moved = zip(leaves, treedef.flatten_up_to(updates), seeds, strict=True)
    return treedef.unflatten([add(*each) for each in moved])


def apply_scaled(params: Any, updates: Any, scale: jax.Array) -> Any:
    """params + scale · updates: `optax.apply_updates` for a rate that only the step knows.

    Args:
      params: a pytree of tables and arrays.
      updates: the same with `RowSparse` where only rows move, as `rowwise(tx).update` gives them.
      scale: float32 [], minus the learning rate.

    Example:
      >>> apply_scaled({"w": jnp.ones(2)}, {"w": jnp.ones(2)}, jnp.float32(-0.5))["w"].tolist()
      [0.5, 0.5]
    """
    return jax.tree.map(lambda p, u: p + u * scale, params, updates)
