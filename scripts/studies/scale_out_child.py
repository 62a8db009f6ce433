"""One process of `scale_out.py`: steps of several shapes, and exchanges, measured.

    python scripts/studies/scale_out_child.py JOB

JOB is JSON: "shards", the devices of all processes; "shapes", of `scale_out_model.Shape` without
shards; "steps" of each; "interface" to count on, or null; "exchanges", whether to time these.
Process 0 prints a line of JSON for each shape, and one for the exchanges.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scale_out_links as links
import scale_out_model as model
import sharded

from sparse_jax import sharding
from sparse_jax.optim import fused
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.sharding import processes
from sparse_jax.xmc import sharded_step

SMALL, LARGE = 64, 1 << 20  # words of an exchange
WARM_UP = 3  # steps


def measure(run: Callable[[], Any], times: int, interface: str | None) -> dict[str, list[float]]:
    """Of all processes, for one of so many runs: seconds, processor's, and what was sent."""

    def now() -> list[float]:
        counted = (*links.sent_so_far(interface), links.data_segments()) if interface else (0, 0, 0)
        return [time.perf_counter(), time.process_time(), *counted]

    jax.block_until_ready(run())
    processes.barrier("measure")
    before = now()
    for _ in range(times - 1):
        run()
    jax.block_until_ready(run())
    after = now()
    each = [(b - a) / times for a, b in zip(before, after, strict=True)]
    every = processes.collect("measured", each)
    names = ("seconds", "processor", "bytes", "packets", "segments")
    return {name: [one[at] for one in every] for at, name in enumerate(names)}


def measure_steps(shape: model.Shape, steps: int, interface: str | None) -> dict[str, Any]:
    """A step of this shape, in turn over several batches."""
    given = argparse.Namespace(**shape._asdict(), batch_size=shape.batch)
    distinct = sharded.most_features(given, shape.shards)
    config, mesh, tx = shape.config(distinct), sharding.mesh(), fused.adam(1e-3)
    own = [n for n, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    batches, busiest = [], []
    for first in range(0, sharded.BATCHES * shape.shards, shape.shards):
        every = [sharded.draw_batch(given, shape.points, first + n) for n in range(shape.shards)]
        batches.append(sharded_step.place_batches([every[n] for n in own], mesh))
        ids = np.concatenate([batch.feature_ids for batch in every])
        busiest.append(imbalance(ids, config.features))
    state = sharded_step.init(tx, mesh, config=config)
    step = sharded_step.make_step(tx, mesh, config=config)
    turn = 0

    def run() -> Any:
        nonlocal state, turn
        state, seen = step(state, batches[turn % len(batches)])
        turn += 1
        return seen

    for _ in range(WARM_UP):
        seen = run()
    found = measure(run, steps, interface)
    seen = run()
    return {
        "shape": shape._asdict(),
        "distinct_features": distinct,
        "imbalance": float(np.mean(busiest)),
        "overflow": int(seen.overflow_active) + int(seen.overflow_features),
    } | found


def imbalance(ids: np.ndarray, dealing: sharding.Dealing) -> float:
    """Entries of the shard that has most, times the mean."""
    owners = np.asarray(dealing.place(jnp.asarray(ids))[0])
    here = np.bincount(owners[owners >= 0], minlength=dealing.shards)
    return float(here.max() * dealing.shards / here.sum())


def measure_exchanges(interface: str | None) -> dict[str, Any]:
    """Seconds to gather a few words of each process, and many."""
    found = {}
    for name, words, repeats, times in (("small", SMALL, 16, 20), ("large", LARGE, 4, 5)):

        def exchange(x: jax.Array, repeats: int = repeats) -> jax.Array:
            for _ in range(repeats):
                every = jax.lax.all_gather(x, sharding.AXIS)
                x = every[(jax.lax.axis_index(sharding.AXIS) + 1) % every.shape[0]]
            return x

        mesh = sharding.mesh()
        split = jax.P(sharding.AXIS)
        run = jax.jit(sharding.on_shards(exchange, mesh, in_specs=split, out_specs=split))
        pieces = jax.make_array_from_callback(
            (mesh.size * words,),
            jax.NamedSharding(mesh, split),
            lambda _, words=words: np.ones(words, np.float32),  # type: ignore[misc]
        )
        jax.block_until_ready(run(pieces))
        measured = measure(lambda run=run, x=pieces: run(x), times, interface)  # type: ignore[misc]
        found[name] = {what: np.divide(x, repeats).tolist() for what, x in measured.items()}
    return {"exchanges": found, "bytes": 4 * LARGE}


def main() -> None:
    job = json.loads(sys.argv[1])
    keep_freed_memory()  # as the training command does
    with sharding.hard_exit():
        sharding.initialize(shards=job["shards"], options=job)
        found = []
        if job["exchanges"]:
            found.append(measure_exchanges(job["interface"]))
        for given in job["shapes"]:
            shape = model.Shape(shards=job["shards"], **given)
            found.append(measure_steps(shape, job["steps"], job["interface"]))
        if jax.process_index() == 0:
            for line in found:
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
