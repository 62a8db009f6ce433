"""docs/your-own-step.md, run block by block."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import layers
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your-own-step.md"


@pytest.fixture(autouse=True)
def _promotion_of_a_user():
    """What a reader's process has, and not the strictness of this suite."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def page():
    """(printed, names) of the page's blocks, run in their order."""
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    text, printed = PAGE.read_text(encoding="utf-8"), []
    module = ModuleType("own_step_page")  # dataclasses look their module up
    module.print = lambda *args: printed.append(" ".join(map(str, args)))
    names, sys.modules[module.__name__] = vars(module), module
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
            exec(compile(block, PAGE.name, "exec"), names)
    yield printed, names
    del sys.modules[module.__name__]


@pytest.mark.slow
def test_the_page_prints_what_it_says(page):
    printed, _ = page
    expected = re.findall(r"^print\(.*\)  # ([^;\n]+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(printed) == len(expected) and len(expected) >= 6
    for found, said in zip(printed, expected, strict=True):
        assert found == said


@pytest.mark.slow
def test_the_steps_of_the_page_hold_nothing_as_large_as_a_table(page):
    _, names = page
    args = names["params"], names["state"], names["batch"], names["key"]
    stats = names["step"].lower(*args).compile().memory_analysis()
    smallest = names["params"]["embed"].nbytes
    assert stats.temp_size_in_bytes < smallest and stats.alias_size_in_bytes > 6 * smallest
    args = names["model"], names["optimizer"], names["batch"], names["key"]
    stats = names["nnx_step"].lower(*args).lowered.compile().memory_analysis()
    assert stats.temp_size_in_bytes < smallest and stats.alias_size_in_bytes > 6 * smallest


@pytest.mark.slow
def test_the_gradients_of_the_page_are_by_rows_and_equal_to_dense_ones(page):
    _, names = page
    grads = names["layers"].value_and_grad(names["loss"])(
        names["params"], names["batch"], names["key"]
    )[1]
    _, of_net = names["layers"].value_and_grad(names["net_loss"])(
        names["net"], names["batch"], names["key"]
    )
    for g in (grads["embed"], grads["head"]["weights"], grads["head"]["bias"], of_net.embed):
        assert isinstance(g, RowSparse) and g.rows.shape[0] <= 512
    assert isinstance(of_net.trunk.weight, jax.Array)

    def dense(table):
        """The same loss by a plain gather of all rows at once."""
        every = jnp.zeros_like(table).at[names["ids"]].add(0) + table
        h = every[names["ids"]].mean(axis=1) @ names["params"]["trunk"]
        head = names["params"]["head"]
        key = names["key"]
        chosen = layers.active.shared_set(key, names["labels"], size=512, num_rows=names["CLASSES"])
        logits = h @ head["weights"][chosen.ids].T + head["bias"][chosen.ids]
        return -jnp.diagonal(jax.nn.log_softmax(logits)[:, chosen.positions]).mean()

    wanted = jax.grad(dense)(names["params"]["embed"])
    np.testing.assert_allclose(grads["embed"].to_dense(), wanted, rtol=1e-3, atol=1e-6)


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[\w-]+)?\)", PAGE.read_text()):
        assert (PAGE.parent / target).resolve().exists(), target
    for path in re.findall(r"`((?:tests|examples)/[\w/.]+)`", PAGE.read_text()):
        assert (ROOT / path).exists(), path
