"""Functions that are compiled as a whole where nobody else compiles them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import jax

from sparse_jax.ops import ffi

F = TypeVar("F", bound=Callable[..., Any])


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


def one_program(*static: str) -> Callable[[F], F]:
    """Compiles a function as a whole for who calls it outside of `jit`; within it is as if called.

    Operation by operation each would be a program of its own, and conditionals are compiled anew at
    each call. What was compiled with kernels isn't taken without. The function itself says what is
    wrong with an argument that `jit` can't tell apart by its value.

    Args:
      static: names of the arguments whose values a program is compiled for.

    Example:
      >>> import jax.numpy as jnp
      >>> @one_program("n")
      ... def power(x, n):
      ...     return x**n
      >>> power(jnp.arange(3), n=2).tolist()
      [0, 1, 4]
    """

    def decorate(f: F) -> F:
        programs = {kernels: _program(f, static) for kernels in (False, True)}
        signature = inspect.signature(f)

        @functools.wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments if static else {}
            values = [value for name, value in given.items() if name in static]
            # A number as an array, say: `f` takes it, or refuses.
            return (programs[ffi.AVAILABLE] if are_hashable(values) else f)(*args, **kwargs)

        return cast(F, call)

    return decorate


def _program(f: F, static: tuple[str, ...]) -> Callable[..., Any]:
    """`f` jitted under a name of its own: JAX keeps what it traced by the function."""

    @functools.wraps(f)
    def again(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return jax.jit(again, static_argnames=static, inline=True)
