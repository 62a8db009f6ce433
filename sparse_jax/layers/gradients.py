"""Gradients by rows of a loss that reads its tables by `look_up`.

The loss is traced once. Its look-ups are found in the traced program, wherever they stand in `jit`,
`remat` and `scan`; when the program is run, zeros are added to each look-up's rows, and the
gradient with respect to these zeros is that of the rows. The table itself isn't differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sparse_jax.layers.reading import LOOK_UP, rows_of
from sparse_jax.rows import RowSparse

Owners = dict[Any, int]  # variables of a traced program that are leaves of the parameters


def value_and_grad(loss: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """`jax.value_and_grad` in which tables read by `look_up` have gradients of their rows alone.

    Args:
      loss: loss(params, ...) -> float []; or (float [], aux), if has_aux. Traced as under
        `jax.jit`: no Python branches on values of the parameters.
      has_aux: whether the loss returns something beside its value.

    Returns:
      A function of the same arguments. It returns the value, or (value, aux), and gradients like
      the first argument, a pytree of any kind: a `RowSparse` for a table that is read by look_up
      alone, with an id for each row read, repeats included, which `sparse_jax.rowwise` sums; an
      array where the leaf is used in other ways, or not at all; None where it is no floating array.

    Raises:
      TypeError: if the loss is no floating scalar, or reads a table where rows can't be told apart.

    Example:
      >>> from sparse_jax.layers import look_up
      >>> def loss(params, ids):
      ...     return jnp.sum(look_up(params["table"], ids) * params["scale"])
      >>> params = {"table": jnp.ones((1000, 2)), "scale": jnp.float32(3)}
      >>> value, grads = value_and_grad(loss)(params, jnp.asarray([7, 7], jnp.int32))
      >>> float(value), float(grads["scale"]), grads["table"].shape, grads["table"].rows.tolist()
      (12.0, 4.0, (1000, 2), [[3.0, 3.0], [3.0, 3.0]])
    """

    def run(params: Any, *args: Any, **kwargs: Any) -> Any:
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        moving = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]

        def of_leaves(given: Sequence[Any]) -> Any:
            full = list(leaves)
            for i, leaf in zip(moving, given, strict=True):
                full[i] = leaf
            found = loss(treedef.unflatten(full), *args, **kwargs)
            return found if has_aux else (found, None)

        given = [leaves[i] for i in moving]
        program, shape = jax.make_jaxpr(of_leaves, return_shape=True)(given)
        _check_value(shape[0])
        outs, found = _differentiate(program, given)
        value, aux = jax.tree.unflatten(jax.tree.structure(shape), outs)
        grads: list[Any] = [None] * len(leaves)
        for i, g in zip(moving, found, strict=True):
            grads[i] = g
        return ((value, aux) if has_aux else value), treedef.unflatten(grads)

    return run


def _is_float(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    return is_array and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _check_value(value: Any) -> None:
    shape, dtype = value.shape, value.dtype
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"loss = {dtype} of shape {shape}: must be a floating scalar; take its mean, and say "
            "has_aux=True if the loss returns more than that"
        )


def _differentiate(program: Any, given: list[jax.Array]) -> tuple[list[Any], list[Any]]:
    """What the program returns, and the gradient of its first result for each argument."""
    jaxpr = program.jaxpr
    owners = {var: place for place, var in enumerate(jaxpr.invars)}
    reads = _reads(jaxpr, owners)
    by_rows = {read.leaf for read in reads} - _other_uses(jaxpr, owners)
    dense = {i: leaf for i, leaf in enumerate(given) if i not in by_rows}
    zeros = [jnp.zeros(read.shape, read.dtype) for read in reads]

    def evaluate(dense: dict[int, Any], zeros: list[jax.Array]) -> Any:
        values = [dense.get(i, leaf) for i, leaf in enumerate(given)]
        outs, ids = _evaluate(jaxpr, program.consts, values, owners, zeros)
        return outs[0], (outs, ids)

    run = jax.value_and_grad(evaluate, argnums=(0, 1), has_aux=True)
    (_, (outs, ids)), (grads, rows) = run(dense, zeros)
    parts = list(zip(reads, ids, rows, strict=True))
    for i in {read.leaf for read in reads}:
        sparse = _gather([part for part in parts if part[0].leaf == i], given[i])
        grads[i] = grads[i] + sparse if i in grads else sparse
    return outs, [grads[i] for i in range(len(given))]


def _gather(parts: list[tuple[_Read, jax.Array, jax.Array]], table: jax.Array) -> RowSparse:
    """The gradient of a table from those of its look-ups."""
    # A look-up of no ids says "this is a table", and else nothing.
    parts = [part for part in parts if part[1].size] or parts[:1]
    return RowSparse(
        jnp.concatenate([ids.reshape(-1) for _, ids, _ in parts]),
        jnp.concatenate([rows.reshape(ids.size, *table.shape[1:]) for _, ids, rows in parts]),
        num_rows=table.shape[0],
        distinct=len(parts) == 1 and parts[0][0].distinct,
    )


class _Read(NamedTuple):
    """A look-up in a traced program."""

    leaf: int
    shape: tuple[int, ...]  # of the rows, over all turns of a scan
    dtype: Any
    distinct: bool


class _Inner(NamedTuple):
    """The program within an operation, and which of its variables are leaves."""

    kind: str  # "jit", "remat" or "scan"
    jaxpr: Any
    consts: Sequence[Any]
    owners: Owners


def _inner(eqn: Any, owners: Owners) -> _Inner | None:
    """The program within `jit`, `remat` or `scan`; None of other operations."""
    params, invars = eqn.params, eqn.invars
    body = params.get("jaxpr")
    if body is None:
        return None
    if "length" in params and "unroll" in params:
        kind, invars = "scan", invars[: _scan_sizes(params)[0]]
    elif "donated_invars" in params:
        kind = "jit"
    elif "prevent_cse" in params:
        kind = "remat"
    else:
        return None
    jaxpr, consts = getattr(body, "jaxpr", body), getattr(body, "consts", ())
    pairs = zip(jaxpr.invars, invars, strict=False)  # of a scan, those that stay the same
    inside = {inner: owners[outer] for inner, outer in pairs if _owned(outer, owners)}
    return _Inner(kind, jaxpr, consts, inside)


def _scan_sizes(params: Any) -> tuple[int, int]:
    """How many operands of a scan stay the same, and how many are carried."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    fixed, carried, _ = (len(part) for part in params["ft_in"].unpack())  # jax 0.12
    return fixed, carried


def _owned(atom: Any, owners: Owners) -> bool:
    return isinstance(atom, core.Var) and atom in owners


def _is_read(eqn: Any, owners: Owners) -> bool:
    return eqn.primitive is LOOK_UP and _owned(eqn.invars[0], owners)


def _reads(jaxpr: Any, owners: Owners) -> list[_Read]:
    """Look-ups in leaves of the parameters, in the order of the program."""
    found: list[_Read] = []
    for eqn in jaxpr.eqns:
        if _is_read(eqn, owners):
            rows = eqn.outvars[0].aval
            leaf = owners[eqn.invars[0]]
            found.append(_Read(leaf, rows.shape, rows.dtype, eqn.params["distinct"]))
        elif inner := _inner(eqn, owners):
            reads = _reads(inner.jaxpr, inner.owners)
            if inner.kind == "scan":
                turns = eqn.params["length"]
                reads = [r._replace(shape=(turns, *r.shape), distinct=False) for r in reads]
            found += reads
    return found


def _other_uses(jaxpr: Any, owners: Owners) -> set[int]:
    """Leaves that the program uses in another way than by look-ups."""
    found = {owners[v] for v in jaxpr.outvars if _owned(v, owners)}
    for eqn in jaxpr.eqns:
        if _is_read(eqn, owners):
            continue
        inner = _inner(eqn, owners)
        if inner and _reads(inner.jaxpr, inner.owners):
            found |= _other_uses(inner.jaxpr, inner.owners)
            rest = eqn.invars[_scan_sizes(eqn.params)[0] :] if inner.kind == "scan" else []
        else:
            rest = eqn.invars
        found |= {owners[v] for v in rest if _owned(v, owners)}
    return found


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], owners: Owners, zeros: list[jax.Array]
) -> tuple[list[Any], list[jax.Array]]:
    """What the program returns with `zeros` added to the rows of its look-ups, and their ids."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    ids: list[jax.Array] = []

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [value(atom) for atom in eqn.invars]
        left = zeros[len(ids) :]
        inner = _inner(eqn, owners)
        count = len(_reads(inner.jaxpr, inner.owners)) if inner else 0
        if _is_read(eqn, owners):
            table, where = operands
            outs = [rows_of(jax.lax.stop_gradient(table), where) + left[0]]
            ids.append(where)
        elif inner and count:
            outs, found = _RUN[inner.kind](eqn.params, inner, operands, left[:count])
            ids += found
        else:
            found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            outs = found if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, outs, strict=True))
    return [value(atom) for atom in jaxpr.outvars], ids


def _run_jit(_: Any, inner: _Inner, operands: list[Any], zeros: list[jax.Array]) -> Any:
    return _evaluate(inner.jaxpr, inner.consts, operands, inner.owners, zeros)


def _run_remat(params: Any, inner: _Inner, operands: list[Any], zeros: list[jax.Array]) -> Any:
    def run(operands: list[Any], zeros: list[jax.Array]) -> Any:
        return _evaluate(inner.jaxpr, inner.consts, operands, inner.owners, zeros)

    again = jax.checkpoint(run, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return again(operands, zeros)


def _run_scan(params: Any, inner: _Inner, operands: list[Any], zeros: list[jax.Array]) -> Any:
    fixed, carried = _scan_sizes(params)
    same, start, each = (
        operands[:fixed],
        operands[fixed : fixed + carried],
        operands[fixed + carried :],
    )

    def turn(carry: list[Any], x: Any) -> Any:
        args = [*same, *carry, *x[0]]
        outs, ids = _evaluate(inner.jaxpr, inner.consts, args, inner.owners, x[1])
        return outs[:carried], (outs[carried:], ids)

    names = ("length", "reverse", "unroll")
    end, (outs, ids) = jax.lax.scan(turn, start, (each, zeros), **{n: params[n] for n in names})
    return [*end, *outs], ids


_RUN = {"jit": _run_jit, "remat": _run_remat, "scan": _run_scan}
