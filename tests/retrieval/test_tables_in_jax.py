"""The tables inside JAX: transformations, donation, thread counts, malformed kernel calls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_tools import BATCH, ROWS, SIZES, assert_same, ints, jitted, random_codes, state

from sparse_jax.ops import ffi
from sparse_jax.retrieval import tables

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_scan_cond_and_vmap(kernels):
    codes = random_codes(9, ROWS)
    batches = np.random.default_rng(0).integers(-1, ROWS, (5, BATCH)).astype(np.int32)
    fresh = np.stack([random_codes(10 + i, BATCH) for i in range(5)])
    run = jitted(kernels)
    t = run.build(tables.init(ROWS, capacity=2, policy="fifo", **SIZES), ints(codes))

    @jax.jit
    def scanned(t, batches, fresh):
        def step(t, at):
            ids, codes, turn = at
            t = jax.lax.cond(
                turn % 2 == 0,
                lambda t: tables.insert(t, ids, codes),
                lambda t: tables.remove(t, ids),
                t,
            )
            return t, tables.query(t, codes, max_candidates=3)

        return jax.lax.scan(step, t, (batches, fresh, jnp.arange(5)))

    after, found = scanned(t, ints(batches), ints(fresh))
    for i in range(5):
        if i % 2 == 0:
            t = run.insert(t, ints(batches[i]), ints(fresh[i]))
        else:
            t = run.remove(t, ints(batches[i]))
        one = run.query(t, ints(fresh[i]), 3)
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), one)
    assert_same(after, t)

    mapped = jax.jit(jax.vmap(lambda c: tables.query(after, c, max_candidates=3)))(ints(fresh))
    for i in range(5):
        one = run.query(after, ints(fresh[i]), 3)
        assert_same(jax.tree.map(lambda x, i=i: x[i], mapped), one)


def test_vmap_over_tables(kernels):
    codes = np.stack([random_codes(20 + i, ROWS) for i in range(3)])
    many = [tables.init(ROWS, capacity=2, seed=i, **SIZES) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    ids, fresh = ints([0, 3, -1]), ints(random_codes(30, 3))

    def fill(t, codes):
        return tables.update(tables.build(t, codes), ids, fresh)

    built = jax.jit(jax.vmap(fill))(stacked, ints(codes))
    one = jax.jit(fill)
    for i, t in enumerate(many):
        assert_same(jax.tree.map(lambda x, i=i: x[i], built), one(t, ints(codes[i])))


def test_no_recompilation(kernels):
    t = tables.init(ROWS, **SIZES)
    insert = jax.jit(lambda t, i, c: tables.insert(t, i, c))
    query = jax.jit(lambda t, c: tables.query(t, c, max_candidates=3))
    for i in range(3):
        codes = ints(random_codes(i, 2))
        t = insert(t, ints([i, i + 1]), codes)
        query(t, codes)
    t = jax.jit(lambda t, c: tables.build(t, c))(t, ints(random_codes(0, ROWS)))
    insert(t, ints([0, 1]), codes)
    query(t, codes)
    assert insert._cache_size() == query._cache_size() == 1


def test_init_and_build_can_be_donated(kernels):
    codes = ints(random_codes(0, ROWS))
    t = tables.init(ROWS, **SIZES)
    t = jax.jit(lambda t, i, c: tables.insert(t, i, c), donate_argnums=0)(t, ints([1]), codes[:1])
    t = jax.jit(lambda t, c: tables.build(t, c), donate_argnums=0)(t, codes)
    t = jax.jit(lambda t, i: tables.remove(t, i), donate_argnums=0)(t, ints([1]))
    assert int(t.codes[0, 1]) == -1


@pytest.mark.skipif(not ffi.AVAILABLE, reason="the fallback works on copies")
@pytest.mark.parametrize("policy", ["reservoir", "fifo"])
def test_donated_tables_are_written_in_place(policy):
    rows, n = 50_000, 64
    sizes = dict(num_tables=8, num_buckets=4096, capacity=16)
    total = tables.memory_bytes(rows, **sizes)
    t = tables.init(rows, policy=policy, **sizes)
    ids = ints(np.arange(n))
    codes = ints(random_codes(0, n, 8, 4096))

    def steps(t, ids, codes):
        def step(i, t):
            t = tables.insert(t, ids + i, codes)
            t = jax.lax.cond(i > 1, lambda t: tables.update(t, ids, codes[::-1]), lambda t: t, t)
            return tables.remove(t, ids[:3])

        return jax.lax.fori_loop(0, 3, step, t)

    for function in (lambda t, i, c: tables.insert(t, i, c), steps):
        compiled = jax.jit(function, donate_argnums=0).lower(t, ids, codes).compile()
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= total - 64
        assert memory.temp_size_in_bytes < total // 100
        before = {k: x.unsafe_buffer_pointer() for k, x in state(t).items() if x.ndim}
        t = compiled(t, ids, codes)
        assert before == {k: x.unsafe_buffer_pointer() for k, x in state(t).items() if x.ndim}


def test_without_donation_the_argument_stays(kernels):
    t = tables.build(tables.init(ROWS, capacity=2, **SIZES), ints(random_codes(1, ROWS)))
    before = jax.tree.map(np.array, state(t))
    tables.insert(t, ints([0, 1]), ints(random_codes(2, 2)))
    tables.remove(t, ints([0, 1]))
    tables.build(t, ints(random_codes(3, ROWS)))
    assert_same(t, before)


HASH_SCRIPT = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from sparse_jax.ops import ffi
from sparse_jax.retrieval import tables
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for policy in ("reservoir", "fifo"):
    t = tables.init(4000, num_tables=6, num_buckets=64, capacity=32, policy=policy)
    t = tables.build(t, jnp.asarray(rng.integers(-1, 64, (4000, 6), np.int32)))
    for _ in range(3):
        ids = jnp.asarray(rng.integers(-1, 4000, 600).astype(np.int32))
        codes = jnp.asarray(rng.integers(-1, 64, (600, 6), np.int32))
        t = tables.update(tables.insert(t, ids, codes), ids, codes[::-1])
    found = tables.query(t, codes, max_candidates=40)
    for leaf in jax.tree.leaves((t, found)):
        digest.update(np.asarray(leaf).tobytes())
print(ffi.AVAILABLE, digest.hexdigest())
"""


@pytest.mark.threads(HASH_SCRIPT, counts=(1, 2, 5))
def test_identical_bits_at_any_thread_count(printed):
    # With the kernels if this process has them: the children found the same package.
    assert printed[1].split()[0] == str(ffi.AVAILABLE)
    assert printed[1] == printed[2] == printed[5]


# --- the door to the kernels ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not ffi.AVAILABLE, reason="no C++ kernels")
def test_malformed_calls_of_the_kernels_are_errors():
    def spec(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    def floats(*shape):
        return spec(*shape, dtype=jnp.float32)

    def floats_of(*shape):
        return np.ones(shape, np.float32)

    def array(*shape):
        return np.zeros(shape, np.int32)

    reservoir = dict(policy=np.int32(0))
    write = dict(reservoir, restamp=np.int32(0))
    tables_results = [spec(2, 3, 4), spec(2, 3), spec(2, 5), spec(5), spec()]
    tables_state = [array(2, 3, 4), array(2, 3), array(2, 5), array(5)]
    batch = [array(6), array(6, 2), array(), array()]
    query = [spec(6, 3), spec(6, 3), spec(6)]
    bag = [array(7), array(7)]
    rows, weights = floats_of(4, 3), floats_of(7)
    good = [
        (
            "tables_build",
            [spec(2, 5), spec(5), spec(2, 3, 4), spec(2, 3)],
            [array(2, 5), array(5), array()],
            reservoir,
        ),
        ("tables_write", tables_results, [*tables_state, *batch], write),
        ("tables_query", query, [array(2, 3, 4), array(6, 2), array()], dict(num_rows=np.int64(5))),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(9))),
        ("bag_forward", [spec(2, 3, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("bag_backward", [spec(4, 3, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("split_columns", [floats(3, 3), floats(3)], [rows], {}),
        (
            "softmax_loss",
            [floats(4, 3), floats(4), spec(4)],
            [rows, floats_of(3), array(7), array(7)],
            {},
        ),
        (
            "adam_rows",
            [floats(4, 3), floats(4, 3), floats(2, 3)],
            [rows, rows, floats_of(2, 3), array(2), floats_of(9)],
            {},
        ),
        (
            "adam_rows_added",
            [floats(4, 3), floats(4, 3), floats(4, 3)],
            [rows, rows, rows, floats_of(2, 3), array(2), floats_of(9)],
            {},
        ),
        ("add_rows", [floats(4, 3)], [rows, array(2), floats_of(2, 3)], {}),
    ]

    def run(name, results, operands, attributes):
        jax.block_until_ready(ffi.call(name, results)(*operands, **attributes))

    def misshaped(x, make):
        yield make((*x.shape, 1), x.dtype)
        if x.shape:
            yield make(x.shape[1:], x.dtype)

    # Extents that nothing else fixes are free: a change there is another good call. So a wrong
    # rank is tried everywhere, and a wrong extent where it has to fit its neighbours.
    for name, results, operands, attributes in good:
        if name != "unique_ids":
            run(name, results, operands, attributes)
        for i in range(len(operands)):
            for bad in misshaped(operands[i], np.zeros):
                with pytest.raises(Exception, match="sparse_jax: "):
                    run(name, results, [*operands[:i], bad, *operands[i + 1 :]], attributes)
        for i in range(len(results)):
            for bad in misshaped(results[i], jax.ShapeDtypeStruct):
                with pytest.raises(Exception, match="sparse_jax: "):
                    run(name, [*results[:i], bad, *results[i + 1 :]], operands, attributes)
        with pytest.raises(Exception, match=r"(?i)dtype|type"):
            run(name, results, [operands[0].astype(jnp.int8), *operands[1:]], attributes)
    build, query_call = good[0], good[2]
    for name, results, operands, attributes in (
        (*build[:3], dict(policy=np.int32(2))),
        ("tables_build", [spec(2, 5), spec(6), spec(2, 3, 4), spec(2, 3)], *build[2:]),
        ("tables_build", [spec(2, 5), spec(5), spec(2, 3, 4), spec(2, 4)], *build[2:]),
        ("tables_build", [spec(2, 5), spec(5), spec(2, 3, 0), spec(2, 3)], *build[2:]),
        ("tables_write", tables_results, [*tables_state, array(6), array(5, 2), *batch[2:]], write),
        ("tables_write", tables_results, [*tables_state, array(6), array(6, 3), *batch[2:]], write),
        (*query_call[:2], [array(2, 3, 4), array(5, 2), array()], query_call[3]),
        (*query_call[:2], [array(2, 3, 4), array(6, 3), array()], query_call[3]),
        ("tables_query", [spec(6, 3), spec(6, 2), spec(6)], *query_call[2:]),
        (*query_call[:3], dict(num_rows=np.int64(2**31))),
        (
            "softmax_loss",
            [floats(4, 3), floats(4), spec(4)],
            [rows, floats_of(2), array(7), array(7)],
            {},
        ),
        (
            "adam_rows",
            [floats(4, 3), floats(4, 3), floats(2, 3)],
            [rows, rows, floats_of(2, 3), array(2), floats_of(8)],
            {},
        ),
        ("add_rows", [floats(4, 3)], [rows, array(2), floats_of(3, 3)], {}),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(-1))),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(2**31))),
        ("unique_ids", [spec(4), spec(5), spec()], [array(6)], dict(num_rows=np.int64(9))),
        ("bag_forward", [spec(2, 4, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("bag_backward", [spec(4, 3, dtype=jnp.float32)], [rows, *bag, floats_of(6)], {}),
    ):
        with pytest.raises(Exception, match="sparse_jax: "):
            run(name, results, operands, attributes)


def test_update_many_equals_update(kernels):
    rng = np.random.default_rng(4)
    codes = jnp.asarray(rng.integers(0, 8, (60, 3)), jnp.int32)
    start = tables.init(60, num_tables=3, num_buckets=8, capacity=4, policy="fifo")
    run = jitted(kernels)
    held = run.insert(start, jnp.asarray(rng.permutation(60), jnp.int32), codes)
    ids = jnp.asarray(rng.permutation(60)[:20], jnp.int32)
    fresh = jnp.asarray(rng.integers(0, 8, (20, 3)), jnp.int32)
    moved = run.update(held, ids, fresh)
    at_once = jax.jit(lambda t: tables.update_many(t, t.codes.at[:, ids].set(fresh.T)))(held)
    jax.tree.map(np.testing.assert_array_equal, at_once, moved)
    with pytest.raises(ValueError, match="codes has shape"):
        tables.update_many(held, fresh)
    again = jax.jit(lambda t, c: tables.build(t, c, by_table=True))(held, moved.codes)
    other = run.build(held, moved.codes.T)
    jax.tree.map(np.testing.assert_array_equal, again, other)
