"""Functions that are compiled as a whole where nobody else compiles them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from sparse_jax.ops import ffi


def are_hashable(values: Iterable[Any]) -> bool:
    """Whether a program can be found by these values.

    Example:
      >>> are_hashable([3, "a"]), are_hashable([[3]])
      (True, False)
    """
    try:
        hash(tuple(values))
    except TypeError:
        return False
    return True


def one_program(f: Callable[..., Any], *, static: tuple[str, ...]) -> Callable[..., Any]:
    """`f` compiled as a whole, for who calls it outside of `jit`; within, as if it were called.

    Operation by operation each would be a program of its own, and conditionals are compiled anew at
    each call. What was compiled with kernels isn't taken without.

    Args:
      f: of arrays, and of keywords that are static.
      static: the keywords.

    Example:
      >>> import jax.numpy as jnp
      >>> power = one_program(lambda x, *, n: x**n, static=("n",))
      >>> power(jnp.arange(3), n=2).tolist()
      [0, 1, 4]
    """

    @functools.partial(jax.jit, static_argnames=(*static, "_kernels"), inline=True)
    def program(*arrays: Any, _kernels: bool, **given: Any) -> Any:
        return f(*arrays, **given)

    @functools.wraps(f)
    def call(*arrays: Any, **given: Any) -> Any:
        if not are_hashable(given.values()):  # a number as an array, say: `f` takes it, or refuses
            return f(*arrays, **given)
        return program(*arrays, _kernels=ffi.AVAILABLE, **given)

    return call
