"""Tables in bfloat16: rounding without bias, the kernels' bits, and what stands on such tables."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparse_jax import optim
from sparse_jax.ops import bf16 as rounding
from sparse_jax.optim import fused
from sparse_jax.retrieval import index, schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.rows import RowSparse, add_rows, draw_rows, take_rows
from sparse_jax.runtime import checkpoint
from sparse_jax.xmc import inference, network
from sparse_jax.xmc import step as training

N, D = 300, 24
POINTS = synthetic.make_data(96, num_features=60, num_labels=N, features=8)
BATCHES = synthetic.make_batches(POINTS, 32)
CONFIG = training.Config(
    active=64,
    distinct_features=60,
    max_labels=4,
    index=IndexConfig(
        num_tables=4, num_bits=3, rehash=schedules.fixed(2), rebuild=schedules.fixed(5)
    ),
)


pytestmark = pytest.mark.usefixtures("quick_compiles")


def bits(x) -> np.ndarray:
    return np.asarray(x).view(np.uint16)


def widen(params):
    return jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)


@functools.cache
def half_params():
    with jax.ensure_compile_time_eval():  # what is kept must not belong to the first caller's trace
        return network.init_params(
            jax.random.key(0), num_features=60, num_labels=N, hidden=D, dtype=jnp.bfloat16
        )


# Rounding ----------------------------------------------------------------------------------------

_round = jax.jit(rounding.stochastic_round)
_ONE_ROW = jnp.zeros(1, jnp.int32)


@given(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False), st.integers(0, 2**32 - 1))
@example(1 + 2**-9, 3)
@example(-0.0, 5)
@settings(max_examples=60, deadline=None)
def test_rounds_to_the_neighbours_with_odds_that_keep_the_mean(value, seed):
    count = 1 << 14
    x = np.float32(value)
    got = np.asarray(_round(jnp.full((1, count), x), _ONE_ROW, jnp.uint32(seed))[0])
    word = x.view(np.uint32)
    down = word & np.uint32(0xFFFF0000)
    low = down.view(np.float32)
    if word == down:
        np.testing.assert_array_equal(bits(got), np.uint16(word >> 16))
        return
    high = (down + np.uint32(0x10000)).view(np.float32)
    up = got.astype(np.float32) == high
    assert (up | (got.astype(np.float32) == low)).all()
    odds = float(word - down) / 2**16
    assert abs(up.mean() - odds) < 5 * np.sqrt(odds * (1 - odds) / count) + 8 / count


def test_what_is_not_finite_stays_so():
    tricky = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    got = _round(jnp.asarray(tricky.view(np.float32))[None], _ONE_ROW, jnp.uint32(1))
    got = np.asarray(got)[0].astype(np.float32)
    np.testing.assert_array_equal(got[:2], [np.inf, -np.inf])
    assert np.isnan(got[2:]).all()


def test_noise_belongs_to_the_row_and_to_the_seed():
    x = jax.random.normal(jax.random.key(0), (40, 16))
    ids = jnp.arange(40, dtype=jnp.int32)
    order = jax.random.permutation(jax.random.key(1), 40)
    got = bits(_round(x, ids, jnp.uint32(7)))
    np.testing.assert_array_equal(bits(_round(x[order], ids[order], jnp.uint32(7))), got[order])
    assert (bits(_round(x, ids, jnp.uint32(8))) != got).mean() > 0.2
    same = bits(_round(jnp.broadcast_to(x[:1], x.shape), ids, jnp.uint32(7)))
    assert np.unique(same, axis=0).shape[0] == 40
    with pytest.raises(TypeError, match="x must be float32, got bfloat16"):
        rounding.stochastic_round(x.astype(jnp.bfloat16), ids, jnp.uint32(7))


# Rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 20), (50,), (50, 2, 3)])
def test_rows_are_read_as_float32_and_sums_written_rounded(kernels, shape):
    table = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)
    ids = jnp.array([3, -1, 49, 50, -(2**31), 7, 2**31 - 1], jnp.int32)
    rows = 0.01 * jax.random.normal(jax.random.key(1), (7, *shape[1:]))
    taken, added = jax.jit(
        lambda t, i, r: (take_rows(t, i), add_rows(t, i, r, seed=jnp.uint32(9)))
    )(table, ids, rows)
    valid = np.array([0, 2, 5])
    expected = np.zeros((7, *shape[1:]), np.float32)
    expected[valid] = np.asarray(table)[np.asarray(ids)[valid]].astype(np.float32)
    assert taken.dtype == jnp.float32 and added.dtype == jnp.bfloat16
    np.testing.assert_array_equal(taken, expected)
    after = bits(table).copy()  # rows not named keep every bit
    after[np.asarray(ids)[valid]] = bits(_round(taken + rows, ids, jnp.uint32(9)))[valid]
    np.testing.assert_array_equal(bits(added), after)


THREADS = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from sparse_jax.rows import add_rows
t, r = (jax.random.normal(jax.random.key(k), (4096, 64)) for k in (0, 1))
ids = jax.random.permutation(jax.random.key(2), 4096).astype(jnp.int32)
t = add_rows(t.astype(jnp.bfloat16), ids, r, seed=jnp.uint32(5))
print(hashlib.sha256(np.asarray(t).tobytes()).hexdigest())
"""


@pytest.mark.threads(THREADS, counts=(1, 5))
def test_any_number_of_threads_gives_the_same_bits(printed):
    assert printed[1] == printed[5] != ""


def test_big_tables_are_drawn_as_in_float32_and_rounded():
    def draw(dtype):
        return lambda key, shape: jax.random.normal(key, shape).astype(dtype)

    key = jax.random.key(3)
    half, whole = (draw_rows(draw(t), key, 7, 4, block=3) for t in (jnp.bfloat16, jnp.float32))
    np.testing.assert_array_equal(bits(half), bits(whole.astype(jnp.bfloat16)))


# Optimizers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tx", [fused.adam(0.1), optim.rowwise(optax.adam(0.1))], ids=["fused", "rowwise"]
)
def test_moments_are_float32_and_equal_those_of_a_float32_table(tx):
    half = {"w": jnp.ones((5, 16), jnp.bfloat16), "b": jnp.ones(16)}
    state, other = tx.init(half), tx.init(widen(half))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), state, other)
    grads = {"w": RowSparse(jnp.array([2, -1], jnp.int32), jnp.ones((2, 16)), 5), "b": jnp.ones(16)}
    updates, state = tx.update(grads, state, half)
    _, other = tx.update(grads, other, widen(half))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), state, other)
    after = optim.apply_updates(half, updates, jax.random.key(0))
    assert after["w"].dtype == jnp.bfloat16 and after["b"].dtype == jnp.float32
    np.testing.assert_allclose(take_rows(after["w"], grads["w"].ids)[0], 0.9, atol=2**-8)
    np.testing.assert_array_equal(bits(after["w"])[[0, 1, 3, 4]], bits(half["w"])[:4])
    np.testing.assert_allclose(after["b"], 0.9, rtol=1e-6)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype = .*float16.*: must be jnp.float32 or"):
        network.init_params(
            jax.random.key(0), num_features=5, num_labels=5, hidden=4, dtype=jnp.float16
        )


# Training, tables, prediction --------------------------------------------------------------------


@functools.cache
def compiled():
    """(start, several steps), for the whole of `BATCHES` at once."""
    tx = fused.adam(0.02)
    start = jax.jit(lambda key, params: training.init(key, params, tx, config=CONFIG))
    return start, jax.jit(training.make_multi_step(tx, config=CONFIG), donate_argnums=0)


def train():
    start, multi = compiled()
    state, losses = start(jax.random.key(1), half_params()), []
    for _ in range(12):
        state, seen = multi(state, jax.tree.map(lambda *x: jnp.stack(x), *BATCHES))
        losses += seen.loss.tolist()
    return state, losses


@pytest.mark.slow
def test_training_learns_repeats_itself_and_is_saved(tmp_path):
    state, losses = train()
    assert {name: p.dtype.name for name, p in state.params.items()} == {
        "embedding": "bfloat16",
        "hidden_bias": "float32",
        "output": "bfloat16",
        "output_bias": "float32",
    }
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert int(state.index.rebuilds) > 0 and int(state.index.rehashed) > 0
    assert synthetic.digest(train()[0]) == synthetic.digest(state)
    checkpoint.save(tmp_path, state, step=1, extra={})
    restored, _ = checkpoint.restore(tmp_path, state)
    assert synthetic.digest(restored) == synthetic.digest(state)
    with pytest.raises(ValueError, match=r"bfloat16\[60,24\] saved, float32\[60,24\] here"):
        checkpoint.restore(tmp_path, dataclasses.replace(state, params=widen(state.params)))


@pytest.mark.parametrize("options", [{"strategy": "oracle"}, {"mode": "per_example"}])
def test_other_ways_of_training_take_them(options):
    config = dataclasses.replace(CONFIG, **options)
    tx = optim.rowwise(optax.sgd(0.1))
    state = jax.eval_shape(
        lambda key: training.init(key, half_params(), tx, config=config), jax.random.key(0)
    )
    after, _ = jax.eval_shape(training.make_step(tx, config=config), state, BATCHES[0])
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


def test_the_dense_strategy_is_refused():
    config = dataclasses.replace(CONFIG, strategy="dense")
    with pytest.raises(ValueError, match="strategy = 'dense' computes with whole tables, which"):
        training.init(jax.random.key(0), half_params(), optax.adam(0.1), config=config)


def test_an_index_over_bfloat16_rows_is_that_over_the_same_in_float32():
    half = half_params()
    made = [
        index.init(jax.random.key(3), p["output"], p["output_bias"], config=CONFIG.index)
        for p in (half, widen(half))
    ]
    assert synthetic.digest(made[0]) == synthetic.digest(made[1])


def test_predictions_are_those_of_the_same_in_float32(kernels):
    lsh = index.init(jax.random.key(2), half_params()["output"], config=CONFIG.index)

    @jax.jit
    def all_ways(params, coded, batch):
        return (
            inference.predict_dense(params, batch, k=5),
            inference.predict_sparse(params, lsh, batch, k=5, config=CONFIG.index),
            inference.predict_quantized(params, coded, batch, k=5, rescored=30),
        )

    found = []
    for params in (half_params(), widen(half_params())):
        coded = inference.quantize(jax.random.key(4), params, BATCHES)
        found.append((coded, all_ways(params, coded, BATCHES[0])))
    assert synthetic.digest(found[0]) == synthetic.digest(found[1])
