"""Checks of `sparse_jax.sharding` on 8 devices in one process, which XLA makes up when it starts.

`tests/sharding/test_parts.py` runs this file in a process of its own and shows what each check
raised; `test_processes.py` runs it in several processes of 6 devices together. Arrays are dealt to
the shards unevenly: N is a multiple of neither.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import layers, rows
from sparse_jax import sharding as sh
from sparse_jax.optim import rowwise
from sparse_jax.retrieval import index, quantized, schedules, topk
from sparse_jax.rows import RowSparse
from sparse_jax.sharding import parts, processes

TOGETHER = "SPARSE_JAX_PROCESSES" in os.environ
SHARDS, N, D = (6 if TOGETHER else 8), 203, 5
SPLIT, ALL = jax.P(sh.AXIS), jax.P()
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((N, D)).astype(np.float32)
START = RNG.bit_generator.state
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def run(function: Any, *args: Any, split: str, outs: Any = SPLIT) -> Any:
    """Calls it on the mesh; split says of each argument whether it is split: "s" or "a" for all."""
    specs = tuple(SPLIT if kind == "s" else ALL for kind in split)
    mapped = sh.on_shards(function, sh.mesh(SHARDS), in_specs=specs, out_specs=outs)
    return jax.tree.map(processes.whole, jax.jit(mapped)(*args))


def dealt(by: Any, table: np.ndarray = TABLE) -> sh.ShardedRows:
    return sh.shard_rows(table, sh.mesh(SHARDS), by=by)


def whole(array: np.ndarray, dealing: sh.Dealing) -> np.ndarray:
    """A result of `run` in order of id."""
    owners, slots = map(np.asarray, dealing.place(jnp.arange(dealing.num_rows, dtype=jnp.int32)))
    return array[owners * dealing.per_shard + slots]


def some_ids(count: int, most: int = N) -> jax.Array:
    """Ids of all shards, repeats, padding and what is no row among them."""
    ids = RNG.integers(0, most, SHARDS * count).astype(np.int32)
    ids[::7], ids[3::11], ids[5::13] = -1, most, most + 4
    return jnp.asarray(ids)


def real(ids: Any, most: int = N) -> jax.Array:
    return jnp.where(ids < most, ids, -1)


def both(test: Callable[[Any], None]) -> Callable[[], None]:
    def each() -> None:
        for by in ("hash",) if TOGETHER else ("range", "hash"):
            test(by)

    each.__name__ = test.__name__
    return check(each)


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
    new = jnp.asarray(RNG.standard_normal((ids.size, D)), jnp.float32)

    def step(array: jax.Array, ids: jax.Array, new: jax.Array) -> Any:
        way = parts.route(ids, table.dealing, capacity=9)
        given = parts.give_rows(new, way, per_shard=table.dealing.per_shard)
        assert given.distinct
        taken, moved = parts.take_rows(array, way), parts.add_rows(array, way, new)
        return taken, moved, given.to_dense(), way.overflow[None]

    taken, moved, given, overflow = run(step, table.array, ids, new, split="sss")
    np.testing.assert_array_equal(taken, rows.take_rows(TABLE, real(ids)))
    merged = RowSparse(real(ids), new, N).to_dense()
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
    expected = np.asarray(rows.take_rows(TABLE, real(ids)))
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
    segments = jnp.asarray(np.sort(RNG.integers(0, bags, (SHARDS, 12))), jnp.int32).reshape(-1)
    weights = jnp.asarray(RNG.standard_normal(ids.size), jnp.float32)
    grad = jnp.asarray(RNG.standard_normal((SHARDS * bags, D)), jnp.float32)

    def step(size: int) -> Any:
        def of_shard(array: Any, ids: Any, segments: Any, weights: Any, grad: Any) -> Any:
            entries = parts.gather_entries(ids, segments, weights, table.dealing, num_segments=bags)
            found = parts.bag_gradient(grad, entries, per_shard=table.dealing.per_shard, size=size)
            bag = parts.embedding_bag(array, entries)
            return bag, found.rows.to_dense(), found.overflow[None]

        return run(of_shard, table.array, ids, segments, weights, grad, split="sssss")

    bag, pulled, overflow = step(dealt(by).dealing.per_shard)
    everyones = segments + jnp.repeat(jnp.arange(SHARDS, dtype=jnp.int32) * bags, 12)

    def reference(table: jax.Array) -> jax.Array:
        return rows.embedding_bag(table, real(ids), everyones, weights, num_segments=SHARDS * bags)

    expected, pull = jax.vjp(reference, jnp.asarray(TABLE))
    np.testing.assert_allclose(bag, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole(pulled, table.dealing), pull(grad)[0], rtol=1e-5, atol=1e-6)
    assert overflow.tolist() == [0] * SHARDS
    if TOGETHER:  # what follows has been seen on 8 devices; here it is time to compile
        return
    _, _, overflow = step(1)
    touched = np.unique(np.asarray(table.dealing.place(ids)[0])[np.asarray(real(ids)) >= 0])
    assert overflow[0] == np.unique(real(ids)).size - 1 - touched.size > 0


def head_arguments(capacity: int, by: Any = "hash") -> Any:
    """(dealing, key, labels, label rows) of all shards, one example without labels."""
    examples = 2 * SHARDS
    labels = np.full((examples, 3), -1, np.int32)
    for row in range(examples):
        labels[row, : row % 3] = RNG.choice(N, row % 3, replace=False)
    rows_of = np.repeat(np.arange(examples, dtype=np.int32), 3)
    dealing = sh.Dealing(N, SHARDS, by)
    return dealing, jax.random.key(3), jnp.asarray(labels.reshape(-1)), jnp.asarray(rows_of)


@check
def an_active_set_is_that_of_one_machine() -> None:
    by = "hash"
    dealing, key, labels, label_rows = head_arguments(40, by)

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
    chosen = layers.active.shared_set(key, labels, size=60, num_rows=N)
    assert sorted(ids[ids >= 0]) == sorted(np.asarray(chosen.ids)) and not overflow.any()
    np.testing.assert_array_equal(np.asarray(chosen.ids)[places[ids >= 0]], ids[ids >= 0])
    np.testing.assert_array_equal(here.max(axis=0), labels)
    assert ((here >= 0).sum(axis=0) == np.asarray(labels >= 0)).all()
    expected = np.bincount(label_rows, weights=np.asarray(labels) >= 0, minlength=2 * SHARDS)
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
    dealing, key, labels, label_rows = head_arguments(40)
    # Rows of length 1: examples that lie near the row of their last label score it best.
    rows_table = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
    bias_table = (RNG.standard_normal(N) / 50).astype(np.float32)
    output, bias = dealt("hash", rows_table), dealt("hash", bias_table)
    far = label_rows[::3, None] % 4 == 1
    last = rows.take_rows(rows_table, jnp.max(labels.reshape(-1, 3), axis=1))
    noise = jnp.asarray(RNG.standard_normal((2 * SHARDS, D)), jnp.float32)
    hidden = jnp.where(far, noise, last + noise / 50)
    weight = jnp.asarray(RNG.random(2 * SHARDS), jnp.float32)

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

    def sharded(hidden: jax.Array) -> Any:
        arrays = output.array, bias.array, hidden, weight, key, labels, label_rows
        return run(of_shard, *arrays, split="ssssaaa")

    chosen = layers.active.shared_set(key, labels, size=60, num_rows=N)

    def reference(h: jax.Array, table: jax.Array, bias: jax.Array) -> Any:
        return layers.softmax_head(
            h, table[chosen.ids], bias[chosen.ids], label_rows, chosen.positions
        )

    (loss, best), pull = jax.vjp(
        reference, hidden, jnp.asarray(rows_table), jnp.asarray(bias_table)
    )
    grads = pull((weight, np.zeros(best.shape, jax.dtypes.float0)))
    found = sharded(hidden)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    close(found[0], loss)
    hits = np.zeros(2 * SHARDS, bool)
    hit = np.asarray(chosen.positions == best[label_rows])
    np.logical_or.at(hits, np.asarray(label_rows), hit)
    assert 3 < hits.sum() < 10
    assert found[1].tolist() == hits.tolist()
    close(found[2], grads[0])
    close(whole(found[3], dealing), grads[1])
    close(whole(found[4], dealing), grads[2])
    # One NaN is seen by all whose loss it enters, whichever shard it comes from.
    broken = sharded(hidden.at[5, 0].set(jnp.nan))[0]
    assert np.isnan(broken[5]) and np.isfinite(np.delete(broken, 5)).all()


@check
def nan_and_infinity_are_counted_on_every_shard() -> None:
    x = jnp.zeros((SHARDS, 3)).at[2, 1].set(jnp.nan).at[SHARDS - 1, 0].set(-jnp.inf)
    found = run(lambda x: parts.count_not_finite([x, jnp.arange(2)])[None], x, split="s")
    assert found.tolist() == [2] * SHARDS


@both
def the_best_rows_are_those_of_one_machine(by: Any) -> None:
    table = dealt(by)
    biases = RNG.standard_normal(N).astype(np.float32)
    bias = dealt(by, biases)
    queries = jnp.asarray(RNG.standard_normal((2 * SHARDS, D)), jnp.float32)

    def exact(k: int) -> Any:
        step = lambda x, w, b: parts.top_rows(x, w, b, table.dealing, k=k)  # noqa: E731
        found = run(step, queries, table.array, bias.array, split="sss")
        wanted = topk.rows(queries, jnp.asarray(TABLE), jnp.asarray(biases), k=k)
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
    queries = jnp.asarray(RNG.standard_normal((SHARDS, D)), jnp.float32)
    key = jax.random.key(5)
    after = np.where(np.arange(N)[:, None] % 3 == 0, -TABLE, TABLE)
    moved = dealt(by, after)

    def step(key: Any, x: Any, w: Any, after: Any) -> Any:
        tables = index.init(key, w, config=config)
        if not TOGETHER:
            everything = jnp.arange(table.dealing.per_shard, dtype=jnp.int32)
            tables = index.mark(tables, everything)
            tables = index.maintain(tables, jnp.int32(1), after, config=config)
        return parts.candidates(tables, x, table.dealing, config=config)

    found = run(step, key, queries, table.array, moved.array, split="asss", outs=ALL)
    tables = index.init(key, jnp.asarray(TABLE if TOGETHER else after), config=config)
    every = index.IndexConfig(**vars(config) | {"max_candidates": N})
    wanted = index.candidates(tables, queries, config=every)
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
    grads = jnp.asarray(RNG.standard_normal((ids.size, D)), jnp.float32)
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

        array, state = jnp.asarray(TABLE), tx.init(jnp.asarray(TABLE))
        for turn in range(2):
            given = RowSparse(ids, grads * jnp.float32(1 + turn), N)
            updates, state = tx.update(given, state, array)
            array = optax.apply_updates(array, updates)
        found = run(step, table.array, ids, grads, split="sss")
        np.testing.assert_allclose(whole(found, table.dealing), array, rtol=1e-4, atol=1e-5)


def start(devices: int) -> None:
    """As `conftest` sets JAX up, with this many devices, compiled fast."""
    sh.initialize(shards=devices)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)


def main(checks: dict[str, Callable[[], None]], names: list[str]) -> None:
    """Runs the checks; prints what each of them raised, as JSON."""
    raised = {}
    for name in names or list(checks):
        RNG.bit_generator.state = START  # each check has its numbers, whichever ran before
        try:
            checks[name]()
            raised[name] = ""
        except Exception:
            raised[name] = traceback.format_exc()
    print(json.dumps(raised), flush=True)


if __name__ == "__main__":
    start(SHARDS)
    main(CHECKS, sys.argv[1:])
