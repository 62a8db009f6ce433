"""Gathers and scatters of rows, rows drawn block by block, and what all of rows refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def i32(*values):
    return jnp.asarray(values, jnp.int32)


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
