"""Programs compiled quickly, for tests of tiny arrays: most of the time would go into compiling."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def compiled(*, optimized: bool = False) -> Iterator[None]:
    """What is compiled within is compiled quickly; see `switch`."""
    switch(True, optimized=optimized)
    try:
        yield
    finally:
        switch(False)
