"""Checks of `sparse_jax.sharding` on 8 devices of one process, or on 6 of several processes.

`tests/sharding/test_parts.py` runs this file in a process of its own and shows what each check
raised; `test_processes.py` runs it in three processes together.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sharded_frame
from sharded_frame import (
    ALL,
    RNG,
    SHARDS,
    SPLIT,
    TABLE,
    TOGETHER,
    D,
    N,
    dealt,
    head_arguments,
    normal,
    real,
    run,
    some_ids,
    taken_of,
    whole,
)

from sparse_jax import layers, rows
from sparse_jax import sharding as sh
from sparse_jax.optim import rowwise
from sparse_jax.retrieval import index, quantized, schedules, topk
from sparse_jax.rows import RowSparse
from sparse_jax.sharding import parts, processes

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def both(test: Callable[[Any], None]) -> Callable[[], None]:
    def each() -> None:
        for by in ("hash",) if TOGETHER else ("range", "hash"):
            test(by)

    each.__name__ = test.__name__
    return check(each)


@jax.jit
def shared_set(key: jax.Array, labels: jax.Array) -> Any:
    return layers.active.shared_set(key, labels, size=60, num_rows=N)


@both
def rows_are_dealt_and_found_again(by: Any) -> None:
    table = dealt(by)
    assert table.array.sharding.spec == SPLIT
    assert len(table.array.addressable_shards) == SHARDS // jax.process_count()
    np.testing.assert_array_equal(sh.gather_rows(table), TABLE)
    array = processes.whole(table.array)
    assert len(array) - N == -N % SHARDS == (array == 0).all(axis=1).sum()


@both
def rows_come_and_go_as_from_one_table(by: Any) -> None:
    table, ids = dealt(by), some_ids(9)
    new = normal(ids.size, D)

    def step(array: jax.Array, ids: jax.Array, new: jax.Array) -> Any:
        way = parts.route(ids, table.dealing, capacity=9)
        given = parts.give_rows(new, way, per_shard=table.dealing.per_shard)
        assert given.distinct
        taken, moved = parts.take_rows(array, way), parts.add_rows(array, way, new)
        return taken, moved, given.to_dense(), way.overflow[None]

    taken, moved, given, overflow = run(step, table.array, ids, new, split="sss")
    np.testing.assert_array_equal(taken, taken_of(TABLE, real(ids)))
    merged = np.zeros_like(TABLE)
    np.add.at(merged, real(ids)[real(ids) >= 0], new[real(ids) >= 0])
    np.testing.assert_allclose(whole(moved, table.dealing), TABLE + merged, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole(given, table.dealing), merged, rtol=1e-5, atol=1e-6)
    assert overflow.tolist() == [0] * SHARDS


@both
def ids_beyond_the_capacity_are_counted_on_all_shards(by: Any) -> None:
    table, ids = dealt(by), some_ids(9)

    def step(array: jax.Array, ids: jax.Array) -> Any:
        way = parts.route(ids, table.dealing, capacity=1)
        unique = parts.unique_ids(ids, table.dealing, size=4, capacity=1)
        return parts.take_rows(array, way), way.overflow[None], unique.overflow[None]

    taken, overflow, again = run(step, table.array, ids, split="ss")
    owners, _ = table.dealing.place(ids)
    asked = np.zeros((SHARDS, SHARDS), int)
    for shard, owner in zip(np.arange(ids.size) // 9, np.asarray(owners), strict=True):
        asked[shard, owner] += owner >= 0
    lost = np.maximum(asked - 1, 0).sum()
    assert lost > 0 and overflow.tolist() == [lost] * SHARDS
    assert again[0] >= lost  # distinct ones have a limit of their own
    expected = taken_of(TABLE, real(ids))
    missing = (np.asarray(taken) != expected).any(axis=1)
    assert missing.sum() == lost and (np.asarray(taken)[missing] == 0).all()


@both
def distinct_rows_are_found_once(by: Any) -> None:
    table, ids = dealt(by), some_ids(9, 40)
    ids = real(ids, 40)
    size = 25

    def step(ids: jax.Array) -> Any:
        found = parts.unique_ids(ids, table.dealing, size=size, capacity=9)
        own = table.dealing.ids_of(jax.lax.axis_index(sh.AXIS), found.slots)
        return own, found.found[None], found.inverse, found.overflow[None]

    own, count, inverse, overflow = map(np.asarray, run(step, ids, split="s"))
    wanted = np.unique(ids)[1:]
    assert sorted(own[own >= 0]) == wanted.tolist() and count.sum() == wanted.size
    assert overflow.sum() == 0
    np.testing.assert_array_equal(np.where(inverse < 0, -1, own[inverse]), ids)


@both
def bags_and_their_gradient_are_those_of_one_table(by: Any) -> None:
    table, ids = dealt(by), some_ids(12)
    bags = 3
    segments = np.sort(RNG.integers(0, bags, (SHARDS, 12))).astype(np.int32).reshape(-1)
    weights, grad = normal(ids.size), normal(SHARDS * bags, D)

    def step(size: int) -> Any:
        def of_shard(array: Any, ids: Any, segments: Any, weights: Any, grad: Any) -> Any:
            entries = parts.gather_entries(ids, segments, weights, table.dealing, num_segments=bags)
            found = parts.bag_gradient(grad, entries, per_shard=table.dealing.per_shard, size=size)
            bag = parts.embedding_bag(array, entries)
            return bag, found.rows.to_dense(), found.overflow[None]

        return run(of_shard, table.array, ids, segments, weights, grad, split="sssss")

    bag, pulled, overflow = step(dealt(by).dealing.per_shard)
    everyones = segments + np.repeat(np.arange(SHARDS, dtype=np.int32) * bags, 12)

    @jax.jit
    def reference(table: jax.Array, grad: jax.Array, *entries: jax.Array) -> Any:
        ask = functools.partial(rows.embedding_bag, num_segments=SHARDS * bags)
        out, pull = jax.vjp(lambda t: ask(t, *entries), table)
        return out, pull(grad)[0]

    expected, pulled_by_one = reference(TABLE, grad, real(ids), everyones, weights)
    np.testing.assert_allclose(bag, expected, rtol=1e-5, atol=1e-6)
    pulled = whole(pulled, table.dealing)
    np.testing.assert_allclose(pulled, pulled_by_one, rtol=1e-5, atol=1e-6)
    assert overflow.tolist() == [0] * SHARDS
    if TOGETHER:  # what follows has been seen on 8 devices; here it is time to compile
        return
    _, _, overflow = step(1)
    touched = np.unique(np.asarray(table.dealing.place(ids)[0])[np.asarray(real(ids)) >= 0])
    assert overflow[0] == np.unique(real(ids)).size - 1 - touched.size > 0


@check
def an_active_set_is_that_of_one_machine() -> None:
    by = "hash"
    dealing, key, labels, label_rows = head_arguments(by)

    def step(capacity: int) -> Any:
        def of_shard(key: Any, labels: Any, label_rows: Any) -> Any:
            found = parts.active_set(
                key,
                labels,
                label_rows,
                dealing,
                size=60,
                capacity=capacity,
                num_examples=2 * SHARDS,
            )
            ids = dealing.ids_of(jax.lax.axis_index(sh.AXIS), found.slots)
            at = jnp.where(found.positions < 0, capacity, found.positions)
            labels_here = ids.at[at].get(mode="fill", fill_value=-1)
            counts = found.label_counts[None], found.overflow[None]
            return ids, found.places, labels_here[None], *counts

        return run(of_shard, key, labels, label_rows, split="aaa")

    ids, places, here, counts, overflow = map(np.asarray, step(40))
    chosen = shared_set(key, labels)
    assert sorted(ids[ids >= 0]) == sorted(np.asarray(chosen.ids)) and not overflow.any()
    np.testing.assert_array_equal(np.asarray(chosen.ids)[places[ids >= 0]], ids[ids >= 0])
    np.testing.assert_array_equal(here.max(axis=0), labels)
    assert ((here >= 0).sum(axis=0) == (labels >= 0)).all()
    expected = np.bincount(label_rows, weights=labels >= 0, minlength=2 * SHARDS)
    np.testing.assert_array_equal(counts, np.tile(expected, (SHARDS, 1)))
    if TOGETHER:
        return
    # Each shard holds what came first, and labels come before the fill; the rest is counted.
    ids, _, here, counts, overflow = map(np.asarray, step(2))
    owners = np.asarray(dealing.place(chosen.ids)[0])
    assert overflow[0] == np.maximum(np.bincount(owners, minlength=SHARDS) - 2, 0).sum() > 0
    first = [np.asarray(chosen.ids)[owners == s][:2] for s in range(SHARDS)]
    assert sorted(ids[ids >= 0]) == sorted(np.concatenate(first))
    assert counts[0].sum() == (here >= 0).sum() < expected.sum()


@check
def a_softmax_over_shards_is_that_of_one_machine() -> None:
    dealing, key, labels, label_rows = head_arguments()
    # Rows of length 1: examples that lie near the row of their last label score it best.
    rows_table = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
    bias_table = (RNG.standard_normal(N) / 50).astype(np.float32)
    output, bias = dealt("hash", rows_table), dealt("hash", bias_table)
    far = label_rows[::3, None] % 4 == 1
    last = taken_of(rows_table, labels.reshape(-1, 3).max(axis=1))
    noise = normal(2 * SHARDS, D)
    hidden = np.where(far, noise, last + noise / 50)
    weight = RNG.random(2 * SHARDS).astype(np.float32)

    def of_shard(output: Any, bias: Any, hidden: Any, weight: Any, *given: Any) -> Any:
        found = parts.active_set(*given, dealing, size=60, capacity=34, num_examples=2 * SHARDS)
        own = rows.take_rows(output, found.slots), rows.take_rows(bias, found.slots)
        masked = jnp.where(found.slots >= 0, own[1], -jnp.inf)
        run = lambda h, w, b: parts.softmax_head(  # noqa: E731
            h, w, b, given[2], found.positions, found.label_counts
        )
        head, pull = jax.vjp(run, hidden, own[0], masked)
        zeros = np.zeros(head.hit.shape, jax.dtypes.float0)
        grad_hidden, grad_rows, grad_bias = pull(type(head)(weight, zeros))
        full = RowSparse(found.slots, grad_rows, dealing.per_shard).to_dense()
        ends = RowSparse(found.slots, grad_bias, dealing.per_shard).to_dense()
        return head.loss, head.hit, grad_hidden, full, ends

    def sharded(hidden: np.ndarray) -> Any:
        arrays = output.array, bias.array, hidden, weight, key, labels, label_rows
        specs = dict(split="ssaaaaa", outs=(ALL, ALL, ALL, SPLIT, SPLIT))
        return run(of_shard, *arrays, **specs)

    chosen = shared_set(key, labels)

    @jax.jit
    def reference(hidden: jax.Array, table: jax.Array, bias: jax.Array, rows_of: jax.Array) -> Any:
        def head(h: jax.Array, w: jax.Array, b: jax.Array) -> Any:
            return layers.softmax_head(h, w[chosen.ids], b[chosen.ids], rows_of, chosen.positions)

        (loss, best), pull = jax.vjp(head, hidden, table, bias)
        return loss, best, pull((jnp.asarray(weight), np.zeros(best.shape, jax.dtypes.float0)))

    loss, best, grads = reference(hidden, rows_table, bias_table, label_rows)
    found = sharded(hidden)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(found[0], loss)
    hits = np.zeros(2 * SHARDS, bool)
    hit = np.asarray(chosen.positions) == np.asarray(best)[label_rows]
    np.logical_or.at(hits, label_rows, hit)
    assert 3 < hits.sum() < 10
    assert found[1].tolist() == hits.tolist()
    close(found[2], grads[0])
    close(whole(found[3], dealing), grads[1])
    close(whole(found[4], dealing), grads[2])
    # One NaN is seen by all whose loss it enters, whichever shard it comes from.
    hidden[5, 0] = np.nan
    broken = sharded(hidden)[0]
    assert np.isnan(broken[5]) and np.isfinite(np.delete(broken, 5)).all()


@check
def nan_and_infinity_are_counted_on_every_shard() -> None:
    x = np.zeros((SHARDS, 3), np.float32)
    x[2, 1], x[SHARDS - 1, 0] = np.nan, -np.inf
    found = run(lambda x: parts.count_not_finite([x, jnp.arange(2)])[None], x, split="s")
    assert found.tolist() == [2] * SHARDS


@both
def the_best_rows_are_those_of_one_machine(by: Any) -> None:
    table = dealt(by)
    biases = RNG.standard_normal(N).astype(np.float32)
    bias = dealt(by, biases)
    queries = normal(2 * SHARDS, D)

    def exact(k: int) -> Any:
        step = lambda x, w, b: parts.top_rows(x, w, b, table.dealing, k=k)  # noqa: E731
        found = run(step, queries, table.array, bias.array, split="sss")
        wanted = jax.jit(functools.partial(topk.rows, k=k))(queries, TABLE, biases)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
        return wanted

    if not TOGETHER:
        exact(N + 3)  # more than there are, on a shard and in all
    wanted = exact(4)

    def by_codes(x: Any, w: Any, b: Any) -> Any:
        b = parts.without_padding(b, table.dealing)
        codes = quantized.fit(jax.random.key(0), w, b, x)
        return parts.search_quantized(codes, x, w, b, table.dealing, k=4, rescored=34)

    found = run(by_codes, queries, table.array, bias.array, split="sss")
    np.testing.assert_array_equal(found.ids, wanted.ids)  # all rows rescored: exact


@check
def hash_tables_of_shards_find_what_one_table_finds() -> None:
    by = "hash"
    table = dealt(by)
    config = index.IndexConfig(
        num_tables=8,
        num_bits=3,
        transform="none",
        capacity=64,
        max_candidates=12,
        rehash=schedules.fixed(1),
        rebuild=schedules.fixed(1000),
    )
    queries = normal(SHARDS, D)
    key = jax.random.key(5)
    after = np.where(np.arange(N)[:, None] % 3 == 0, -TABLE, TABLE)
    moved = dealt(by, after)

    def step(key: Any, x: Any, w: Any, after: Any) -> Any:
        tables = index.init(key, w, config=config)
        if not TOGETHER:
            tables = index.mark(tables, jnp.arange(table.dealing.per_shard, dtype=jnp.int32))
            tables = index.maintain(tables, jnp.int32(1), after, config=config)
        return parts.candidates(tables, x, table.dealing, config=config)

    found = run(step, key, queries, table.array, moved.array, split="asss", outs=ALL)
    every = index.IndexConfig(**vars(config) | {"max_candidates": N})

    @jax.jit
    def of_one(key: jax.Array, x: jax.Array, w: jax.Array) -> Any:
        return index.candidates(index.init(key, w, config=config), x, config=every)

    wanted = jax.tree.map(np.asarray, of_one(key, queries, TABLE if TOGETHER else after))
    counts = {
        (q, int(i)): int(c)
        for q in range(SHARDS)
        for i, c in zip(wanted.ids[q], wanted.counts[q], strict=True)
        if i >= 0
    }
    np.testing.assert_array_equal(found.counts, wanted.counts[:, :12])
    for q in range(SHARDS):
        ids = np.asarray(found.ids[q])
        assert len(set(ids)) == 12
        assert [counts[q, int(i)] for i in ids] == found.counts[q].tolist()


@check
def optimizers_work_on_the_slots_of_their_shard() -> None:
    by = "hash"
    table, ids = dealt(by), real(some_ids(6))
    grads = normal(ids.size, D)
    # Distinct within a shard, as a step's are.
    every = (
        rowwise(optax.adam(0.1)),
        rowwise(optax.adagrad(0.1)),
        rowwise(optax.chain(optax.trace(0.9), optax.scale(-0.1)), decay="elapsed"),
    )
    for tx in every[: 1 if TOGETHER else 3]:

        def step(array: Any, ids: Any, grads: Any, tx: Any = tx) -> Any:
            state = tx.init(array)
            for turn in range(2):
                way = parts.route(ids, table.dealing, capacity=6)
                given = parts.give_rows(
                    grads * jnp.float32(1 + turn), way, per_shard=array.shape[0]
                )
                updates, state = tx.update(given, state, array)
                array = optax.apply_updates(array, updates)
            return array

        @jax.jit
        def of_one(array: jax.Array, ids: jax.Array, grads: jax.Array, tx: Any = tx) -> Any:
            state = tx.init(array)
            for turn in range(2):
                given = RowSparse(ids, grads * jnp.float32(1 + turn), N)
                updates, state = tx.update(given, state, array)
                array = optax.apply_updates(array, updates)
            return array

        wanted = of_one(TABLE, ids, grads)
        found = run(step, table.array, ids, grads, split="sss")
        np.testing.assert_allclose(whole(found, table.dealing), wanted, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    sharded_frame.start(SHARDS)
    sharded_frame.main(CHECKS, sys.argv[1:])
