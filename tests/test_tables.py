"""The hash tables against a plain Python model, on the kernels and on the pure-JAX fallback."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_tables import Model

from sparse_jax import _ffi, tables

ROWS, TABLES, BUCKETS, BATCH, QUERIES = 11, 2, 3, 4, 2
WILD = [-(2**31), -(2**31) + 1, -2, 2**31 - 1]
SIZES = dict(num_tables=TABLES, num_buckets=BUCKETS)

given_settings = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@functools.cache
def jitted(kind):
    """One set of jitted functions for "ffi" and "jax": jit remembers by function."""
    return types.SimpleNamespace(
        build=jax.jit(lambda t, c: tables.build(t, c)),
        insert=jax.jit(lambda t, i, c: tables.insert(t, i, c)),
        update=jax.jit(lambda t, i, c: tables.update(t, i, c)),
        remove=jax.jit(lambda t, i: tables.remove(t, i)),
        query=jax.jit(lambda t, c, n: tables.query(t, c, max_candidates=n), static_argnums=2),
    )


def ints(values):
    return jnp.asarray(np.asarray(values, np.int32))


def random_codes(seed, rows, num_tables=TABLES, num_buckets=BUCKETS):
    return np.random.default_rng(seed).integers(-1, num_buckets, (rows, num_tables), np.int32)


def state(t):
    return {f.name: getattr(t, f.name) for f in dataclasses.fields(t) if f.name != "policy"}


def assert_same(a, b):
    """Bit for bit, whichever of `HashTables`, `Model` or NamedTuple they are."""
    a, b = (x.arrays() if isinstance(x, Model) else x for x in (a, b))
    a, b = (state(x) if isinstance(x, tables.HashTables) else x for x in (a, b))
    if isinstance(a, dict):
        for name in set(a) & set(b):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    else:
        jax.tree.map(np.testing.assert_array_equal, a, b)


# --- against the model ---------------------------------------------------------------------------

any_id = st.integers(-1, ROWS) | st.sampled_from(WILD)
good_code = st.integers(-1, BUCKETS - 1)
any_code = good_code | st.sampled_from([*WILD, BUCKETS])


def rows_of(code, length):
    return st.lists(
        st.lists(code, min_size=TABLES, max_size=TABLES), min_size=length, max_size=length
    )


batch_ids = st.lists(any_id, min_size=BATCH, max_size=BATCH)
operation = st.one_of(
    st.tuples(st.just("build"), st.none(), rows_of(any_code, ROWS)),
    st.tuples(st.sampled_from(["insert", "update"]), batch_ids, rows_of(good_code, BATCH)),
    st.tuples(st.sampled_from(["insert", "update"]), batch_ids, rows_of(any_code, BATCH)),
    st.tuples(st.just("remove"), batch_ids, st.none()),
)


@pytest.mark.parametrize(("policy", "capacity"), [("reservoir", 2), ("fifo", 2), ("fifo", 1)])
@given_settings
@given(
    operations=st.lists(operation, min_size=1, max_size=8),
    queries=rows_of(any_code, QUERIES),
    seed=st.integers(-(2**40), 2**40),
)
def test_equals_the_model(kernels, policy, capacity, operations, queries, seed):
    run = jitted(kernels)
    t = tables.init(ROWS, capacity=capacity, policy=policy, seed=seed, **SIZES)
    model = Model(ROWS, TABLES, BUCKETS, capacity, policy, seed)
    assert_same(t, model)
    for name, ids, codes in operations:
        if name == "build":
            t = run.build(t, ints(codes))
            model.build(codes)
        elif name == "remove":
            t = run.remove(t, ints(ids))
            model.remove(ids)
        else:
            t = getattr(run, name)(t, ints(ids), ints(codes))
            model.write(ids, codes, restamp=name == "insert")
        assert_same(t, model)
    for most in (1, 3, 9):
        found = run.query(t, ints(queries), most)
        for i, codes in enumerate(queries):
            ids, counts, distinct = model.query(codes, most)
            assert found.ids[i].tolist() == ids
            assert found.counts[i].tolist() == counts
            assert int(found.distinct[i]) == distinct


@pytest.mark.parametrize("policy", ["reservoir", "fifo"])
def test_update_equals_rebuild(kernels, policy):
    run = jitted(kernels)
    rng = np.random.default_rng(5)
    codes = random_codes(1, 300, 3, 7)
    empty = tables.init(300, num_tables=3, num_buckets=7, capacity=16, policy=policy, seed=9)
    t = run.build(empty, ints(codes))
    for _ in range(6):
        ids = rng.choice(300, 40, replace=False).astype(np.int32)
        codes[ids] = rng.integers(-1, 7, (40, 3))
        t = run.update(t, ints(ids), ints(codes[ids]))
        assert_same(t, run.build(empty, ints(codes)))


@pytest.mark.skipif(not _ffi.AVAILABLE, reason="no C++ kernels to compare with the fallback")
@pytest.mark.parametrize("policy", ["reservoir", "fifo"])
def test_kernels_equal_fallback_where_work_is_shared(monkeypatch, policy):
    # Large enough for several threads.
    codes = random_codes(2, 6000, 5, 64)
    ids, fresh = np.arange(0, 6000, 3, dtype=np.int32), random_codes(3, 2000, 5, 64)
    results = []
    for available in (True, False):
        monkeypatch.setattr(_ffi, "AVAILABLE", available)
        t = tables.init(6000, num_tables=5, num_buckets=64, capacity=48, policy=policy)
        run = jitted("ffi" if available else "jax")
        t = run.insert(run.build(t, ints(codes)), ints(ids), ints(fresh))
        results.append((state(t), run.query(t, ints(fresh[:300]), 50)))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])


# --- what a bucket keeps -------------------------------------------------------------------------


def test_reservoir_is_uniform(kernels):
    members, capacity, seeds = 20, 5, 3000
    codes = ints(np.zeros((members, 2)))
    t = tables.init(members, num_tables=2, num_buckets=1, capacity=capacity)
    run = jitted(kernels)
    kept = np.zeros((seeds, 2, members))
    for seed in range(seeds):
        found = run.build(dataclasses.replace(t, seed=ints(seed)), codes).buckets
        for table in range(2):
            kept[seed, table, np.asarray(found[table, 0])] = 1
    share = capacity / members
    sigma = np.sqrt(share * (1 - share) / seeds)
    assert np.abs(kept.mean(0) - share).max() < 3 * sigma
    # Of each table anew: the same row is in both no more often than chance has it.
    both = (kept[:, 0] * kept[:, 1]).mean()
    assert abs(both - share**2) < 3 * np.sqrt(share**2 * (1 - share**2) / (seeds * members))


def test_reservoir_does_not_depend_on_the_order_of_insertion(kernels):
    codes = random_codes(4, ROWS)
    run = jitted(kernels)
    empty = tables.init(ROWS, capacity=2, seed=3, **SIZES)
    built = run.build(empty, ints(codes))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(ROWS).astype(np.int32)
        t = empty
        for part in np.array_split(np.concatenate([order, [-1]]), 3):
            t = run.insert(t, ints(part), ints(codes[part]))
        np.testing.assert_array_equal(t.buckets, built.buckets)
        np.testing.assert_array_equal(t.sizes, built.sizes)


def test_fifo_keeps_the_newest(kernels):
    run = jitted(kernels)
    t = tables.init(10, num_tables=1, num_buckets=1, capacity=3, policy="fifo")
    for row in (4, 9, 1, 0, 7):
        t = run.insert(t, ints([row]), ints([[0]]))
    assert t.buckets[0, 0].tolist() == [7, 0, 1]
    t = run.insert(t, ints([9]), ints([[0]]))  # again: new once more
    assert t.buckets[0, 0].tolist() == [9, 7, 0]
    t = run.update(t, ints([4]), ints([[0]]))  # re-hashed: as old as before
    assert t.buckets[0, 0].tolist() == [9, 7, 0]
    t = run.remove(t, ints([7]))  # the best of those outside comes in
    assert t.buckets[0, 0].tolist() == [9, 0, 1]


def test_of_equal_ids_the_last_counts(kernels):
    t = tables.init(5, num_tables=1, num_buckets=4)
    t = tables.insert(t, ints([2, 3, 2]), ints([[0], [1], [3]]))
    assert t.codes[0].tolist() == [-1, -1, 3, 1, -1]


def test_full_buckets_drop_and_stats_say_so(kernels):
    t = tables.init(10, num_tables=2, num_buckets=4, capacity=3)
    assert float(tables.stats(t).empty_fraction) == 1.0
    t = tables.build(t, ints([[0, row % 4] for row in range(10)]))
    got = tables.stats(t)
    assert (int(got.members), int(got.dropped), int(got.largest)) == (20, 7, 10)
    assert float(got.empty_fraction) == 3 / 8
    assert int(got.rejected) == 0


def test_ties_are_in_seeded_order(kernels):
    run = jitted(kernels)
    codes, query = ints(np.zeros((8, 1))), ints([[0]])
    orders = set()
    for seed in range(20):
        t = tables.init(8, num_tables=1, num_buckets=1, capacity=8, seed=seed)
        first, second = (run.query(run.build(t, codes), query, 8).ids[0] for _ in range(2))
        assert first.tolist() == second.tolist()
        assert sorted(first.tolist()) == list(range(8))
        orders.add(tuple(first.tolist()))
    assert len(orders) > 15


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "codes", "named"),
    [
        ([0, ROWS], [[0, 0], [0, 0]], f"ids holds {ROWS}"),
        ([0, -2], [[0, 0], [0, 0]], "ids holds -2"),
        ([0, 1], [[0, BUCKETS], [0, 0]], f"codes holds {BUCKETS}"),
        ([0, 1], [[0, 0], [-(2**31), 0]], "codes holds -2147483648"),
    ],
)
def test_out_of_range(kernels, ids, codes, named):
    run = jitted(kernels)
    t = tables.build(tables.init(ROWS, capacity=2, **SIZES), ints(random_codes(6, ROWS)))
    for function in (tables.insert, tables.update):
        with pytest.raises(ValueError, match=named):
            function(t, ints(ids), ints(codes))
    if "ids" in named:
        with pytest.raises(ValueError, match=named):
            tables.remove(t, ints(ids))
    bad = [0] if named.startswith("codes") and codes[0][1] == BUCKETS else [1]
    only = (ints(ids)[jnp.array(bad)], ints(codes)[jnp.array(bad)])
    after = run.update(t, *only)
    assert int(after.rejected) == 1
    assert_same(dataclasses.replace(after, rejected=t.rejected), t)
    assert int(run.update(after, ints(ids), ints(codes)).rejected) == 2  # it adds up


def test_build_counts_codes_out_of_range(kernels):
    codes = random_codes(7, ROWS)
    codes[3, 1], codes[4, 0], codes[5, 0] = BUCKETS, -2, -1
    t = tables.build(tables.init(ROWS, **SIZES), ints(codes))
    assert int(tables.stats(t).rejected) == 2
    assert int(t.codes[1, 3]) == int(t.codes[0, 4]) == int(t.codes[0, 5]) == -1


def test_padding_is_no_write(kernels):
    run = jitted(kernels)
    t = run.build(tables.init(ROWS, **SIZES), ints(random_codes(8, ROWS)))
    none = ints([-1] * BATCH)
    assert_same(run.update(t, none, ints(np.zeros((BATCH, TABLES)))), t)
    assert_same(run.remove(t, none), t)
    assert_same(run.update(t, none[:0], ints(np.zeros((0, TABLES)))), t)
    empty = run.query(t, ints(np.zeros((0, TABLES))), 2)
    assert empty.ids.shape == (0, 2) and empty.distinct.shape == (0,)
    nothing = run.query(t, ints([[-1, -1], [-1, 99]]), 2)
    assert nothing.ids.tolist() == [[-1, -1]] * 2 and nothing.distinct.tolist() == [0, 0]


def test_wrong_dtypes_and_shapes(kernels):
    t = tables.init(ROWS, **SIZES)
    ids, codes = ints([1, 2]), ints(np.zeros((2, TABLES)))
    floats = codes.astype(jnp.float32)
    for call in (
        lambda: tables.build(t, jnp.zeros((ROWS, TABLES), jnp.float32)),
        lambda: tables.insert(t, ids.astype(jnp.float32), codes),
        lambda: tables.insert(t, np.array([1, 2]), codes),
        lambda: tables.insert(t, [1, 2], codes),
        lambda: tables.update(t, ids, floats),
        lambda: tables.update(t, ids, codes.astype(jnp.uint32)),
        lambda: tables.remove(t, ids.astype(jnp.int16)),
        lambda: tables.query(t, floats, max_candidates=1),
        lambda: tables.query(t, [[0, 0]], max_candidates=1),
    ):
        with pytest.raises(TypeError, match=r"(ids|codes) (has dtype|is a)"):
            call()
    for call in (
        lambda: tables.build(t, codes),
        lambda: tables.insert(t, ids[:, None], codes),
        lambda: tables.insert(t, ints(3), codes),
        lambda: tables.insert(t, ids, codes[:1]),
        lambda: tables.update(t, ids, codes.T[:1]),
        lambda: tables.remove(t, ids[:, None]),
        lambda: tables.query(t, codes[0], max_candidates=1),
        lambda: tables.query(t, ints(0), max_candidates=1),
        lambda: tables.query(t, codes[:, :1], max_candidates=1),
    ):
        with pytest.raises(ValueError, match=r"(ids|codes) has shape"):
            call()
    with pytest.raises(ValueError, match="max_candidates = 0"):
        tables.query(t, codes, max_candidates=0)


def test_init_refuses():
    for name in ("num_rows", "num_tables", "num_buckets", "capacity"):
        for value in (0, -1, 2**31):
            sizes = dict(num_rows=3, num_tables=1, num_buckets=1, capacity=1) | {name: value}
            with pytest.raises(ValueError, match=f"{name} = {value}"):
                tables.init(**sizes)
    with pytest.raises(ValueError, match="policy = 'newest'"):
        tables.init(3, num_tables=1, num_buckets=1, policy="newest")


def test_memory_bytes():
    for rows, sizes in ((1, (1, 1, 1)), (100, (3, 8, 5))):
        names = dict(zip(("num_tables", "num_buckets", "capacity"), sizes, strict=True))
        t = tables.init(rows, **names)
        total = sum(x.nbytes for x in jax.tree.leaves(t))
        assert tables.memory_bytes(rows, **names) == total
        assert (t.num_rows, t.num_tables, t.num_buckets, t.capacity) == (rows, *sizes)


# --- inside JAX ----------------------------------------------------------------------------------


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


@pytest.mark.skipif(not _ffi.AVAILABLE, reason="the fallback works on copies")
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
from sparse_jax import _ffi, tables
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
print(_ffi.AVAILABLE, digest.hexdigest())
"""


def test_identical_bits_at_any_thread_count():
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HASH_SCRIPT],
            env=os.environ | {"NPROC": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2", "5")
    ]
    results = [child.communicate(timeout=300)[0] for child in children]
    assert all(child.returncode == 0 for child in children)
    # With the kernels if this process has them: the children found the same package.
    assert results[0].split()[0] == str(_ffi.AVAILABLE)
    assert len(set(results)) == 1


# --- the door to the kernels ---------------------------------------------------------------------


@pytest.mark.skipif(not _ffi.AVAILABLE, reason="no C++ kernels")
def test_malformed_calls_of_the_kernels_are_errors():
    def spec(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    def floats(*shape):
        return spec(*shape, dtype=jnp.float32)

    def array(*shape):
        return jnp.zeros(shape, jnp.int32)

    reservoir = dict(policy=np.int32(0))
    write = dict(reservoir, restamp=np.int32(0))
    tables_results = [spec(2, 3, 4), spec(2, 3), spec(2, 5), spec(5), spec()]
    tables_state = [array(2, 3, 4), array(2, 3), array(2, 5), array(5)]
    batch = [array(6), array(6, 2), array(), array()]
    query = [spec(6, 3), spec(6, 3), spec(6)]
    bag = [array(7), array(7)]
    rows, weights = jnp.zeros((4, 3)), jnp.zeros(7)
    good = [
        ("tables_build", [spec(2, 5), spec(5), spec(2, 3, 4), spec(2, 3)],
         [array(2, 5), array(5), array()], reservoir),
        ("tables_write", tables_results, [*tables_state, *batch], write),
        ("tables_query", query, [array(2, 3, 4), array(6, 2), array()],
         dict(num_rows=np.int64(5))),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(9))),
        ("bag_forward", [spec(2, 3, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("bag_backward", [spec(4, 3, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("split_columns", [floats(3, 3), floats(3)], [rows], {}),
        ("softmax_loss", [floats(4, 3), floats(4), spec(4)],
         [rows, jnp.zeros(3), array(7), array(7)], {}),
        ("adam_rows", [floats(4, 3), floats(4, 3), floats(2, 3)],
         [rows, rows, jnp.zeros((2, 3)), array(2), jnp.ones(9)], {}),
        ("add_rows", [floats(4, 3)], [rows, array(2), jnp.zeros((2, 3))], {}),
    ]  # fmt: skip

    def run(name, results, operands, attributes):
        jax.block_until_ready(_ffi.call(name, results)(*operands, **attributes))

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
            for bad in misshaped(operands[i], jnp.zeros):
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
            [rows, jnp.zeros(2), array(7), array(7)],
            {},
        ),
        (
            "adam_rows",
            [floats(4, 3), floats(4, 3), floats(2, 3)],
            [rows, rows, jnp.zeros((2, 3)), array(2), jnp.ones(8)],
            {},
        ),
        ("add_rows", [floats(4, 3)], [rows, array(2), jnp.zeros((3, 3))], {}),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(-1))),
        ("unique_ids", [spec(4), spec(6), spec()], [array(6)], dict(num_rows=np.int64(2**31))),
        ("unique_ids", [spec(4), spec(5), spec()], [array(6)], dict(num_rows=np.int64(9))),
        ("bag_forward", [spec(2, 4, dtype=jnp.float32)], [rows, *bag, weights], {}),
        ("bag_backward", [spec(4, 3, dtype=jnp.float32)], [rows, *bag, jnp.zeros(6)], {}),
    ):
        with pytest.raises(Exception, match="sparse_jax: "):
            run(name, results, operands, attributes)


def test_update_many_equals_update(kernels):
    rng = np.random.default_rng(4)
    codes = jnp.asarray(rng.integers(0, 8, (60, 3)), jnp.int32)
    start = tables.init(60, num_tables=3, num_buckets=8, capacity=4, policy="fifo")
    held = tables.insert(start, jnp.asarray(rng.permutation(60), jnp.int32), codes)
    ids = jnp.asarray(rng.permutation(60)[:20], jnp.int32)
    fresh = jnp.asarray(rng.integers(0, 8, (20, 3)), jnp.int32)
    moved = tables.update(held, ids, fresh)
    at_once = jax.jit(lambda t: tables.update_many(t, t.codes.at[:, ids].set(fresh.T)))(held)
    jax.tree.map(np.testing.assert_array_equal, at_once, moved)
    with pytest.raises(ValueError, match="codes has shape"):
        tables.update_many(held, fresh)
    again = tables.build(held, moved.codes, by_table=True)
    other = tables.build(held, moved.codes.T)
    jax.tree.map(np.testing.assert_array_equal, again, other)
