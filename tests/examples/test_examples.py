"""The scripts of examples/, each run on little data."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax import data, rowwise
from sparse_jax.data import batching

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TINY = [str(ROOT / "tests" / "fixtures" / f"xmc_tiny_{part}.txt") for part in ("train", "test")]
NEEDS = {"flat_in_rows": "flax", "head_nnx": "flax", "embedding_equinox": "equinox"}


@pytest.fixture(autouse=True)
def _promotion_of_a_user():
    """What a reader's process has, and not the strictness of this suite."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def load(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
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


@pytest.mark.slow
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


def figures(capsys):
    """The numbers that an example prints."""
    return [float(x) for x in re.findall(r"-?[\d.]*\d", capsys.readouterr().out.replace(",", ""))]


def test_head_nnx_learns_the_classes_that_come(capsys):
    load("head_nnx").main(300, 120)
    classes, loss, _, right, _ = figures(capsys)  # after "P@1"
    assert classes == 300 and loss < 1 and right > 0.8  # of 300: 5.7, and .003 by chance


@pytest.mark.slow
def test_embedding_equinox_learns_the_topics_of_words(capsys):
    load("embedding_equinox").main(2000, 150)
    words, loss, right, _ = figures(capsys)
    assert words == 2000 and loss < 0.5 and right > 0.85  # of 20 topics: 3, and .05 by chance


@pytest.mark.slow
def test_hash_tables_find_the_classes(capsys):
    load("hash_tables").main(400, 100)
    loss, _, right, rehashed = figures(capsys)
    assert loss < 1 and right > 0.9 and rehashed > 0


@pytest.mark.slow
def test_optax_chain_learns_and_averages(capsys):
    load("optax_chain").main(100, 400)
    last, smooth, constant = figures(capsys)
    assert last < constant / 4 and smooth < constant / 4
