"""Checks of the sharded training step on up to 8 devices of one process; see `sharded_frame`.

The same batches are dealt to 1, 2, 4 and 8 shards.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sharded_frame
import synthetic

from sparse_jax import data, optim
from sparse_jax import sharding as sh
from sparse_jax.optim import fused
from sparse_jax.sharding import reducing
from sparse_jax.xmc import network, sharded_step
from sparse_jax.xmc import step as training

POINTS = synthetic.make_data(93, num_features=301, num_labels=203, features=12)
B, WIDTH = 24, 16
CAPACITY = data.plan_capacity(POINTS, B, seed=0, epochs=1)
CHECKS: dict[str, Any] = {}


def check(function: Any) -> Any:
    CHECKS[function.__name__] = function
    return function


def batches(shards: int) -> list[list[data.Batch]]:
    """The batches of an epoch, the last one short, each in a piece for each shard."""
    order = data.epoch_order(POINTS.num_points, seed=0, epoch=0)
    found = []
    for start in range(0, POINTS.num_points, B):
        rows = order[start : start + B]
        pieces = (rows[s * B // shards : (s + 1) * B // shards] for s in range(shards))
        found.append([data.make_batch(POINTS, p, B // shards, CAPACITY) for p in pieces])
    return found


def config(shards: int, **options: Any) -> sharded_step.Config:
    fixed: dict[str, Any] = {
        "features": sh.Dealing(POINTS.num_features, shards, "hash"),
        "labels": sh.Dealing(POINTS.num_labels, shards, "hash"),
        "hidden": WIDTH,
        "active": 100,
        "active_here": 100,
        "distinct_features": 301,
    }
    return sharded_step.Config(**fixed | options)


def weights(state: sharded_step.State, options: sharded_step.Config) -> dict[str, np.ndarray]:
    dealings = dict.fromkeys(("output", "output_bias"), options.labels)
    dealings["embedding"] = options.features
    found = {n: sh.gather_rows(sh.ShardedRows(state.params[n], d)) for n, d in dealings.items()}
    return found | {"hidden_bias": np.asarray(state.params["hidden_bias"])}


@functools.cache
def trained(shards: int, **options: Any) -> Any:
    """(weights, metrics) after an epoch."""
    mesh, given = sh.mesh(shards), config(shards, **options)
    tx = fused.adam(1e-2)
    state = sharded_step.init(tx, mesh, config=given)
    step = sharded_step.make_step(tx, mesh, config=given)
    seen = []
    for pieces in batches(shards):
        state, metrics = step(state, sharded_step.place_batches(pieces, mesh))
        seen.append([float(x) for x in metrics])
    return weights(state, given), np.array(seen)


@check
def arrays_go_together_and_sums_come_to_all_in_the_shards_order() -> None:
    rng = np.random.default_rng(3)
    for shards in (1, 2, 8):
        x = (rng.standard_normal((shards, 3 * shards, 5)) * 1e4).astype(np.float32)
        x[0, 1, 2] = np.nan
        counts = rng.integers(-9, 9, shards).astype(np.int32)

        def of_shard(x: Any, count: Any) -> Any:
            total, told = reducing.total_for_all(x[0], count[0])
            bits, ids = reducing.gather_together(x[0, :2], count)
            return total[None], told[None], bits[None], ids[None]

        mesh = sh.mesh(shards)
        run = sh.on_shards(of_shard, mesh, in_specs=(jax.P(sh.AXIS),) * 2, out_specs=jax.P(sh.AXIS))
        total, told, bits, ids = map(np.asarray, jax.jit(run)(x, counts))
        wanted = x[0]
        for more in x[1:]:
            wanted = wanted + more
        for shard in range(shards):
            np.testing.assert_array_equal(total[shard], wanted)
            np.testing.assert_array_equal(bits[shard], x[:, :2].reshape(-1, 5))
            assert ids[shard].tolist() == counts.tolist() and told[shard] == counts.sum()


@check
def a_step_is_that_of_one_machine() -> None:
    """With all labels active and nothing dropped the negatives have no part in it."""
    mesh, given = sh.mesh(4), config(4, active=203, dropout=0.0)
    tx = optim.rowwise(optax.adam(0.1, eps=1e-4))
    state = sharded_step.init(tx, mesh, config=given)
    # Copies: the state is donated.
    params: network.Params = {n: jnp.array(x) for n, x in weights(state, given).items()}
    step = sharded_step.make_step(tx, mesh, config=given)
    alone = training.Config(active=203, strategy="uniform", dropout=0.0, distinct_features=301)
    start = jax.jit(lambda key, params: training.init(key, params, tx, config=alone))
    start = start(jax.random.key(0), params)
    run = jax.jit(training.make_step(tx, config=alone))
    for pieces, (whole,) in zip(batches(4)[-2:], batches(1)[-2:], strict=True):
        state, seen = step(state, sharded_step.place_batches(pieces, mesh))
        start, wanted = run(start, whole)
        np.testing.assert_allclose(seen.loss, wanted.loss, rtol=1e-5)
        assert int(seen.dropped_labels) == int(seen.overflow_features) == 0
        assert float(seen.p_at_1) == float(wanted.p_at_1)
    for name, found in weights(state, given).items():
        np.testing.assert_allclose(found, start.params[name], rtol=1e-4, atol=1e-5)


@check
def weights_hardly_depend_on_the_number_of_shards() -> None:
    """Sums over shards, and products of other shapes, are taken in another order: rounding."""
    one, seen = trained(1)
    assert np.isfinite(seen).all()
    assert (seen[:, 2:] == 0).all()
    for shards in (2, 8):
        found, others = trained(shards)
        np.testing.assert_allclose(others, seen, rtol=1e-5, atol=1e-6)
        for name, array in found.items():
            np.testing.assert_allclose(array, one[name], rtol=0, atol=1e-6)


@check
def what_finds_no_place_is_told() -> None:
    _, seen = trained(4, active_here=6, distinct_features=9)
    dropped, active, features = seen[:, 2:].T
    assert (dropped > 0).all() and (features > 0).all() and np.isfinite(seen).all()
    assert (active >= 100 - 4 * 6).all()


@check
def bytes_are_those_of_the_model_and_flat_in_the_labels() -> None:
    for shards in (2, 4):
        pieces = batches(shards)[0]
        sent = set()
        for labels in (203, 203_000):
            given = config(shards, labels=sh.Dealing(labels, shards, "hash"))
            mesh, tx = sh.mesh(shards), fused.adam(1e-2)
            state = jax.eval_shape(lambda: sharded_step.init(tx, mesh, config=given))  # noqa: B023
            batch = sharded_step.place_batches(pieces, mesh)
            step = sharded_step.make_step(tx, mesh, config=given)
            program = step.lower(state, batch).as_text("hlo")
            sent.add(sh.traffic.sent(program, shards))
            # What the page on scale-out counts as messages, S − 1 each.
            assert len(sh.traffic.collectives(program)) == (4 if shards == 2 else 6)
        counted = sharded_step.bytes_sent(
            given,
            batch_size=B // shards,
            entries=pieces[0].feature_ids.size,
            labels=pieces[0].label_ids.size,
        )
        assert sent == {counted}


@check
def half_a_percent_of_a_dense_all_reduce() -> None:
    """Amazon-670K: 76 features and 6 labels a point, 128 points a shard."""
    dealings = (sh.Dealing(n, 2, "hash") for n in (135_909, 670_091))
    shape = dataclasses.replace(config(2), hidden=128)
    shape = dataclasses.replace(shape, **dict(zip(("features", "labels"), dealings, strict=True)))
    ours = sharded_step.bytes_sent(shape, batch_size=128, entries=128 * 90, labels=128 * 8)
    dense = sh.traffic.dense_all_reduce((135_909 + 670_091) * 128 + 670_091 + 128, 2)
    assert 0.0005 < ours / dense < 0.005


if __name__ == "__main__":
    sharded_frame.start(8)
    sharded_frame.main(CHECKS, sys.argv[1:])
