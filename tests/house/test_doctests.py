"""Every example in a docstring of the package runs, and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import sparse_jax
from sparse_jax import sharding

pytestmark = pytest.mark.usefixtures("quick_compiles")

SLOW = [  # a second of compiling each, or more
    "layers.active",
    "lm.evaluate",
    "lm.generate",
    "lm.sampling",
    "nn",
    "optim.rowwise",
    "optim.tree",
    "retrieval.index",
    "retrieval.quantized",
    "retrieval.tables",
    "retrieval.tuner",
    "rows.bags",
    "sharding.finding",
    "sklearn.classifier",
    "summarize.abstractive",
    "summarize.saved",
]
WHOLE = {
    "lm.model": ["init"],
    "lm.generate": ["next_log_probs"],
    "retrieval.quantized": ["fit", "update", "search"],
}
NEEDS = {"nn": "flax", "search": "bm25s", "sklearn": "sklearn"}  # by room, where it isn't ours


def importable() -> list[str]:
    """Public and private modules of the package that this environment can import."""
    names = ["sparse_jax"]
    for module in pkgutil.walk_packages(sparse_jax.__path__, "sparse_jax.", onerror=lambda _: None):
        if not module.name.split(".")[-1].startswith("_kernels"):
            names.append(module.name)
    return sorted(names)


@pytest.fixture
def whole_programs(monkeypatch):
    """What examples map over shards, or deal to them, is compiled whole and not by operations.

    So is what else takes many of them: outside of `jax.jit` each operation of each call is a
    program of its own, on all devices.
    """
    plain = jax.shard_map
    monkeypatch.setattr(jax, "shard_map", lambda *args, **named: jax.jit(plain(*args, **named)))
    for name in ("place", "ids_of"):
        method = getattr(sharding.Dealing, name)
        monkeypatch.setattr(sharding.Dealing, name, jax.jit(method, static_argnums=0))
    for room, names in WHOLE.items():
        module = importlib.import_module(f"sparse_jax.{room}")
        for name in names:
            monkeypatch.setattr(module, name, whole(getattr(module, name)))


def whole(function):
    """The function as one program, sizes and configurations being what it takes by name alone."""
    by_name = [
        p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    return jax.jit(function, static_argnames=by_name)


def some_slow(names: list[str]) -> list:
    slow = {f"sparse_jax.{name}" for name in SLOW}
    return [pytest.param(n, marks=[pytest.mark.slow] if n in slow else []) for n in names]


@pytest.mark.parametrize("name", some_slow(importable()))
def test_doctests(name, whole_programs):
    needed = NEEDS.get(".".join(name.split(".")[1:2]))
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{name} needs {needed}")
    module = importlib.import_module(name)
    result = doctest.testmod(
        module,
        extraglobs={"jax": jax, "jnp": jnp},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.failed == 0
