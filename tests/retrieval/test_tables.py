"""The hash tables against a plain Python model, on the kernels and on the pure-JAX fallback."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_tables import Model
from table_tools import (
    BATCH,
    BUCKETS,
    QUERIES,
    ROWS,
    SIZES,
    TABLES,
    WILD,
    assert_same,
    ints,
    jitted,
    random_codes,
    state,
)

from sparse_jax.ops import ffi
from sparse_jax.retrieval import tables

pytestmark = pytest.mark.usefixtures("quick_compiles")

given_settings = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


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


@pytest.mark.skipif(not ffi.AVAILABLE, reason="no C++ kernels to compare with the fallback")
@pytest.mark.parametrize("policy", ["reservoir", "fifo"])
def test_kernels_equal_fallback_where_work_is_shared(monkeypatch, policy):
    # Large enough for several threads.
    codes = random_codes(2, 6000, 5, 64)
    ids, fresh = np.arange(0, 6000, 3, dtype=np.int32), random_codes(3, 2000, 5, 64)
    results = []
    for available in (True, False):
        monkeypatch.setattr(ffi, "AVAILABLE", available)
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
    t = jitted(kernels).insert(t, ints([2, 3, 2]), ints([[0], [1], [3]]))
    assert t.codes[0].tolist() == [-1, -1, 3, 1, -1]


def test_full_buckets_drop_and_stats_say_so(kernels):
    t = tables.init(10, num_tables=2, num_buckets=4, capacity=3)
    stats = jax.jit(tables.stats)
    assert float(stats(t).empty_fraction) == 1.0
    t = jitted(kernels).build(t, ints([[0, row % 4] for row in range(10)]))
    got = stats(t)
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
