"""RowSparse, gathers and scatters, unique ids and the embedding bag, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops import ffi
from sparse_jax.rows import (
    RowSparse,
    add_rows,
    draw_rows,
    embedding_bag,
    set_rows,
    take_rows,
    unique_ids,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def i32(*values):
    return jnp.asarray(values, jnp.int32)


# RowSparse ---------------------------------------------------------------------------------------


def test_take_add_set_rows_ignore_padding():
    table = jnp.arange(1.0, 9.0).reshape(4, 2)
    ids = i32(2, -1, 0, -1)
    rows = jnp.full((4, 2), 10.0)
    np.testing.assert_array_equal(take_rows(table, ids), [[5, 6], [0, 0], [1, 2], [0, 0]])
    np.testing.assert_array_equal(add_rows(table, ids, rows), [[11, 12], [3, 4], [15, 16], [7, 8]])
    np.testing.assert_array_equal(set_rows(table, ids, rows), [[10, 10], [3, 4], [10, 10], [7, 8]])


def test_draw_rows_fills_every_block_from_keys_of_its_own():
    key = jax.random.key(3)
    whole = draw_rows(jax.random.normal, key, 6, 4)
    np.testing.assert_array_equal(whole, jax.random.normal(key, (6, 4)))
    blocks = np.asarray(draw_rows(jax.random.normal, key, 7, 4, block=3))
    drawn = [jax.random.normal(k, (3, 4)) for k in jax.random.split(key, 3)]
    np.testing.assert_array_equal(blocks[:4], np.concatenate([drawn[0], drawn[1]])[:4])
    np.testing.assert_array_equal(blocks[4:], drawn[2])
    assert np.unique(blocks).size == blocks.size


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_draw_rows_takes_little_more_than_the_table(kernels, dtype):
    def draw(key, shape):
        return jax.random.uniform(key, shape).astype(dtype)

    table = jax.jit(lambda key: draw_rows(draw, key, 40_000, 2000)).lower(jax.random.key(0))
    sizes = table.compile().memory_analysis()
    copies = int(dtype == jnp.bfloat16 and kernels != "ffi")  # its words, before they are bfloat16
    spare = sizes.temp_size_in_bytes - copies * sizes.output_size_in_bytes
    assert spare < 32 * 128 * 65536, spare


@pytest.mark.parametrize("bad", [-1, -2, 4, 2**31 - 1])
def test_padding_and_ids_out_of_range_never_touch_a_row(bad):
    table = jnp.arange(1.0, 9.0).reshape(4, 2)
    ids, rows = i32(bad), jnp.ones((1, 2))
    for f in (add_rows, set_rows):
        np.testing.assert_array_equal(f(table, ids, rows), table)
    np.testing.assert_array_equal(take_rows(table, ids), jnp.zeros((1, 2)))


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


@pytest.mark.parametrize("size", [3, 60])
@pytest.mark.parametrize("num_rows", [40, 2**31 - 1])
def test_few_ids_of_many_rows_are_sorted_and_others_mapped(num_rows, size, monkeypatch):
    """Both fallbacks, and the kernel where there is one, give the same."""
    rng = np.random.default_rng(num_rows % 97 + size)
    ids = rng.choice([*range(40), -1, -7, num_rows - 1], 60).astype(np.int32)
    present = sorted({int(i) for i in ids if 0 <= i < num_rows})
    expected = np.full(size, -1)
    expected[: min(size, len(present))] = present[:size]
    found = [unique_ids(ids, num_rows=num_rows, size=size)]
    monkeypatch.setattr(ffi, "AVAILABLE", False)
    found.append(unique_ids(ids, num_rows=num_rows, size=size))
    for unique, inverse, count in found:
        np.testing.assert_array_equal(unique, expected)
        assert count == len(present)
        kept = np.asarray(inverse) >= 0
        np.testing.assert_array_equal(np.asarray(unique)[np.asarray(inverse)[kept]], ids[kept])
        np.testing.assert_array_equal(kept, np.isin(ids, expected) & (ids >= 0))


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


@pytest.mark.parametrize(
    "ids", [np.asarray([1]), np.asarray([1.0], np.float32), [1], np.asarray([1], np.uint32)]
)
def test_ids_of_other_types_are_refused(ids):
    table, rows = jnp.zeros((4, 2)), jnp.ones((1, 2))
    good = i32(0)
    calls = [
        lambda: take_rows(table, ids),
        lambda: add_rows(table, ids, rows),
        lambda: set_rows(table, ids, rows),
        lambda: unique_ids(ids, num_rows=4, size=4),
        lambda: embedding_bag(table, ids, good, num_segments=1),
        lambda: embedding_bag(table, good, ids, num_segments=1),
        lambda: table + RowSparse(ids, rows, num_rows=4),
        lambda: RowSparse(ids, rows, num_rows=4).to_dense(),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="int32"):
            call()


def test_shapes_that_do_not_fit_are_refused():
    table = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="one dimension"):
        take_rows(table, jnp.zeros((2, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        add_rows(table, i32(0), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="size must be at least 1"):
        unique_ids(i32(0), num_rows=4, size=0)
    with pytest.raises(ValueError, match="equal lengths"):
        embedding_bag(table, i32(0), i32(0, 1), num_segments=2)
    with pytest.raises(ValueError, match="weights"):
        embedding_bag(table, i32(0), i32(0), jnp.ones(2), num_segments=2)
    with pytest.raises(ValueError, match="combiner"):
        embedding_bag(table, i32(0), i32(0), num_segments=2, combiner="max")


# unique_ids --------------------------------------------------------------------------------------

_unique = jax.jit(unique_ids, static_argnames=("num_rows", "size"))


def check_unique(ids, num_rows, size):
    unique, inverse, count = (
        np.asarray(x) for x in _unique(jnp.asarray(ids), num_rows=num_rows, size=size)
    )
    assert unique.dtype == inverse.dtype == count.dtype == np.int32
    assert unique.shape == (size,) and inverse.shape == ids.shape
    valid = (ids >= 0) & (ids < num_rows)
    expected = np.unique(ids[valid])
    assert count == len(expected)
    kept = expected[:size]
    np.testing.assert_array_equal(unique[: len(kept)], kept)
    np.testing.assert_array_equal(unique[len(kept) :], -1)
    found = valid & np.isin(ids, kept)
    np.testing.assert_array_equal(inverse[~found], -1)
    np.testing.assert_array_equal(unique[inverse[found]], ids[found])


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(-2, 41), min_size=12, max_size=12),
    # Few sizes: each compiles once.
    num_rows=st.sampled_from([1, 7, 40]),
    size=st.sampled_from([1, 5, 12, 50]),
)
def test_unique_ids_equals_numpy(ids, num_rows, size):
    check_unique(np.asarray(ids, np.int32), num_rows, size)


def test_unique_ids_at_size():
    rng = np.random.default_rng(0)
    ids = (rng.zipf(1.3, 20_000) % 38_000).astype(np.int32)
    ids[rng.random(20_000) < 0.1] = -1
    check_unique(ids, 38_000, 20_000)
    check_unique(ids, 38_000, 100)
    check_unique(np.full(16, -1, np.int32), 5, 4)
    check_unique(np.zeros(0, np.int32), 5, 4)


# embedding_bag -----------------------------------------------------------------------------------


def reference_bag(rows, positions, segments, weights, num_segments, combiner):
    rows = rows.astype(np.float64)
    out = np.zeros((num_segments, rows.shape[1]))
    norm = np.zeros(num_segments)
    for j, (p, s) in enumerate(zip(positions, segments, strict=True)):
        if p < 0:
            continue
        w = 1.0 if weights is None else float(weights[j])
        out[s] += w * rows[p]
        norm[s] += w if combiner == "mean" else w * w
    if combiner == "sqrtn":
        norm = np.sqrt(norm)
    if combiner != "sum":
        out[norm != 0] /= norm[norm != 0][:, None]
    return out


def bag_inputs():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(7, 3)).astype(np.float32)
    positions = rng.integers(0, 7, 15).astype(np.int32)
    # Segment 2 is empty; the padding at the end carries bag 5, which is empty otherwise.
    segments = np.asarray([0] * 4 + [1] * 2 + [3] * 5 + [4] + [5] * 3, np.int32)
    positions[3], positions[-3:] = -1, -1
    weights = rng.uniform(0.5, 2, 15).astype(np.float32)
    return rows, positions, segments, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_embedding_bag_value_and_gradient(combiner, weighted):
    rows, positions, segments, weights = bag_inputs()
    weights = weights if weighted else None
    expected = reference_bag(rows, positions, segments, weights, 6, combiner)

    def bag(rows, weights):
        return embedding_bag(
            rows,
            jnp.asarray(positions),
            jnp.asarray(segments),
            weights,
            num_segments=6,
            combiner=combiner,
        )

    args = (jnp.asarray(rows), None if weights is None else jnp.asarray(weights))
    np.testing.assert_allclose(bag(*args), expected, rtol=1e-5, atol=1e-6)

    # Central differences of the float64 reference, in a random direction of the output.
    direction = np.random.default_rng(2).normal(size=expected.shape).astype(np.float32)

    def loss(rows, weights):
        return jnp.sum(bag(rows, weights) * jnp.asarray(direction))

    def numeric(x, of):
        gradient = np.zeros(x.shape)
        for index in np.ndindex(*x.shape):
            ends = []
            for sign in (1, -1):
                moved = x.astype(np.float64)
                moved[index] += sign * 1e-5
                ends.append(float((of(moved) * direction).sum()))
            gradient[index] = (ends[0] - ends[1]) / 2e-5
        return gradient

    d_rows = jax.grad(loss)(*args)
    np.testing.assert_allclose(
        d_rows,
        numeric(rows, lambda r: reference_bag(r, positions, segments, weights, 6, combiner)),
        rtol=1e-4,
        atol=1e-5,
    )
    if weighted:
        d_weights = jax.grad(loss, argnums=1)(*args)
        np.testing.assert_allclose(
            d_weights,
            numeric(weights, lambda w: reference_bag(rows, positions, segments, w, 6, combiner)),
            rtol=1e-4,
            atol=1e-5,
        )


def test_embedding_bag_shuts_out_padding():
    rows, positions, segments, weights = bag_inputs()
    clean = embedding_bag(rows, positions, segments, weights, num_segments=6, combiner="mean")
    weights[positions < 0] = np.nan
    segments[-3:] = [-1, 6, 99]
    dirty = embedding_bag(rows, positions, segments, weights, num_segments=6, combiner="mean")
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(clean[5], 0)
    positions[:] = 7  # past the rows
    out = embedding_bag(rows, positions, segments, num_segments=6, combiner="mean")
    np.testing.assert_array_equal(out, 0)


_BITS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from sparse_jax.rows import embedding_bag, unique_ids
rng = np.random.default_rng(0)
ids = jnp.asarray(rng.zipf(1.2, 20_000) % 5_000, jnp.int32)
segments = jnp.asarray(np.sort(rng.integers(0, 64, 20_000)), jnp.int32)
weights = jnp.asarray(rng.uniform(size=20_000), jnp.float32)
table = jnp.asarray(rng.normal(size=(4_000, 64)), jnp.float32)
@jax.jit
def f(table):
    unique, inverse, count = unique_ids(ids, num_rows=5_000, size=4_000)
    def loss(t, w):
        out = embedding_bag(t, inverse, segments, w, num_segments=64, combiner="sqrtn")
        return jnp.sum(out * out * out), out
    return unique, inverse, jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(table, weights)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(f(table)):
    if leaf.ndim:  # the loss itself is a full sum, whose order may follow the threads
        digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.threads(_BITS, counts=(1, 2))
def test_same_bits_at_any_thread_count(printed):
    assert printed[1] == printed[2] != ""
