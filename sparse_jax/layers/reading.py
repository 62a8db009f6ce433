"""Rows of a table read within a loss, in a way that `layers.value_and_grad` finds again.

`look_up` is an operation of its own in the traced program: `vmap` merges into its ids, and a plain
gradient, which would be as large as the table, meets a refusal instead of a scatter over N rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from sparse_jax.rows import take_rows

LOOK_UP = core.Primitive("sparse_jax_look_up")

_REFUSAL = """\
a gradient with respect to a table of shape {shape}, read by look_up, would be an array of that \
shape: must be taken by rows, as a RowSparse. In a jitted step whose arguments are donated:
    tx = sparse_jax.rowwise(optax.adam(1e-3)); state = tx.init(params)
    value, grads = sparse_jax.layers.value_and_grad(loss)(params, batch)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
and in flax.nnx:
    optimizer = nnx.Optimizer(model, sparse_jax.rowwise(optax.adam(1e-3)), wrt=nnx.Param)
    value, grads = sparse_jax.nn.value_and_grad(loss)(model, batch)
    optimizer.update(model, grads)
If you do so: the table must be a leaf of the parameters as it is (cast or scale the rows instead) \
and be read outside lax.cond, lax.while_loop and custom derivatives. See docs/your-own-step.md."""


def look_up(table: jax.Array, ids: jax.Array, *, distinct: bool = False) -> jax.Array:
    """Rows of a table, whose gradient `layers.value_and_grad` gives as a `RowSparse` of them.

    Without a gradient it is `take_rows` for ids of any shape. Under `vmap`, `scan`, `remat` and
    `jit` within the loss it stays what it is.

    Args:
      table: array [N, ...]; for a gradient, a leaf of the parameters.
      ids: int32 [...]; -1 is padding, which gives zeros and has no gradient.
      distinct: a promise that no id but padding comes twice, which saves a look at them in the
        optimizer; that of `ActiveSet.ids` holds.

    Returns:
      [..., ...], of the table's dtype, but float32 of a bfloat16 table.

    Raises:
      TypeError: if ids are not int32, or where a plain gradient of the table is taken.

    Example:
      >>> look_up(jnp.asarray([[1.0], [2.0]]), jnp.asarray([[1, -1]], jnp.int32)).tolist()
      [[[2.0], [0.0]]]
    """
    if getattr(ids, "dtype", None) != jnp.int32:
        given = getattr(ids, "dtype", type(ids).__name__)
        raise TypeError(f"ids = {given}: must be an int32 array; cast it knowingly")
    found: jax.Array = LOOK_UP.bind(jnp.asarray(table), jnp.asarray(ids), distinct=bool(distinct))
    return found


def rows_of(table: jax.Array, ids: jax.Array) -> jax.Array:
    """What `look_up` gives, in operations that JAX knows."""
    rows = take_rows(table, ids.reshape(-1))
    return rows.reshape(*ids.shape, *table.shape[1:])


def _abstract(table: Any, ids: Any, *, distinct: bool) -> Any:
    dtype = jnp.float32 if table.dtype == jnp.bfloat16 else table.dtype
    return jax.core.ShapedArray((*ids.shape, *table.shape[1:]), dtype)


def _batched(args: Any, axes: Any, *, distinct: bool) -> tuple[jax.Array, int]:
    """One look-up for all examples; of tables that differ, in their concatenation."""
    (table, ids), (of_table, of_ids) = args, axes
    if of_ids is not None:
        ids = jnp.moveaxis(ids, of_ids, 0)
    if of_table is None:
        return LOOK_UP.bind(table, ids, distinct=False), 0
    table = jnp.moveaxis(table, of_table, 0)
    count, num_rows = table.shape[:2]
    if count * num_rows >= 2**31:
        raise ValueError(
            f"{count} tables of {num_rows} rows under vmap: must have less than 2^31 rows in all; "
            "map over fewer at a time"
        )
    if of_ids is None:
        ids = jnp.broadcast_to(ids, (count, *ids.shape))
    first = jnp.arange(count, dtype=jnp.int32).reshape(-1, *(1,) * (ids.ndim - 1)) * num_rows
    ids = jnp.where((ids >= 0) & (ids < num_rows), ids + first, -1)
    table = table.reshape(count * num_rows, *table.shape[2:])
    return LOOK_UP.bind(table, ids, distinct=distinct), 0


def _refuse(primals: Any, tangents: Any, *, distinct: bool) -> Any:
    raise TypeError(_REFUSAL.format(shape=tuple(primals[0].shape)))


LOOK_UP.def_impl(lambda table, ids, *, distinct: rows_of(table, ids))
LOOK_UP.def_abstract_eval(_abstract)
mlir.register_lowering(
    LOOK_UP,
    mlir.lower_fun(lambda table, ids, *, distinct: rows_of(table, ids), multiple_results=False),
)
batching.primitive_batchers[LOOK_UP] = _batched
ad.primitive_jvps[LOOK_UP] = _refuse
