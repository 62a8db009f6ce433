"""Gradients as trees: accumulation, means over devices, averages of weights by rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly

from sparse_jax import optim
from sparse_jax.optim import average, tree
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 11, 3


def draw(seed: int, count: int = 6) -> RowSparse:
    """A gradient with repeats and padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, N, count).astype(np.int32)
    rows = rng.standard_normal((count, D)).astype(np.float32)
    return RowSparse(jnp.asarray(ids), jnp.asarray(rows), num_rows=N)


@pytest.mark.parametrize("make", [optim.rowwise, None])
def test_repeats_are_summed_before_an_optimizer_sees_them(make, kernels):
    tx = optim.rowwise(optax.adam(0.1)) if make else optim.fused.adam(0.1)
    params = {"t": jnp.zeros((N, D))}
    step = jax.jit(lambda g, s: tx.update(g, s, params))
    repeats = RowSparse(jnp.asarray([4, 4], jnp.int32), jnp.ones((2, D)), num_rows=N)
    once = RowSparse(jnp.asarray([4, -1], jnp.int32), 2 * jnp.ones((2, D)), num_rows=N)
    found, state = step({"t": repeats}, tx.init(params))
    expected, state_once = step({"t": once}, tx.init(params))
    np.testing.assert_array_equal(found["t"].to_dense(), expected["t"].to_dense())
    np.testing.assert_allclose(found["t"].to_dense()[4], -0.1, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(state_once), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(4))
def test_merging_is_the_dense_sum(seed, kernels):
    g = draw(seed, 40)
    dense = np.zeros((N, D), np.float32)
    for i, row in zip(np.asarray(g.ids), np.asarray(g.rows), strict=True):
        if i >= 0:
            dense[i] += row
    merged = jax.jit(lambda g: g.merged())(g)
    real = np.asarray(merged.ids)[np.asarray(merged.ids) >= 0]
    assert len(set(real.tolist())) == real.size and merged.distinct
    np.testing.assert_array_equal(merged.to_dense(), dense)
    np.testing.assert_allclose(tree.global_norm({"t": g}), np.linalg.norm(dense), rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(lambda t, g: t + g)(jnp.zeros((N, D)), g), dense)


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one_are_merged_already(count):
    g = jax.jit(lambda g: g.merged())(draw(0, count))
    assert g.distinct and g.ids.shape == (count,)


def test_accumulation_over_small_batches_is_the_gradient_of_the_whole():
    grads = [draw(seed) for seed in range(3)]
    _, stacked = jax.lax.scan(
        lambda c, g: (c, {"t": g, "b": jnp.ones(2)}),
        None,
        jax.tree.map(lambda *x: jnp.stack(x), *grads),
    )
    found = tree.total(stacked)
    expected = sum(np.asarray(g.to_dense()) for g in grads)
    np.testing.assert_allclose(found["t"].to_dense(), expected, rtol=1e-6, atol=1e-6)
    assert found["b"].tolist() == [3, 3]
    one_by_one = {"t": grads[0], "b": jnp.ones(2)}
    for g in grads[1:]:
        one_by_one = tree.add(one_by_one, {"t": g, "b": jnp.ones(2)})
    np.testing.assert_allclose(one_by_one["t"].to_dense(), expected, rtol=1e-6, atol=1e-6)


def test_mean_over_devices():
    grads = [{"t": draw(seed), "b": jnp.full(2, seed * 1.0)} for seed in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    found = jax.vmap(lambda g: tree.pmean(g, "data"), axis_name="data")(stacked)
    first = jax.tree.map(lambda x: x[0], found)
    expected = sum(np.asarray(g["t"].to_dense()) for g in grads) / 4
    np.testing.assert_allclose(first["t"].to_dense(), expected, rtol=1e-6, atol=1e-6)
    assert first["b"].tolist() == [1.5, 1.5]


def test_finite():
    g = draw(0)
    assert tree.is_finite({"t": g}) and tree.is_finite({})
    padding = RowSparse(jnp.asarray([1, -1], jnp.int32), jnp.asarray([[1.0], [jnp.nan]]), 3)
    assert tree.is_finite(padding)
    assert not tree.is_finite(RowSparse(jnp.asarray([1], jnp.int32), jnp.asarray([[jnp.inf]]), 3))


def test_the_average_of_rows_is_the_dense_one():
    """Rows that wait for many steps are made up for; the dense average is Optax's own."""
    params = {"t": jnp.asarray(np.random.default_rng(9).standard_normal((N, D)), jnp.float32)}
    params["b"] = jnp.ones(2)
    state, dense = average.ema_init(params), params
    move = jax.jit(lambda s, p, u: average.ema_update(s, p, u, decay=0.9))
    for seed in range(12):
        updates = {"t": draw(seed, 3), "b": jnp.full(2, 0.1)}
        state = move(state, params, updates)
        params = optax.apply_updates(params, updates)
        dense = optax.incremental_update(params, dense, 1 - 0.9)
        found = average.ema_read(state, params, decay=0.9)
        for name in params:
            np.testing.assert_allclose(found[name], dense[name], rtol=2e-5, atol=2e-6)


def test_the_average_of_rows_moves_no_other_rows():
    params = {"t": jnp.zeros((50_000, 32))}
    updates = {"t": RowSparse(jnp.asarray([7, 9, -1], jnp.int32), jnp.ones((3, 32)), 50_000)}
    step = jax.jit(lambda s, p, u: average.ema_update(s, p, u, decay=0.9), donate_argnums=0)
    memory = (
        step.lower(average.ema_init(params), params, updates)
        .compile(quickly.fused())
        .memory_analysis()
    )
    assert memory.temp_size_in_bytes < 50_000 * 32 * 4 // 50


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan")])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        average.ema_update(average.ema_init({}), {}, {}, decay=decay)
