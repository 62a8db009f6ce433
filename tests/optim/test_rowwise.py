"""rowwise against the dense Optax transformations it wraps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly

from sparse_jax.optim import ElapsedState, rowwise
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 6, 3


def dense_update(tx, *args):
    """Optax by itself mixes ints and floats."""
    with jax.numpy_dtype_promotion("standard"):
        return _update(tx, *args)


# Compiled as rowwise is in these tests: Adam's and RAdam's bias corrections are differences of
# powers near 1, and the compiled and the op-by-op ones differ by more than the tolerance.
_update = jax.jit(lambda tx, *args: tx.update(*args), static_argnums=0)


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "table": jnp.asarray(rng.normal(size=(N, D)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=(D,)), jnp.float32),
    }


def make_grads(rng, touched, *, padding=2):
    """Gradients of one step: touched rows in random order among padding, and their dense twin."""
    n = N + padding
    ids = np.full(n, -1, np.int32)
    ids[rng.choice(n, len(touched), replace=False)] = rng.permutation(touched)
    rows = rng.normal(size=(n, D)).astype(np.float32)  # padding holds rubbish
    dense = np.zeros((N, D), np.float32)
    dense[ids[ids >= 0]] = rows[ids >= 0]
    bias = jnp.asarray(rng.normal(size=(D,)), jnp.float32)
    sparse = {"table": RowSparse(jnp.asarray(ids), jnp.asarray(rows), num_rows=N), "bias": bias}
    return sparse, {"table": jnp.asarray(dense), "bias": bias}


def lazy_reference(tx, grads, state, params, touched):
    """The dense transformation, its table rows and slots put back where nothing was touched."""
    hit = np.isin(np.arange(N), touched)[:, None]
    updates, new = dense_update(tx, grads, state, params)
    keep = lambda a, b: jnp.where(hit, a, b) if a.shape == (N, D) else a  # noqa: E731
    updates = jax.tree.map(lambda u: keep(u, jnp.zeros_like(u)), updates)
    return optax.apply_updates(params, updates), jax.tree.map(keep, new, state)


def donated_step(tx):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def assert_close(a, b, tol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(
            np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=tol, atol=tol
        )


LABELS = {"table": "rows", "bias": "dense"}
SCHEDULE = optax.linear_schedule(0.1, 0.01, 5)
MATRIX = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "adagrad": optax.adagrad(0.1),
    "rmsprop": optax.rmsprop(0.1, centered=True, momentum=0.9),
    "lion": optax.lion(0.1),
    "yogi": optax.yogi(0.1),
    "amsgrad": optax.amsgrad(0.1),
    "radam": optax.radam(0.1),
    "nadam": optax.nadam(0.1),
    "adadelta": optax.adadelta(0.1),
    "adabelief": optax.adabelief(0.1),
    "clip": optax.chain(optax.clip(0.5), optax.adam(0.1)),
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    "clip_after": optax.chain(optax.scale_by_adam(), optax.clip_by_global_norm(0.5)),
    "schedule": optax.adamw(SCHEDULE, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(SCHEDULE, b1=0.8),
    "partition": optax.partition({"rows": optax.adam(0.1), "dense": optax.sgd(0.1)}, LABELS),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
}
# Under full coverage first, then lazily, then after rows that were never touched.
TOUCHED = [[*range(N)], [*range(N)], [0, 2], [5], [], [1, 2, 5], [*range(N)]]
FULL = [[*range(N)]] * 4


# Quick tests hold these against dense ones in test_optax_table.py.
ALIKE = {
    "nesterov",
    "rmsprop",
    "lion",
    "yogi",
    "amsgrad",
    "radam",
    "nadam",
    "adadelta",
    "adabelief",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ALIKE else []) for n in MATRIX]
)
def test_matches_dense_on_touched_rows(name):
    tx = MATRIX[name]
    sparse = rowwise(tx)
    params, expected = make_params(), make_params()
    state, reference = sparse.init(params), sparse.init(params)
    step = donated_step(sparse)
    rng = np.random.default_rng(1)
    # A norm taken behind the moments sees touched rows only: no dense run has that semantics.
    for touched in FULL if name == "clip_after" else TOUCHED:
        rows, grads = make_grads(rng, touched)
        params, state = step(params, state, rows)
        expected, reference = lazy_reference(tx, grads, reference, expected, touched)
        assert_close(params, expected)
        assert_close(state, reference)
    assert step._cache_size() == 1


@pytest.mark.parametrize("decay", ["touched", "elapsed"])
def test_rows_inside_partition(decay):
    """The tables' optimizer alone is rowwise: the other may be anything."""
    params, expected = make_params(), make_params()
    inner = {"rows": optax.adam(0.1), "dense": optax.lamb(0.1)}
    tx = optax.partition({**inner, "rows": rowwise(optax.adam(0.1), decay=decay)}, LABELS)
    dense = optax.partition(inner, LABELS)
    state, reference = tx.init(params), dense.init(params)
    rng = np.random.default_rng(1)
    step = donated_step(tx)
    for _ in range(3):
        rows, grads = make_grads(rng, [*range(N)])
        with jax.numpy_dtype_promotion("standard"):  # for the part outside rowwise
            params, state = step(params, state, rows)
        updates, reference = dense_update(dense, grads, reference, expected)
        expected = optax.apply_updates(expected, updates)
        assert_close(params, expected)


def test_inject_hyperparams_can_be_set():
    tx = rowwise(optax.inject_hyperparams(optax.sgd)(0.1))
    params = make_params()
    state = tx.init(params)
    state.hyperparams["learning_rate"] = jnp.float32(2)
    rows, grads = make_grads(np.random.default_rng(0), [1])
    updates, _ = jax.jit(tx.update)(rows, state, params)
    np.testing.assert_allclose(updates["table"].to_dense(), -2 * grads["table"], rtol=1e-6)


@pytest.mark.parametrize("decay", ["touched", "elapsed"])
def test_scan_equals_loop(decay):
    tx = rowwise(optax.adamw(SCHEDULE), decay=decay)
    params = make_params()
    state = tx.init(params)
    rng = np.random.default_rng(1)
    steps = [make_grads(rng, touched)[0] for touched in TOUCHED]
    step = donated_step(tx)

    @jax.jit
    def many(params, state, grads):
        return jax.lax.scan(lambda c, g: (step.__wrapped__(*c, g), None), (params, state), grads)[0]

    scanned = many(params, state, jax.tree.map(lambda *x: jnp.stack(x), *steps))
    for grads in steps:
        params, state = step(params, state, grads)
    assert_close(scanned, (params, state))


@pytest.mark.parametrize("decay", ["touched", "elapsed"])
def test_in_place_under_donation(decay):
    rows, n = 50_000, 128
    tx = rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)), decay=decay)
    params = {"table": jnp.ones((rows, 32))}
    state = tx.init(params)
    ids = jnp.asarray(np.random.default_rng(0).permutation(rows)[:n], jnp.int32)
    grads = {"table": RowSparse(ids.at[3].set(-1), jnp.ones((n, 32)), num_rows=rows)}
    step = donated_step(tx)
    memory = step.lower(params, state, grads).compile(quickly.fused()).memory_analysis()
    size = rows * 32 * 4
    assert memory.temp_size_in_bytes < size // 10
    assert memory.alias_size_in_bytes >= 3 * size

    def pointers(tree):
        return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) if x.ndim]

    before = pointers((params, state))
    params, state = step(params, state, grads)
    assert pointers((params, state)) == before
    moved = np.flatnonzero(np.asarray(params["table"])[:, 0] != 1)
    np.testing.assert_array_equal(moved, np.sort(np.delete(ids, 3)))


@pytest.mark.parametrize("decay", ["touched", "elapsed"])
def test_untouched_rows_keep_their_bits_and_padding_is_not_the_last_row(decay):
    tx = rowwise(optax.adamw(0.1), decay=decay)
    params = make_params()
    rng = np.random.default_rng(0)
    update = jax.jit(tx.update)
    _, state = update(make_grads(rng, [*range(N)])[0], tx.init(params), params)
    updates, new = update(make_grads(rng, [1, 3])[0], state, params)
    for a, b in ((state, new), (params, optax.apply_updates(params, updates))):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            if x.shape[:1] == (N,):
                same = np.asarray(x == y).reshape(N, -1).all(1)
                np.testing.assert_array_equal(np.flatnonzero(~same), [1, 3])


def test_none_and_masked_gradients_pass():
    params = {**make_params(), "extra": jnp.ones(4)}
    grads, _ = make_grads(np.random.default_rng(0), [2])
    for tx in (
        rowwise(optax.sgd(0.1, momentum=0.9)),
        rowwise(optax.masked(optax.adam(0.1), {"table": True, "bias": False, "extra": False})),
        rowwise(optax.sgd(0.1, momentum=0.9), decay="elapsed"),
    ):
        updates, _ = jax.jit(tx.update)({**grads, "extra": None}, tx.init(params), params)
        assert updates["extra"] is None
        assert isinstance(updates["table"], RowSparse)


@pytest.mark.parametrize("decay", ["touched", "elapsed"])
def test_without_params_and_for_a_bare_table(decay):
    tx = rowwise(optax.adam(0.1), decay=decay)
    table = make_params()["table"]
    grads, _ = make_grads(np.random.default_rng(0), [2])
    updates, _ = jax.jit(tx.update)(grads["table"], tx.init(table))
    assert np.flatnonzero(updates.to_dense()[:, 0]).tolist() == [2]


def test_extra_arguments_reach_the_transformation():
    tx = rowwise(optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(0.5, patience=1)))
    params = make_params()
    state = tx.init(params)
    grads, dense = make_grads(np.random.default_rng(0), [2])
    update = jax.jit(tx.update)
    for _ in range(4):
        updates, state = update(grads, state, params, value=jnp.float32(1))
    assert np.all(np.abs(updates["table"].to_dense()[2]) < np.abs(dense["table"][2]))


# decay="elapsed" ---------------------------------------------------------------------------------

DECAYING = {
    "adam": (optax.adam(0.1), 1e-5),
    "adam_nesterov_b1": (optax.inject_hyperparams(optax.adam)(0.1, b1=0.7), 1e-5),
    "momentum": (optax.chain(optax.add_decayed_weights(0.0), optax.sgd(0.1, momentum=0.8)), 1e-5),
    "rmsprop": (optax.rmsprop(0.1, initial_scale=0.5), 1e-5),
    "adagrad": (optax.adagrad(0.1), 1e-6),
    "lion": (optax.lion(0.1), 1e-5),
    "mu_bfloat16": (optax.adam(0.1, mu_dtype=jnp.bfloat16), 3e-2),
}


@pytest.mark.parametrize("name", DECAYING)
def test_elapsed_slots_equal_dense_at_each_touch(name):
    tx, tol = DECAYING[name]
    sparse = rowwise(tx, decay="elapsed")
    params = make_params()
    state, dense = sparse.init(params), sparse.init(params).inner_state
    update = jax.jit(sparse.update)
    rng = np.random.default_rng(1)
    for touched in [[0, 1], [1], [], [2], [1, 5], [0, 2], [*range(N)]]:
        rows, grads = make_grads(rng, touched)
        updates, state = update(rows, state, params)
        dense_updates, dense = dense_update(tx, grads, dense, params)
        at = np.asarray(touched, np.int32)
        pick = lambda x: x[at] if x.shape == (N, D) else x  # noqa: B023, E731
        assert_close(jax.tree.map(pick, state.inner_state), jax.tree.map(pick, dense), tol)
        np.testing.assert_allclose(
            updates["table"].to_dense()[at], dense_updates["table"][at], rtol=10 * tol, atol=tol
        )
    assert int(state.step) == 7
    np.testing.assert_array_equal(state.last["table"], 7)


def test_elapsed_counts_steps():
    tx = rowwise(optax.sgd(0.1, momentum=0.5), decay="elapsed")
    params = make_params()
    state = tx.init(params)
    assert isinstance(state, ElapsedState)
    update = jax.jit(tx.update)
    rng = np.random.default_rng(0)
    for touched in ([0, 5], [0], [3], [3, 0]):
        grads, dense = make_grads(rng, touched)
        _, state = update(grads, state, params)
    np.testing.assert_array_equal(state.last["table"], [4, 0, 0, 4, 0, 1])
    np.testing.assert_array_equal(state.last["bias"], 4)
    _, state = update(dense, state, params)  # a dense gradient touches every row
    np.testing.assert_array_equal(state.last["table"], 5)


def test_elapsed_leaves_slots_that_do_not_decay_in_proportion():
    tx = rowwise(optax.amsgrad(0.1), decay="elapsed")
    params = make_params()
    state = tx.init(params)
    update = jax.jit(tx.update)
    rng = np.random.default_rng(0)
    _, state = update(make_grads(rng, [0, 1])[0], state, params)
    before = state.inner_state[0].nu_max["table"][1]
    for touched in ([0], [0]):
        _, state = update(make_grads(rng, touched)[0], state, params)
    grads = make_grads(rng, [1])[0]
    zero = {**grads, "table": grads["table"] * 0.0}
    _, state = update(zero, state, params)
    np.testing.assert_array_equal(state.inner_state[0].nu_max["table"][1], before)


def test_probe_runs_under_tracing():
    params = make_params()
    good, bad = rowwise(optax.adam(0.1), decay="elapsed"), rowwise(optax.lamb(0.1))
    state = jax.jit(good.init)(params)
    assert_close(state, good.init(params))
    shapes = jax.eval_shape(good.init, params)
    assert shapes.last["table"].shape == (N,)
    for trace in (jax.jit(bad.init), lambda p: jax.eval_shape(bad.init, p)):
        with pytest.raises(ValueError, match="depends on other rows"):
            trace(params)
    # A traced learning rate can't be looked at; the transformation still runs.
    grads, dense = make_grads(np.random.default_rng(0), [2])

    @jax.jit
    def first_update(rate):
        tx = rowwise(optax.sgd(rate))
        return tx.update(grads, tx.init(params), params)[0]["table"].to_dense()

    np.testing.assert_allclose(first_update(jnp.float32(0.5)), -0.5 * dense["table"], rtol=1e-6)
