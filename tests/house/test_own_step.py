"""docs/your-own-step.md, run block by block, and the scripts of examples/."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax import data, layers, rowwise
from sparse_jax.data import batching
from sparse_jax.rows import RowSparse

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your-own-step.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TINY = [str(ROOT / "tests" / "fixtures" / f"xmc_tiny_{part}.txt") for part in ("train", "test")]


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


def test_the_page_prints_what_it_says(page):
    printed, _ = page
    expected = re.findall(r"^print\(.*\)  # ([^;\n]+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(printed) == len(expected) and len(expected) >= 6
    for found, said in zip(printed, expected, strict=True):
        assert found == said


def test_the_steps_of_the_page_hold_nothing_as_large_as_a_table(page):
    _, names = page
    args = names["params"], names["state"], names["batch"], names["key"]
    stats = names["step"].lower(*args).compile().memory_analysis()
    smallest = names["params"]["embed"].nbytes
    assert stats.temp_size_in_bytes < smallest and stats.alias_size_in_bytes > 6 * smallest
    args = names["model"], names["optimizer"], names["batch"], names["key"]
    stats = names["nnx_step"].lower(*args).lowered.compile().memory_analysis()
    assert stats.temp_size_in_bytes < smallest and stats.alias_size_in_bytes > 6 * smallest


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


# examples/ ---------------------------------------------------------------------------------------


def load(name):
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short_and_each_is_run_here():
    assert EXAMPLES
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 80, path
        assert f'load("{path.stem}"' in Path(__file__).read_text(), path


def test_flat_in_rows_takes_steps_of_both_kinds(capsys):
    load("flat_in_rows").main("600", "700", steps=2)
    shown = r"[67]00 rows: plain JAX [\d.]+ ms, Flax nnx [\d.]+ ms\n"
    assert re.fullmatch(shown * 2, capsys.readouterr().out)


@pytest.fixture
def deep(monkeypatch):
    """The example with small layers."""
    module = load("deep")
    monkeypatch.setattr(module, "UNITS", 64)
    return module


def test_deep_trains(deep, capsys):
    deep.main(*TINY, epochs=8, size=32)
    loss, precision = map(float, re.findall(r"loss (\S+), P@1 (\S+)", capsys.readouterr().out)[0])
    assert loss < 5.2 and precision > 0.04  # of 500 labels: 6.2, and .002 by chance


def test_deep_with_all_units_is_its_dense_twin(deep, monkeypatch):
    """Step by step: the dense network in plain JAX, by autodiff and Optax alone."""
    tx = optax.sgd(0.1)  # Adam would go on moving rows that a step doesn't touch
    monkeypatch.setattr(deep, "tx", rowwise(tx))
    points = data.read_xmc(TINY[0])
    params = deep.init(jax.random.key(0), points.num_features, points.num_labels)
    twin = jax.tree.map(jnp.copy, params)
    slots, key, losses = deep.tx.init(params), jax.random.key(1), []
    twin_slots = tx.init(twin)

    def dense_loss(params, batch):
        ids, at = batch.feature_ids, batch.feature_rows
        values = jnp.log1p(batch.feature_values) * (ids >= 0)
        h = jnp.zeros((deep.BATCH, deep.WIDTH)).at[at].add(params["embed"][ids] * values[:, None])
        h = jax.nn.relu(h)
        h = 2 * h * jax.lax.rsqrt(jnp.mean(h * h, axis=1, keepdims=True) + 1e-6)
        for part in params["hidden"]:
            h = jax.nn.relu(h @ part["weights"].T + part["bias"])
            h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=1, keepdims=True) + 1e-6) * 2
        logits = jax.nn.log_softmax(h @ params["head"]["weights"].T + params["head"]["bias"])
        real = batch.label_ids >= 0
        each = jnp.where(real, logits[batch.label_rows, batch.label_ids], 0)
        sums = jnp.zeros(deep.BATCH).at[batch.label_rows].add(each)
        return -jnp.mean(sums / jnp.maximum(batch.label_counts, 1))

    @jax.jit
    def dense_step(params, slots, batch):
        value, grads = jax.value_and_grad(dense_loss)(params, batch)
        updates, slots = tx.update(grads, slots, params)
        return optax.apply_updates(params, updates), slots, value

    capacity = batching.plan_capacity(points, deep.BATCH, seed=None, epochs=1)
    batches = list(batching.batches(points, deep.BATCH, capacity=capacity))[:4]
    for batch in batches:
        params, slots, key, value = deep.step(params, slots, key, batch, deep.UNITS)
        twin, twin_slots, expected = dense_step(twin, twin_slots, batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        losses.append(float(value))
    assert losses[-1] < losses[0]
