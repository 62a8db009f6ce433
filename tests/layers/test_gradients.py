"""Gradients by rows: equal to autodiff's through any transformation, or refused with the cure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sparse_jax import optim
from sparse_jax.layers import look_up, value_and_grad
from sparse_jax.ops import ffi
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 20, 3
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), jnp.float32)
IDS = jnp.asarray([1, 5, 5, 7, 19], jnp.int32)
PARAMS = {"table": TABLE, "scale": jnp.asarray([0.5, 1.0, 2.0])}


def take(table, ids):
    """The rows as JAX reads them, for a dense gradient."""
    return table[ids]


def in_scan(p, read):
    def turn(carry, i):
        rows = read(p["table"], i[None])[0]
        return carry * 0.5 + jnp.sin(rows), jnp.sum(rows * carry)

    carry, out = jax.lax.scan(turn, p["scale"], IDS, unroll=2)
    return jnp.sum(carry) + jnp.sum(out)


def in_nested(p, read):
    """A scan of a rematerialized, jitted vmap."""

    @jax.checkpoint
    def each(table, scale, ids):
        one = lambda i: jnp.sum(jnp.cos(read(table, i[None])[0]) * scale)  # noqa: E731
        return jnp.sum(jax.jit(jax.vmap(one))(ids))

    def turn(carry, shift):
        return carry + each(p["table"], p["scale"], IDS - shift), None

    return jax.lax.scan(turn, jnp.float32(0), jnp.arange(2, dtype=jnp.int32))[0]


def of_hidden(p, read):
    """The ids of the second look-up follow from the rows of the first."""
    h = jnp.tanh(read(p["table"], IDS) * p["scale"][None])
    ids = jnp.argmax(h, axis=1).astype(jnp.int32)
    return jnp.sum(read(p["table"], ids) * h)


READS = {
    "plain": lambda p, read: jnp.sum(jnp.sin(read(p["table"], IDS) * p["scale"][None])),
    "twice": lambda p, read: jnp.sum(read(p["table"], IDS) ** 2 * read(p["table"], IDS[::-1])),
    "of two axes": lambda p, read: jnp.sum(jnp.sin(read(p["table"], IDS[:4].reshape(2, 2)))),
    "jit": lambda p, read: jnp.sum(jax.jit(lambda t, i: read(t, i) ** 2)(p["table"], IDS)),
    "vmap": lambda p, read: jnp.sum(
        jax.vmap(lambda i, s: jnp.cos(read(p["table"], i[None])) * s)(IDS[:3], p["scale"])
    ),
    "remat": lambda p, read: jnp.sum(
        jax.checkpoint(lambda t, s: jnp.sin(read(t, IDS) * s[None]) ** 3)(p["table"], p["scale"])
    ),
    "scan": in_scan,
    "nested": in_nested,
    "ids from rows": of_hidden,
}


@pytest.mark.parametrize("name", READS)
def test_equals_the_dense_gradient(name):
    ours = jax.jit(value_and_grad(lambda p: READS[name](p, look_up)))
    dense = jax.jit(jax.value_and_grad(lambda p: READS[name](p, take)))
    (value, grads), (expected, wanted) = ours(PARAMS), dense(PARAMS)
    assert isinstance(grads["table"], RowSparse)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grads["table"].to_dense(), wanted["table"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads["scale"], wanted["scale"], rtol=1e-5, atol=1e-6)


def test_a_table_that_is_also_used_whole_has_the_sum_of_both_gradients():
    def loss(p, read):
        return jnp.sum(read(p["table"], IDS)) + jnp.sum(p["table"] ** 2)

    _, grads = value_and_grad(lambda p: loss(p, look_up))(PARAMS)
    wanted = jax.grad(lambda p: loss(p, take))(PARAMS)
    assert isinstance(grads["table"], jax.Array)
    np.testing.assert_allclose(grads["table"], wanted["table"], rtol=1e-6)


def test_padding_gives_zeros_and_has_no_gradient():
    ids = jnp.asarray([3, -1, N], jnp.int32)
    rows = look_up(TABLE, ids)
    np.testing.assert_array_equal(rows[1:], 0)
    np.testing.assert_array_equal(rows[0], TABLE[3])
    _, grads = value_and_grad(lambda t: jnp.sum(look_up(t, ids)))(TABLE)
    assert np.flatnonzero(np.asarray(grads.to_dense()).any(1)).tolist() == [3]


def test_distinct_is_kept_where_it_holds():
    def grads(loss):
        return value_and_grad(loss)(TABLE)[1]

    ids = IDS[:2]
    assert grads(lambda t: jnp.sum(look_up(t, ids, distinct=True))).distinct
    assert not grads(lambda t: jnp.sum(look_up(t, ids))).distinct
    assert not grads(lambda t: sum(jnp.sum(look_up(t, ids, distinct=True)) for _ in "ab")).distinct
    each = jax.vmap(lambda t, i: look_up(t, i, distinct=True), (None, 0))
    assert not grads(lambda t: jnp.sum(each(t, jnp.stack([ids, ids])))).distinct


def test_leaves_that_are_no_floats_are_left_alone():
    params = {"table": TABLE, "name": "x", "count": jnp.asarray(3), "none": None}

    def loss(p, scale):
        assert p["name"] == "x" and p["none"] is None
        value = jnp.sum(look_up(p["table"], IDS)) * scale
        return value, {"count": p["count"] + 1}

    (value, aux), grads = value_and_grad(loss, has_aux=True)(params, scale=2.0)
    assert grads["name"] is None and grads["count"] is None and int(aux["count"]) == 4
    np.testing.assert_allclose(value, 2 * np.asarray(TABLE)[np.asarray(IDS)].sum(), rtol=1e-5)


def test_a_bfloat16_table_is_read_and_differentiated_in_float32(kernels):
    table = TABLE.astype(jnp.bfloat16)
    value, grads = jax.jit(value_and_grad(lambda t: jnp.sum(look_up(t, IDS) ** 2)))(table)
    assert grads.rows.dtype == jnp.float32 and grads.shape == (N, D)
    np.testing.assert_array_equal(grads.rows, 2 * table.astype(jnp.float32)[IDS])
    np.testing.assert_allclose(value, np.sum(np.square(table.astype(jnp.float32)[IDS])), rtol=1e-5)


def test_a_step_with_rowwise_equals_the_dense_step_on_the_rows_read():
    def step(params, gradient, tx):
        value, grads = gradient(params)
        return optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0]), value

    step = jax.jit(step, static_argnums=(1, 2))
    ours, value = step(
        PARAMS, value_and_grad(lambda p: in_scan(p, look_up)), optim.rowwise(optax.adam(0.1))
    )
    with jax.numpy_dtype_promotion("standard"):  # of Optax
        gradient = jax.value_and_grad(lambda p: in_scan(p, take))
        dense, expected = step(PARAMS, gradient, optax.adam(0.1))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for name in PARAMS:
        np.testing.assert_allclose(ours[name], dense[name], rtol=1e-5, atol=1e-6)
    moved = np.flatnonzero(np.any(ours["table"] != TABLE, axis=1))
    assert moved.tolist() == [1, 5, 7, 19]


# From outside ------------------------------------------------------------------------------------


def test_vmap_over_models():
    tables = jnp.stack([TABLE, 2 * TABLE])
    ids = jnp.stack([IDS, IDS - 1])

    def loss(table, ids, read):
        return jnp.sum(jnp.sin(read(table, ids)))

    each = jax.vmap(value_and_grad(lambda t, i: loss(t, i, look_up)))
    value, grads = jax.jit(each)(tables, ids)
    for k in range(2):
        expected, wanted = jax.value_and_grad(loss)(tables[k], ids[k], take)
        np.testing.assert_allclose(value[k], expected, rtol=1e-5)
        own = RowSparse(grads.ids[k], grads.rows[k], num_rows=N)
        np.testing.assert_allclose(own.to_dense(), wanted, rtol=1e-5, atol=1e-6)


def test_vmap_of_look_up_over_tables():
    tables = jnp.stack([TABLE, 2 * TABLE], axis=1)
    ids = jnp.asarray([[3, -1], [0, N]], jnp.int32)
    found = jax.vmap(look_up, (1, 0))(tables, ids)
    np.testing.assert_array_equal(found, [[TABLE[3], 0 * TABLE[0]], [2 * TABLE[0], 0 * TABLE[0]]])
    shared = jax.vmap(look_up, (1, None))(tables, ids[0])
    np.testing.assert_array_equal(shared[:, 0], [TABLE[3], 2 * TABLE[3]])
    wide = jax.ShapeDtypeStruct((2**20, 2**12, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"less than 2\^31 rows"):
        jax.eval_shape(jax.vmap(look_up, (0, None)), wide, ids[0])


def test_scan_over_steps_equals_steps_one_by_one():
    tx = optim.rowwise(optax.adam(0.1))
    batches = jnp.stack([IDS, IDS - 1, IDS])

    def step(state, ids):
        params, slots = state
        gradient = value_and_grad(
            lambda p: jnp.sum(jnp.sin(look_up(p["table"], ids)) * p["scale"][None])
        )
        value, grads = gradient(params)
        updates, slots = tx.update(grads, slots, params)
        return (optax.apply_updates(params, updates), slots), value

    start = (PARAMS, tx.init(PARAMS))
    end, values = jax.jit(lambda s: jax.lax.scan(step, s, batches))(start)
    one = jax.jit(step)
    for ids, value in zip(batches, values, strict=True):
        start, expected = one(start, ids)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(end[0]["table"], start[0]["table"], rtol=1e-6)


def test_it_is_differentiable_itself():
    """As for a learned rate: the gradient of the norm of a gradient."""

    def norm(scale, gradient):
        return jnp.sum(gradient(scale) ** 2)

    ours = jax.grad(norm)(
        jnp.float32(2),
        lambda s: value_and_grad(lambda t: jnp.sum(jnp.sin(s * look_up(t, IDS))))(TABLE)[1].rows,
    )
    rows = TABLE[IDS]
    dense = jax.grad(norm)(jnp.float32(2), lambda s: s * jnp.cos(s * rows))
    np.testing.assert_allclose(ours, dense, rtol=1e-5)


def test_around_it_cond_and_while_loop():
    gradient = value_and_grad(lambda t: jnp.sum(jnp.sin(look_up(t, IDS))))

    def descend(state):
        turn, table = state
        return turn + 1, table + gradient(table)[1] * -0.1

    _, table = jax.lax.while_loop(lambda s: s[0] < 3, descend, (0, TABLE))
    expected = TABLE
    for _ in range(3):
        expected = expected - 0.1 * jax.grad(lambda t: jnp.sum(jnp.sin(t[IDS])))(expected)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
    one, none = jax.lax.cond(True, gradient, lambda t: gradient(2 * t), TABLE)
    np.testing.assert_allclose(one, gradient(TABLE)[0], rtol=1e-6)
    np.testing.assert_allclose(none.to_dense(), gradient(TABLE)[1].to_dense(), rtol=1e-6)


# Refusals ----------------------------------------------------------------------------------------


def test_a_plain_gradient_is_refused_with_the_lines_to_write():
    for gradient in (jax.grad, lambda f: jax.jit(jax.grad(f)), jax.jacfwd):
        with pytest.raises(TypeError, match=r"sparse_jax\.layers\.value_and_grad\(loss\)"):
            gradient(lambda t: jnp.sum(look_up(t, IDS)))(TABLE)


def test_what_does_not_depend_on_the_table_has_a_plain_gradient():
    x = jnp.ones(D)
    grad = jax.grad(lambda x: jnp.sum(look_up(TABLE, IDS) @ x))(x)
    np.testing.assert_allclose(grad, np.asarray(TABLE[IDS]).sum(0), rtol=1e-5)


def in_shard_map(table):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    rows = jax.shard_map(
        look_up, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=False
    )
    return jnp.sum(rows(table, IDS))


HIDDEN = {
    "shard_map": in_shard_map,
    "computed": lambda t: jnp.sum(look_up(t * 2, IDS)),
    "cond": lambda t: jax.lax.cond(
        t[0, 0] > 0, lambda: jnp.sum(look_up(t, IDS)), lambda: jnp.sum(t)
    ),
    "carried": lambda t: jax.lax.scan(lambda c, i: (2 * c, jnp.sum(look_up(c, i[None]))), t, IDS)[
        1
    ].sum(),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_reads_that_cannot_be_told_apart_are_refused(name):
    with pytest.raises(TypeError, match="a leaf of the parameters as it is"):
        value_and_grad(HIDDEN[name])(TABLE)


def test_wrong_losses_and_ids_are_refused():
    with pytest.raises(TypeError, match="must be a floating scalar"):
        value_and_grad(lambda t: look_up(t, IDS))(TABLE)
    with pytest.raises(TypeError, match=r"ids = float32: must be an int32 array"):
        look_up(TABLE, jnp.ones(2))
    with pytest.raises(TypeError, match=r"ids = list: must be"):
        look_up(TABLE, [1, 2])


def test_optax_without_rowwise_is_refused():
    _, grads = value_and_grad(lambda p: READS["plain"](p, look_up))(PARAMS)
    tx = optax.adam(0.1)
    with jax.numpy_dtype_promotion("standard"), pytest.raises((TypeError, ValueError)):
        tx.update(grads, tx.init(PARAMS), PARAMS)


@pytest.mark.skipif(not ffi.AVAILABLE, reason="without kernels a step marks the ids among all N")
def test_the_step_holds_nothing_as_large_as_a_table():
    """Flat in N: the compiled step's own memory is that of the rows, and tables are aliased."""
    tx = optim.rowwise(optax.adam(0.1))

    def step(params, slots, ids):
        value, grads = value_and_grad(lambda t: jnp.sum(jnp.sin(look_up(t, ids))))(params)
        updates, slots = tx.update(grads, slots, params)
        return optax.apply_updates(params, updates), slots, value

    def memory(rows):
        table = jnp.zeros((rows, 16))
        step_now = jax.jit(lambda *args: step(*args), donate_argnums=(0, 1))
        lowered = step_now.lower(table, tx.init(table), jnp.arange(64, dtype=jnp.int32))
        return lowered.compile().memory_analysis(), table.nbytes

    (small, _), (large, table) = memory(1_000), memory(100_000)
    assert large.temp_size_in_bytes <= 1.2 * small.temp_size_in_bytes + 4096 < table / 10
    assert large.alias_size_in_bytes >= 3 * table
