"""The LSH index: hashing all rows, candidates, re-hashing and rebuilding on schedule."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.retrieval import hashing, index, schedules, tables
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.index import IndexConfig

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 60, 16
FAMILIES = sorted(set(hashing.FAMILIES) - {"minhash"})
KINDS = [(f, "centred") for f in FAMILIES] + [
    ("simhash", t) for t in transforms.NAMES if t != "centred"
]


def i32(values):
    return jnp.asarray(values, jnp.int32)


def rows_and_bias(seed, num_rows=N):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_rows, D + 1)).astype(np.float32)
    return jnp.asarray(values[:, :D]), jnp.asarray(values[:, D])


@functools.cache
def compiled_init(transform, capacity):
    config = make(transform=transform, capacity=capacity)
    return jax.jit(lambda key, weights: index.init(key, weights, config=config))


def make_index(config, weights, key=0):
    """`index.init`, compiled once for configs that differ in their schedules only."""
    state = compiled_init(config.transform, config.capacity)(jax.random.key(key), weights)
    return dataclasses.replace(state, rehash=config.rehash.init(), rebuild=config.rebuild.init())


def make(**changes):
    given = dict(num_tables=4, num_bits=6, capacity=3, max_candidates=8)
    given |= dict(rehash=schedules.fixed(2), rebuild=schedules.never())
    return IndexConfig(**given | changes)


def fresh(state, weights, bias):
    """The tables, built from nothing with the functions of `state`."""
    codes = hashing.hash(state.hash_params, transforms.keys(state.transform, weights, bias))
    empty = tables.init(
        weights.shape[0],
        num_tables=state.tables.num_tables,
        num_buckets=state.tables.num_buckets,
        capacity=state.tables.capacity,
        policy=state.tables.policy,
    )
    return tables.build(dataclasses.replace(empty, seed=state.tables.seed), codes)


def assert_same_tables(a, b):
    for name in ("buckets", "sizes", "codes", "stamps"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("family, transform", KINDS)
def test_rehashing_equals_building_anew_with_the_same_functions(family, transform):
    config = make(family=family, transform=transform)
    weights, bias = rows_and_bias(0)
    moved, moved_bias = rows_and_bias(1)
    ids = i32([3, 7, -1, 20, 21, 59])
    named = ids[ids >= 0]
    moved, moved_bias = (
        old.at[named].set(new[named]) for old, new in ((weights, moved), (bias, moved_bias))
    )

    @jax.jit
    def run(weights, bias, moved, moved_bias):
        state = index.init(jax.random.key(0), weights, bias, config=config)
        built = fresh(state, weights, bias)
        later = index.maintain(
            index.mark(state, ids), jnp.int32(2), moved, moved_bias, config=config
        )
        found = index.candidates(later, moved[:3], config=config)
        return state, built, later, fresh(later, moved, moved_bias), found

    state, built, later, expected, found = run(weights, bias, moved, moved_bias)
    assert_same_tables(state.tables, built)
    assert_same_tables(later.tables, expected)
    assert not np.array_equal(later.tables.codes, state.tables.codes)
    assert int(later.rehashed) == 5 and int(later.rebuilds) == 0
    assert not np.asarray(later.changed).any()
    assert int(state.tables.codes.max()) < 2**6 and int(state.tables.rejected) == 0
    assert found.ids.shape == (3, 8) and int(found.ids.max()) >= 0


def test_kernels_and_plain_jax_make_the_same_index(kernels):
    config = make()
    weights, _ = rows_and_bias(0)
    moved, _ = rows_and_bias(1)

    @jax.jit
    def run(weights):
        state = index.init(jax.random.key(0), weights, config=config)
        state = index.mark(state, jnp.arange(N, dtype=jnp.int32))
        return state, index.maintain(state, jnp.int32(2), moved, config=config)

    state, later = run(weights)
    assert_same_tables(later.tables, jax.jit(lambda s: fresh(s, moved, None))(state))
    assert_same_tables(state.tables, make_index(config, weights).tables)


def test_only_marked_rows_are_rehashed():
    config = make()
    weights, _ = rows_and_bias(0)
    moved, _ = rows_and_bias(1)  # every row has moved; two are marked
    state = make_index(config, weights)
    marked = index.mark(state, i32([5, -1, 9, 5]))
    assert np.flatnonzero(marked.changed).tolist() == [5, 9]
    run = jax.jit(lambda s: index.maintain(s, jnp.int32(2), moved, config=config))
    later, new = run(marked), np.asarray(jax.jit(fresh)(state, moved, None).codes)
    old, now = np.asarray(state.tables.codes), np.asarray(later.tables.codes)
    np.testing.assert_array_equal(now[:, [5, 9]], new[:, [5, 9]])
    others = np.delete(np.arange(N), [5, 9])
    np.testing.assert_array_equal(now[:, others], old[:, others])


@pytest.mark.parametrize("num_rows, chunk", [(N, 7), (N, 20)])
def test_hashing_some_rows_at_a_time_changes_nothing(monkeypatch, num_rows, chunk):
    config = make(transform="bias_centred")
    weights, bias = rows_and_bias(0, num_rows)
    moved, moved_bias = rows_and_bias(1, num_rows)

    def run():
        state = index.init(jax.random.key(0), weights, bias, config=config)
        state = index.mark(state, jnp.arange(0, num_rows, 2, dtype=jnp.int32))
        return state, index.maintain(state, jnp.int32(2), moved, moved_bias, config=config)

    whole = jax.jit(lambda: run())()
    monkeypatch.setattr(index, "_CHUNK", chunk)
    parts = jax.jit(lambda: run())()
    for a, b in zip(whole, parts, strict=True):
        assert_same_tables(a.tables, b.tables)


def test_rebuilding_draws_new_functions_and_clears_what_changed():
    config = make(rebuild=schedules.fixed(3))
    weights, _ = rows_and_bias(0)
    moved, _ = rows_and_bias(1)
    state = index.mark(make_index(config, weights), i32([1, 2]))
    maintain = jax.jit(lambda s, step: index.maintain(s, step, moved, config=config))
    quiet = maintain(state, jnp.int32(1))
    assert_same_tables(quiet.tables, state.tables)
    assert np.asarray(quiet.changed).sum() == 2
    rebuilt = maintain(state, jnp.int32(3))  # both are due: the rebuild covers the re-hash
    assert int(rebuilt.rebuilds) == 1 and int(rebuilt.rehashed) == 0
    assert not np.asarray(rebuilt.changed).any()
    assert_same_tables(rebuilt.tables, jax.jit(fresh)(rebuilt, moved, None))
    leaves = zip(
        jax.tree.leaves(rebuilt.hash_params), jax.tree.leaves(state.hash_params), strict=True
    )
    assert any(not np.array_equal(a, b) for a, b in leaves)
    assert not np.array_equal(rebuilt.transform.mean, state.transform.mean)
    again = maintain(rebuilt, jnp.int32(6))  # of the same rows: other functions once more
    assert not np.array_equal(again.tables.codes, rebuilt.tables.codes)


def test_schedules_drive_the_index_inside_scan_with_donation():
    config = make(rehash=schedules.fixed(2), rebuild=schedules.exponential(5, growth=2.0))
    weights, _ = rows_and_bias(0)
    state = make_index(config, weights)
    held = state.tables.buckets.unsafe_buffer_pointer()

    def body(carry, step):
        state, weights = carry
        ids = jnp.stack([step, step + jnp.int32(20)])
        weights = weights.at[ids].add(jnp.float32(0.5))
        state = index.maintain(index.mark(state, ids), step, weights, config=config)
        return (state, weights), (state.rehashed, state.rebuilds, jnp.sum(state.changed))

    run = jax.jit(
        lambda state, weights: jax.lax.scan(
            body, (state, weights), jnp.arange(1, 17, dtype=jnp.int32)
        ),
        donate_argnums=0,
    )
    (state, weights), (rehashed, rebuilds, changed) = run(state, weights)
    # Rebuilt at 5 and 15, re-hashed at even steps: what changed since the last of either.
    assert rebuilds.tolist() == [0] * 4 + [1] * 10 + [2] * 2
    assert rehashed.tolist() == [0, 4, 4, 8, 8, 10, 10, 14, 14, 18, 18, 22, 22, 26, 26, 28]
    assert changed.tolist() == [2, 0, 2, 0, 0, 0, 2, 0, 2, 0, 2, 0, 2, 0, 0, 0]
    assert_same_tables(state.tables, jax.jit(fresh)(state, weights, None))
    assert state.tables.buckets.unsafe_buffer_pointer() == held


def test_drift_is_measured_and_drives_the_rehash():
    config = make(rehash=schedules.drifted(0.1, check_every=1), transform="none")
    weights, _ = rows_and_bias(0)
    moved, _ = rows_and_bias(1)
    state = make_index(config, weights)
    state = index.mark(state, jnp.arange(N, dtype=jnp.int32))
    measure = jax.jit(lambda w: index.measure_drift(state, w, config=config))
    assert float(measure(weights)) == 0
    # SimHash: a bit differs with probability theta / pi: 1/2 for rows unrelated, 1 for -w.
    assert abs(float(measure(moved)) - 0.5) < 0.05
    assert float(measure(-weights)) > 0.99
    slightly = weights + jnp.float32(0.01) * moved
    assert 0 < float(measure(slightly)) < 0.05
    some = index.measure_drift(state, moved, config=config, sample=7)
    assert 0.3 < float(some) < 0.7

    maintain = jax.jit(lambda w: index.maintain(state, jnp.int32(1), w, config=config))
    assert int(maintain(slightly).rehashed) == 0 and int(maintain(moved).rehashed) == N


@pytest.mark.parametrize("transform", ["none", "centred", "norm_range"])
def test_candidates_find_the_largest_inner_products_far_above_chance(transform):
    num_rows, k = 2000, 10
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(num_rows, 32)).astype(np.float32)
    queries = rng.normal(size=(64, 32)).astype(np.float32)
    config = IndexConfig(transform=transform, num_tables=24, num_bits=7, max_candidates=100)

    @jax.jit
    def find(weights, queries):
        state = index.init(jax.random.key(2), weights, config=config)
        return index.candidates(state, queries, config=config).ids

    found = np.asarray(find(weights, queries))
    best = np.argsort(-queries @ weights.T, axis=1)[:, :k]
    recall = np.mean([len(set(f) & set(b)) for f, b in zip(found, best, strict=True)]) / k
    chance = 100 / num_rows
    assert recall > 6 * chance


def test_candidates_of_a_row_begin_with_the_row_itself():
    config = make(transform="none", capacity=N)
    weights, _ = rows_and_bias(0)
    state = make_index(config, weights)
    found = index.candidates(state, weights, config=config)
    np.testing.assert_array_equal(found.counts[:, 0], 4)
    assert np.mean(np.asarray(found.ids[:, 0]) == np.arange(N)) > 0.95


def test_an_index_is_a_function_of_its_key():
    config = make()
    weights, _ = rows_and_bias(0)
    codes = [make_index(config, weights, key).tables.codes for key in (0, 0, 1)]
    assert np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2])


def test_bucket_capacity():
    assert IndexConfig(num_bits=9).bucket_capacity(512 * 10) == 40
    assert IndexConfig(num_bits=9).bucket_capacity(5) == 8
    assert IndexConfig(num_bits=9).bucket_capacity(10**7) == 128
    assert IndexConfig(capacity=5).bucket_capacity(10**7) == 5


@pytest.mark.parametrize("family", ["minhash", "simhsh"])
def test_families_that_do_not_fit_are_refused(family):
    with pytest.raises(ValueError, match=f"family = '{family}': must be one of"):
        index.init(jax.random.key(0), jnp.ones((4, 4)), config=IndexConfig(family=family))
