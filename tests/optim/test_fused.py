"""Fused Adam against Optax's on row slices, with the kernel and without."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax import optim
from sparse_jax.optim import fused
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 37, 19


def start():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(N, D)).astype(np.float32)
    return {"table": jnp.asarray(table), "column": jnp.asarray(table[:, 0]), "dense": jnp.ones(D)}


def gradients(turn):
    """Rows of a table and of a column, padding in between, and a dense gradient."""
    rng = np.random.default_rng(turn)
    ids = rng.permutation(N)[:8].astype(np.int32)
    ids[2], ids[5] = -1, N + 3
    rows = rng.normal(size=(8, D)).astype(np.float32) * 10.0 ** rng.integers(-6, 3, (8, 1))
    rows = jnp.asarray(rows.astype(np.float32))
    ids = jnp.asarray(ids)
    return {
        "table": RowSparse(ids, rows, num_rows=N),
        "column": RowSparse(ids, rows[:, 0], num_rows=N),
        "dense": rows[0],
    }


def run(tx, steps):
    params = start()
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for turn in range(steps):
        params, state = step(params, state, gradients(turn))
    return params, state


@pytest.mark.parametrize("rate", [0.01, optax.linear_schedule(0.1, 0.01, 4)])
@pytest.mark.parametrize("options", [{}, {"b1": 0.5, "b2": 0.7, "eps": 1e-3, "eps_root": 1e-4}])
def test_equals_rowwise_adam(kernels, rate, options):
    ours = run(fused.adam(rate, **options), 6)
    optaxs = run(optim.rowwise(optax.adam(rate, **options)), 6)
    assert jax.tree.structure(ours) == jax.tree.structure(optaxs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), ours, optaxs)


def test_takes_up_what_rowwise_left_and_leaves_other_rows_alone():
    params, state = run(optim.rowwise(optax.adam(0.01)), 3)
    tx, grads = fused.adam(0.01), gradients(9)
    updates, state = tx.update(grads, state, params)
    after = optax.apply_updates(params, updates)
    touched = [i for i in grads["table"].ids.tolist() if 0 <= i < N]
    rest = np.setdiff1d(np.arange(N), touched)
    np.testing.assert_array_equal(after["table"][rest], params["table"][rest])
    assert (np.asarray(after["table"] != params["table"]).any(axis=1)[touched]).all()
    assert int(state[0].count) == 4


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"params\['w'\] has dtype float16: must be float32"):
        fused.adam(0.1).init({"w": jnp.zeros((2, 2), jnp.float16)})


@pytest.mark.parametrize("rate", [0.01, optax.linear_schedule(0.1, 0.01, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_in_one_visit_gives_the_bits_of_update_and_add(kernels, rate, dtype):
    tx, found = fused.adam(rate), []
    for one_visit in (True, False):
        params = start()
        params["table"] = params["table"].astype(dtype)
        state = tx.init(params)
        for turn in range(4):
            grads, key = gradients(turn), jax.random.key(turn)
            if one_visit:
                params, state = fused.step(tx, grads, state, params, key)
            else:
                updates, state = tx.update(grads, state, params)
                params = optim.apply_updates(params, updates, key)
        found.append((params, state))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_step_takes_any_transformation():
    tx, params = optim.rowwise(optax.adam(0.01)), start()
    state, key = tx.init(params), jax.random.key(0)
    moved, _ = fused.step(tx, gradients(0), state, params, key)
    updates, _ = tx.update(gradients(0), state, params)
    jax.tree.map(np.testing.assert_array_equal, moved, optim.apply_updates(params, updates, key))
    empty = fused.adam(0.01)
    assert fused.step(empty, {}, empty.init({}), {}, key)[0] == {}
