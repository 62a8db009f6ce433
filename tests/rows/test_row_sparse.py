"""RowSparse: rows of a gradient, against dense arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax.ops import ffi
from sparse_jax.rows import RowSparse, add_rows, take_rows

pytestmark = pytest.mark.usefixtures("quick_compiles")


def i32(*values):
    return jnp.asarray(values, jnp.int32)


def test_one_dimensional_and_high_rank_tables():
    ids = i32(3, -1, 1)
    for shape in ((5,), (5, 2, 3)):
        table = jnp.zeros(shape)
        rows = jnp.ones((3, *shape[1:]))
        expected = np.zeros(shape)
        expected[[3, 1]] = 1
        np.testing.assert_array_equal(add_rows(table, ids, rows), expected)
        np.testing.assert_array_equal(RowSparse(ids, rows, 5).to_dense(), expected)
        np.testing.assert_array_equal(
            take_rows(jnp.asarray(expected), ids), rows * 0 + rows.at[1].set(0)
        )


def test_row_sparse_arithmetic():
    g = RowSparse(i32(2, -1), jnp.ones((2, 3)), num_rows=4)
    dense = np.zeros((4, 3), np.float32)
    dense[2] = 1
    assert g.shape == (4, 3) and g.dtype == jnp.float32
    np.testing.assert_array_equal(g.to_dense(), dense)
    for scaled in (g * 2.0, 2 * g, g * jnp.float32(2), np.float32(2) * g, jnp.float32(2) * g):
        assert isinstance(scaled, RowSparse)
        np.testing.assert_array_equal(scaled.to_dense(), 2 * dense)
    np.testing.assert_array_equal(g.map(jnp.negative).to_dense(), -dense)
    p = jnp.full((4, 3), 5.0)
    for total in (p + g, g + p, np.asarray(p) + g):
        assert isinstance(total, jax.Array)
        np.testing.assert_array_equal(total, 5 + dense)
    twice = RowSparse(i32(1, 2, 1), jnp.ones((3, 3)), num_rows=4) + g
    dense[1], dense[2] = 2, 2
    np.testing.assert_array_equal(twice.to_dense(), dense)
    np.testing.assert_array_equal(jax.jit(lambda p, g: p + g)(p, twice), 5 + dense)
    merged = jax.jit(RowSparse.merged)(twice)
    assert merged.distinct and merged.ids.tolist() == [1, 2, -1, -1, -1]


def test_outside_of_jit_nothing_is_compiled_twice(kernels, monkeypatch):
    """And what was compiled with kernels isn't taken without, nor the other way round."""
    compiled = []

    def hear(event, seconds, **_):
        compiled.extend([event] * ("backend_compile" in event))

    def at(*ids):
        g = RowSparse(i32(*ids), jnp.ones((3, 20)), num_rows=4)
        return jax.block_until_ready((g.merged().rows, g.to_dense(), jnp.zeros((4, 20)) + g))

    def calls_kernels():
        g = RowSparse(i32(1, 2, 1), jnp.ones((3, 20)), num_rows=4)
        return "ffi_call" in str(jax.make_jaxpr(lambda g: g.merged().rows)(g))

    for switch in (False, ffi.native() is not None, ffi.AVAILABLE):
        monkeypatch.setattr(ffi, "AVAILABLE", switch)
        at(1, 2, 1)
        assert calls_kernels() == switch
    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        merged, *dense = at(0, -1, 0)
        assert not compiled
        jax.jit(lambda x: x - 2)(merged)
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    np.testing.assert_array_equal(merged[:, 0], [2, 0, 0])
    for table in dense:
        np.testing.assert_array_equal(table[:, 0], [2, 0, 0, 0])


def test_a_size_that_has_no_hash_is_a_number_all_the_same():
    ids, rows = jnp.asarray([1, 1, -1], jnp.int32), jnp.ones((3, 2))
    found = RowSparse(ids, rows, num_rows=np.array(4)).merged()
    assert np.asarray(found.rows).sum() == 4


def test_row_sparse_refuses_what_has_no_meaning():
    g = RowSparse(i32(2, -1), jnp.ones((2, 3)), num_rows=4)
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        _ = jnp.zeros((5, 3)) + g
    with pytest.raises(TypeError, match="apply_updates"):
        _ = jnp.ones((4, 3), jnp.bfloat16) + g
    with pytest.raises(TypeError):
        _ = 1.0 + g
    with pytest.raises(TypeError):
        _ = g * jnp.ones((4, 3))
    # What a transformation outside rowwise does to it, within jit and without.
    for mapped in (lambda x: x * 0.1, jnp.square, lambda x: x + 1, jnp.sum):
        for run in (jax.tree.map, jax.jit(jax.tree.map, static_argnums=0)):
            with pytest.raises(TypeError, match=r"sparse_jax\.rowwise"):
                run(mapped, g)
    assert not jnp.isnan(optax.zero_nans().update(g, None)[0].rows).any()
    with pytest.raises((TypeError, NotImplementedError)):
        optax.tree.norm(g)


def test_the_ids_of_a_pytree_cost_nothing():
    """Sealed for tools, they are the same bits in the compiled program."""
    g = RowSparse(jnp.arange(4096, dtype=jnp.int32), jnp.ones((4096, 8)), 10_000, distinct=True)
    table = jnp.zeros((10_000, 8))
    sealed = jax.jit(lambda t, g: t + g, donate_argnums=0).lower(table, g).compile()
    plain = jax.jit(add_rows, donate_argnums=0).lower(table, g.ids, g.rows).compile()
    of = [c.memory_analysis().temp_size_in_bytes for c in (sealed, plain)]
    assert of[0] <= of[1] + 4 * 4096


def test_row_sparse_is_a_pytree():
    g = RowSparse(i32(2, -1), jnp.ones((2, 3)), num_rows=4)
    leaves, treedef = jax.tree.flatten(g)
    assert len(leaves) == 2 and treedef.unflatten(leaves).num_rows == 4
    assert jax.jit(lambda g: 2.0 * g)(g).num_rows == 4
    stacked = jax.vmap(lambda s: g * s)(jnp.arange(3.0))
    assert stacked.rows.shape == (3, 2, 3)


def test_apply_updates_takes_row_sparse_in_place():
    params = {"table": jnp.zeros((50_000, 32)), "bias": jnp.zeros(3), "none": None}
    updates = {
        "table": RowSparse(i32(49_999, -1, 0), jnp.ones((3, 32)), num_rows=50_000),
        "bias": jnp.ones(3),
        "none": None,
    }
    step = jax.jit(optax.apply_updates, donate_argnums=0)
    memory = step.lower(params, updates).compile().memory_analysis()
    size = 50_000 * 32 * 4
    assert memory.temp_size_in_bytes < size // 100
    assert memory.alias_size_in_bytes >= size
    before = params["table"].unsafe_buffer_pointer()
    params = step(params, updates)
    assert params["table"].unsafe_buffer_pointer() == before
    assert params["none"] is None
    np.testing.assert_array_equal(np.flatnonzero(params["table"][:, 0]), [0, 49_999])
