"""One scale a row: against NumPy, and against itself where rows are one number wide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax import optim
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 37, 19


def gradients(turn):
    rng = np.random.default_rng(turn)
    ids = rng.permutation(N)[:8].astype(np.int32)
    ids[2], ids[5] = -1, N + 3
    return ids, rng.normal(size=(8, D)).astype(np.float32), rng.normal(size=(D,)).astype(np.float32)


def reference(rates, *, decay, eps):
    """The table and the dense vector after a step for each rate, in float64."""
    table, dense = np.ones((N, D)), np.ones(D)
    of_table, of_dense = np.zeros(N), np.zeros(D)
    for turn, rate in enumerate(rates):
        ids, rows, vector = (np.asarray(x, np.float64) for x in gradients(turn))
        correction = 1 - decay ** (turn + 1)
        for i, row in zip(ids.astype(int), rows, strict=True):
            if 0 <= i < N:
                of_table[i] = decay * of_table[i] + (1 - decay) * np.mean(row**2)
                table[i] -= rate * row / (np.sqrt(of_table[i] / correction) + eps)
        of_dense = decay * of_dense + (1 - decay) * vector**2
        dense -= rate * vector / (np.sqrt(of_dense / correction) + eps)
    return table, dense, of_table


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_equals_numpy(kernels, decay):
    rates = np.linspace(0.1, 0.02, 5)
    tx = optim.row_scale(lambda t: jnp.asarray(rates, jnp.float32)[t], decay=decay, eps=1e-3)
    params = {"table": jnp.ones((N, D)), "dense": jnp.ones(D)}
    state = tx.init(params)

    @jax.jit
    def step(params, state, ids, rows, vector):
        grads = {"table": RowSparse(ids, rows, num_rows=N), "dense": vector}
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for turn in range(5):
        params, state = step(params, state, *map(jnp.asarray, gradients(turn)))
    table, dense, scales = reference(rates, decay=decay, eps=1e-3)
    np.testing.assert_allclose(params["table"], table, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(params["dense"], dense, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(state.squares["table"], scales, rtol=2e-5)


def test_rows_of_one_number_are_adam_without_a_first_moment():
    """Mean square of one number is its square: Optax's elementwise Adam at b1 = 0."""
    params = {"column": jnp.ones((N, 1))}
    ours, theirs = optim.row_scale(0.1), optim.rowwise(optax.adam(0.1, b1=0.0))
    moved = []
    for tx in (ours, theirs):
        now, state, update = params, tx.init(params), jax.jit(tx.update)
        for turn in range(4):
            ids, rows, _ = gradients(turn)
            grads = {"column": RowSparse(jnp.asarray(ids), jnp.asarray(rows[:, :1]), num_rows=N)}
            updates, state = update(grads, state, now)
            now = optax.apply_updates(now, updates)
        moved.append(now["column"])
    np.testing.assert_allclose(*moved, rtol=1e-5)


def test_repeated_ids_count_once_with_their_sum():
    ids = jnp.asarray([3, 5, 3], jnp.int32)
    rows = jnp.asarray([[1.0, 2], [5, 5], [3, 4]])
    once = RowSparse(jnp.asarray([3, 5], jnp.int32), jnp.asarray([[4.0, 6], [5, 5]]), num_rows=N)
    params, tx = {"t": jnp.ones((N, 2))}, optim.row_scale(0.1)

    @jax.jit
    def moved(grad):
        updates, _ = tx.update({"t": grad}, tx.init(params), params)
        return optax.apply_updates(params, updates)["t"]

    got = [moved(grad) for grad in (RowSparse(ids, rows, num_rows=N), once)]
    np.testing.assert_array_equal(*got)


def test_a_bfloat16_table_keeps_its_scale_in_float32():
    params = {"t": jnp.ones((N, 512), jnp.bfloat16)}
    tx = optim.row_scale(2**-12)
    state = tx.init(params)
    assert state.squares["t"].dtype == jnp.float32 and state.squares["t"].shape == (N,)
    grads = {"t": RowSparse(jnp.asarray([4], jnp.int32), -jnp.ones((1, 512)), num_rows=N)}

    @jax.jit
    def step(params, state, turn):
        updates, state = tx.update(grads, state, params)
        return optim.apply_updates(params, updates, jax.random.key(turn)), state

    for turn in range(64):  # steps far below a bfloat16's last bit add up in the mean
        params, state = step(params, state, turn)
    assert params["t"].dtype == jnp.bfloat16
    moved = params["t"].astype(jnp.float32)
    assert float(moved[4].mean()) == pytest.approx(1 + 64 * 2**-12, abs=2e-3)
    assert float(jnp.abs(moved[5] - 1).max()) == 0


def test_a_row_never_touched_costs_nothing_and_a_zero_gradient_moves_nothing():
    params, tx = {"t": jnp.ones((N, 2)), "s": jnp.ones(())}, optim.row_scale(0.1)
    zero = {"t": RowSparse(jnp.asarray([1], jnp.int32), jnp.zeros((1, 2)), num_rows=N)}
    updates, _ = tx.update(zero | {"s": jnp.zeros(())}, tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, moved, params)


@pytest.mark.parametrize("make", [optim.row_scale, optim.fused.adam])
def test_a_tree_without_leaves(make):
    tx = make(0.1)
    updates, _ = tx.update({}, tx.init({}), {})
    assert updates == {}


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_refuses_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match=r"decay = .*: must be at least 0 and below 1"):
        optim.row_scale(0.1, decay=decay)


def test_refuses_rows_of_another_table():
    tx = optim.row_scale(0.1)
    params = {"t": jnp.ones((N, 2))}
    grads = {"t": RowSparse(jnp.asarray([1], jnp.int32), jnp.ones((1, 2)), num_rows=N + 1)}
    with pytest.raises(ValueError, match="num_rows"):
        tx.update(grads, tx.init(params), params)
