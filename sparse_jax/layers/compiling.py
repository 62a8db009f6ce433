"""What to know of a step before it runs: tables that it would copy, kernels that it calls."""

from __future__ import annotations

import collections
import math
import warnings
from typing import Any

import jax

from sparse_jax.ops import exporting

LARGE = 100 << 20  # bytes of a table whose copy, some 20 ms, would be most of a step


def check_donated(step: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Warns of large arguments that a jitted step returns changed, and that aren't donated.

    XLA then copies them at each call, which takes longer than the step. To be called once, before
    training: it traces the step and compiles nothing, and an argument may be a
    `jax.ShapeDtypeStruct`. Nothing within a step can see this, since donation is a matter of the
    `jax.jit` around it.

    Args:
      step: what `jax.jit` or `nnx.jit` returned.
      *args: its arguments.
      **kwargs: its arguments by name.

    Returns:
      These arguments: of 100 MB and more, not donated, and of the shape and dtype of an array that
      is computed and returned.

    Raises:
      TypeError: if the step isn't jitted.

    Example:
      >>> table = jax.ShapeDtypeStruct((30_000_000,), jnp.float32)
      >>> check_donated(jax.jit(lambda t: t + 1, donate_argnums=0), table)
      []
    """
    if not hasattr(step, "trace"):
        raise TypeError(f"step = {step!r}: must be jitted; jax.jit(step, donate_argnums=(0, 1))")
    traced = step.trace(*args, **kwargs)
    traced = getattr(traced, "traced", traced)  # of nnx.jit
    given, changed = traced.jaxpr.jaxpr.invars, traced.jaxpr.jaxpr.outvars
    infos = jax.tree_util.tree_leaves_with_path(traced.args_info)
    returned = collections.Counter(_kind(x.aval) for x in changed if x not in given)
    returned.subtract(_kind(x) for _, x in infos if x.donated)
    copied = []
    for path, x in infos:
        if not x.donated and _bytes(x) >= LARGE and returned[_kind(x)] > 0:
            returned[_kind(x)] -= 1
            copied.append(f"args{jax.tree_util.keystr(path)}, {x.dtype} {list(x.shape)}")
    if copied:
        warnings.warn(
            f"the step copies {'; '.join(copied)} at each call: must be donated, to be changed in "
            "place; jax.jit(step, donate_argnums=...), or nnx.jit with the same",
            stacklevel=2,
        )
    return copied


def _kind(x: Any) -> tuple[tuple[int, ...], str]:
    return tuple(x.shape), str(x.dtype)


def _bytes(x: Any) -> int:
    return int(math.prod(x.shape)) * int(x.dtype.itemsize)


def export_checks() -> list[Any]:
    """What `jax.export` must be told to let our kernels through: they are custom calls.

    The program then runs only where this package is imported. In a process started with
    SPARSE_JAX_PURE=1 there are no such calls, this is empty, and the exported program runs
    anywhere.

    Returns:
      `jax.export.DisabledSafetyCheck`, one a kernel, for its argument `disabled_checks`.

    Example:
      >>> step = jax.jit(lambda x: x + 1)
      >>> exported = jax.export.export(step, disabled_checks=export_checks())(jnp.ones(3))
      >>> exported.call(jnp.ones(3)).tolist()
      [2.0, 2.0, 2.0]
    """
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in exporting.targets()]
