"""What `optim.rowwise` refuses, and how it finds out."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax.optim.slices import (
    _along_rows,
    _is_masked,
    _map_slots,
    _optax_promotion,
    _row_update,
    _slots,
    _tree_map,
    _with_slots,
)
from sparse_jax.rows import RowSparse, take_rows

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


@cache
def without_fusion_emitters() -> dict[str, Any]:
    """XLA's options without its emitters of fusions, which take as long as all the rest.

    Empty where this XLA doesn't know them.
    """
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


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
            lambda g: (
                RowSparse(ids, take_rows(g, ids), _PROBE_ROWS, distinct=True) if g.ndim else g
            ),
            grads,
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
    # Tiny arrays, three calls: most of the time would go into compiling.
    quick = {"xla_backend_optimization_level": 0} | without_fusion_emitters()
    step = jax.jit(step, compiler_options=quick)
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
