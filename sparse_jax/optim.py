"""Optax on the rows a step touches: ``rowwise(tx)``.

The only module that knows Optax. For each :class:`~sparse_jax.rows.RowSparse` gradient it gathers
the touched rows of every optimizer slot, runs the given transformation on those slices, and
scatters the new slot rows back in place. No step costs O(num_rows * d).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax.rows import RowSparse, _check_ids, set_rows, take_rows

__all__ = ["ElapsedState", "rowwise"]

Decay = Literal["touched", "elapsed"]
_DECAYS = ("touched", "elapsed")

# State types whose rows depend on each other or on a step's whole gradient, by their names: the
# ones Optax keeps private have no public path, and a name survives their moves between modules.
_REFUSED_STATES = {
    "MultiStepsState": "it accumulates gradients whose touched rows differ from step to step",
    "ApplyEvery": "it accumulates gradients whose touched rows differ from step to step",
    "FactoredState": "its second moment is factored over rows and columns",
    "ScaleBySM3State": "its accumulators are shared between rows and columns",
    "ScaleByNovogradState": "its second moment is one number for the whole table",
    "MuonState": "it orthogonalizes the whole table",
    "ProdigyState": "its learning rate is estimated from sums over all rows",
    "DAdaptAdamWState": "its learning rate is estimated from sums over all rows",
    "MechanicState": "its learning rate is estimated from sums over all rows",
    "MomoState": "its learning rate is estimated from sums over all rows",
    "MomoAdamState": "its learning rate is estimated from sums over all rows",
    "DoGState": "its learning rate is estimated from sums over all rows",
    "DoWGState": "its learning rate is estimated from sums over all rows",
    "ScaleByLBFGSState": "its inner products run over the whole table",
    "ScaleByBacktrackingLinesearchState": "it evaluates the loss at dense parameters",
    "ScaleByZoomLinesearchState": "it evaluates the loss at dense parameters",
}
_CURE = (
    "Use an elementwise transformation for the tables and keep this one for the dense parameters: "
    "optax.partition({'rows': rowwise(optax.adam(lr)), 'dense': tx}, labels)."
)


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
        return take_rows(x, g.ids) if _has_rows(g, x) else x

    return _tree_map(take, grads, tree)


def _scatter(grads: Any, old: Any, new: Any) -> Any:
    """Touched rows ``new`` written into ``old``; dense leaves taken from ``new``."""

    def put(g: Any, x: Any, rows: Any) -> Any:
        return set_rows(x, g.ids, rows) if _has_rows(g, x) else rows

    return _tree_map(put, grads, old, new)


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
            None if params is None else _gather(grads, params),
            **extra_args,
        )
    new = [_scatter(grads, a, b) for a, b in zip(full, _slots(tx, new_state), strict=True)]

    def wrap(g: Any, u: Any) -> Any:
        return RowSparse(g.ids, u, num_rows=g.num_rows) if isinstance(g, RowSparse) else u

    return _tree_map(wrap, grads, updates), _with_slots(tx, new_state, new)


def _check_grads(grads: Any, params: Any) -> None:
    for path, g in jax.tree_util.tree_leaves_with_path(
        grads, is_leaf=lambda x: isinstance(x, RowSparse)
    ):
        if isinstance(g, RowSparse):
            name = f"grads{jax.tree_util.keystr(path)}"
            _check_ids(f"{name}.ids", g.ids)
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
        rows = take_rows(x, g.ids)
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


# Refusals ---------------------------------------------------------------------------------------


def _refuse(why: str) -> ValueError:
    return ValueError(f"rowwise cannot run this transformation on row slices: {why}. {_CURE}")


def _check_state(tx: Any, params: Any, state: Any) -> None:
    """Refuses by the types in the state and by the shapes of its slots."""

    def visit(node: Any) -> bool:
        name = type(node).__name__
        if name in _REFUSED_STATES:
            raise _refuse(f"{name}: {_REFUSED_STATES[name]}")
        return False

    def check(p: Any, x: Any) -> None:
        if p is None or _is_masked(p) or _is_masked(x):
            return
        shape = getattr(x, "shape", None)
        if shape is None or tuple(shape) != tuple(p.shape):
            found = jax.tree.map(jnp.shape, x)
            raise _refuse(f"a parameter of shape {tuple(p.shape)} has a slot of shape {found}")

    jax.tree.leaves(state, is_leaf=visit)
    try:
        slots = _slots(tx, state)
    except Exception as error:
        raise _refuse(
            f"optax.tree_utils.tree_map_params cannot tell which parts of its state are slots "
            f"({type(error).__name__}: {error}). Label functions of optax.partition and "
            f"optax.masked are a common cause: give them trees"
        ) from error
    for slot in slots:
        try:
            _tree_map(check, params, slot)
        except (TypeError, KeyError) as error:
            raise _refuse("a slot's tree differs from that of the parameters") from error


# Touched rows of the three probe steps over tables of 5 rows; 5 is padding.
_PROBE_ROWS = 5
_PROBE_IDS = ((0, 4, 5, 2), (1, 5, 4, 5), (3, 0, 4, 1))


def _differs(a: Any, b: Any) -> bool:
    """Whether two trees differ by more than rounding."""
    structures: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    if structures[0] != structures[1]:
        return True
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.shape(x) != jnp.shape(y):
            return True
        if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended):
            continue  # PRNG keys
        tol = 1e-5 if jnp.result_type(x).itemsize >= 4 else 5e-2
        x, y = np.asarray(x).astype(np.float64), np.asarray(y).astype(np.float64)
        if not np.allclose(x, y, rtol=tol, atol=tol, equal_nan=True):
            return True
    return False


def _probe(tx: optax.GradientTransformationExtraArgs, params: Any) -> str | None:
    """Holds ``tx`` on row slices of tiny tables against ``tx`` on the whole tables.

    Two dense runs, with gradients that are zero outside the touched rows. In the first, the slots
    of untouched rows are at their initial values during an update and unchanged by it, which is
    the lazy semantics: updates and slots must agree. The second is the dense transformation as it
    is: what rows share must agree, such as counts and hyperparameters. (An estimate that
    sums over all rows doesn't.)

    Returns:
      What differs, or None, also if ``tx`` closes over traced values, which can't be looked at.
    """
    rng = np.random.default_rng(0)

    def draw(p: Any) -> Any:
        # Ranks are kept (masks look at them), dtypes too.
        shape = (_PROBE_ROWS, *(7,) * (len(p.shape) - 1)) if len(p.shape) else ()
        values = np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))
        return jnp.asarray(values.astype(np.float32)).astype(p.dtype)

    def where(hit: jax.Array, x: Any, y: Any) -> Any:
        """Rows of ``x`` where hit, of ``y`` elsewhere. Scalars are always hit."""
        return jax.tree.map(
            lambda a, b: jnp.where(_along_rows(hit, a), a, b) if a.ndim else a, x, y
        )

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        with _optax_promotion():
            return tx.update(grads, state, params, **extra)

    def step(ids: jax.Array, grads: Any, params: Any, lazy: Any, dense: Any, rows: Any) -> Any:
        hit = jnp.zeros((_PROBE_ROWS,), bool).at[ids].set(True, mode="drop")
        ids = jnp.where(ids < _PROBE_ROWS, ids, -1)
        zeros = jax.tree.map(jnp.zeros_like, grads)
        grads = where(hit, grads, zeros)
        old = _slots(tx, lazy)
        start = _with_slots(tx, lazy, list(map(partial(where, hit), old, initial)))
        dense_params, dense = dense
        try:
            lazy_updates, lazy = run(params, start, grads)
            dense_updates, dense = run(dense_params, dense, grads)
        except Exception as error:
            raise _refuse(
                f"it could not be tried on a small table ({type(error).__name__}: {error}); if it "
                f"needs extra arguments, give them default values"
            ) from error
        lazy = _with_slots(tx, lazy, list(map(partial(where, hit), _slots(tx, lazy), old)))
        lazy_updates = where(hit, lazy_updates, zeros)
        sparse = jax.tree.map(
            lambda g: RowSparse(ids, take_rows(g, ids), _PROBE_ROWS) if g.ndim else g, grads
        )
        try:
            updates, rows = _row_update(tx, sparse, rows, params, extra)
        except Exception as error:
            raise _refuse(f"on row slices it raises {type(error).__name__}: {error}") from error
        updates = _tree_map(lambda u: u.to_dense() if isinstance(u, RowSparse) else u, updates)
        params = optax.apply_updates(params, lazy_updates)
        dense_params = optax.apply_updates(dense_params, dense_updates)
        return (updates, lazy_updates), params, lazy, (dense_params, dense), rows

    params = jax.tree.map(draw, params)
    with _optax_promotion():
        lazy = rows = tx.init(params)
    dense = params, lazy
    initial = _slots(tx, lazy)
    extra: dict[str, Any] = {}
    try:
        closed_over = jax.make_jaxpr(run)(params, lazy, params).consts
    except Exception:
        # Reduce-on-plateau and its like need the loss. If that isn't it, step() will tell.
        extra, closed_over = {"value": jnp.float32(1)}, []
    if any(isinstance(x, jax.core.Tracer) for x in closed_over):
        return None
    # Tiny arrays, three calls: most of the time would go into LLVM.
    step = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})
    for touched in _PROBE_IDS:
        ids = jnp.asarray(np.asarray(touched, np.int32))
        grads = jax.tree.map(draw, params)
        updates, params, lazy, dense, rows = step(ids, grads, params, lazy, dense, rows)
        if _differs(*updates):
            return "the update of a row depends on other rows or on the number of rows"
        if _differs(_slots(tx, rows), _slots(tx, lazy)):
            return "the slots of a row depend on other rows or on the number of rows"
    rows, dense = (_map_slots(tx, lambda _: None, state) for state in (rows, dense[1]))
    if _differs(rows, dense):
        return "the state that its rows share sums over all of them, touched or not"
    return None


# ------------------------------------------------------------------------------------------------


def rowwise(
    tx: optax.GradientTransformation, *, decay: Decay = "touched"
) -> optax.GradientTransformationExtraArgs:
    """Turns an elementwise Optax transformation into one that updates touched rows only.

    For a parameter ``[N, d]`` with a :class:`~sparse_jax.rows.RowSparse` gradient of ``n`` ids,
    ``update`` gathers those rows of the parameter and of each slot, runs ``tx`` on arrays
    ``[n, d]``, scatters the slot rows back and returns a RowSparse update with the same ids: work
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
        run = _row_update if decay == "touched" else _elapsed_update
        return run(inner, grads, state, params, extra_args)

    return optax.GradientTransformationExtraArgs(init, update)
