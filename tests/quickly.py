"""Programs compiled quickly, for tests of tiny arrays: most of the time would go into compiling."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler

from sparse_jax.optim.probe import without_fusion_emitters

_PLAIN = compiler.get_compile_options


def _quick(*args: Any, env_options_overrides: Any = None, **named: Any) -> Any:
    given = without_fusion_emitters() | dict(env_options_overrides or {})
    return _PLAIN(*args, env_options_overrides=given, **named)


def fused() -> dict[str, Any]:
    """For `Lowered.compile`, where a test reads what was compiled; newer XLA has no choice."""
    return dict.fromkeys(without_fusion_emitters(), True)


def for_users() -> dict[str, Any]:
    """For `jax.jit`, where a test holds bits against NumPy's: compiled as it is for users."""
    return fused() | {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }


def switch(on: bool, *, optimized: bool = False) -> None:
    """XLA without some emitters and LLVM without most of its passes; or as they are for users.

    Bits differ between the ways to compile, and JAX keeps what it compiled in memory without
    asking which way that was: `jax.clear_caches`, if several happen in one process.

    Args:
      on: whether to compile quickly.
      optimized: leaves LLVM its passes, where programs run longer than these take.
    """
    if on:
        without_fusion_emitters()  # asked before it is used
    compiler.get_compile_options = _quick if on else _PLAIN
    jax.config.update("jax_disable_most_optimizations", on and not optimized)


def environment(*, optimized: bool = False) -> dict[str, str]:
    """As `switch`, for processes that a test starts: what it adds to their environment."""
    flags = [f"--{name}={str(value).lower()}" for name, value in without_fusion_emitters().items()]
    given = {"XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()}
    return given if optimized else given | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@contextlib.contextmanager
def optimized() -> Iterator[None]:
    """For what computes much, in a file that compiles quickly: LLVM optimizes within."""
    jax.clear_caches()
    switch(True, optimized=True)
    try:
        yield
    finally:
        jax.clear_caches()
        switch(True)


@contextlib.contextmanager
def compiled(*, optimized: bool = False) -> Iterator[None]:
    """What is compiled within is compiled quickly; see `switch`."""
    switch(True, optimized=optimized)
    try:
        yield
    finally:
        switch(False)
