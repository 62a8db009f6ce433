"""Steps of the sharded network by 1 and 2 processes, one core each: strong and weak scaling, bytes.

    python scripts/bench/sharded.py --labels 670091 --features 135909

Points are drawn by a power law; a process has one shard and one core. Prints a line of JSON for
each run: examples a second, and the bytes that a shard sends, by the model and as the loopback
interface counts them (those of every other program on the machine as well).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparse_jax import data, sharding
from sparse_jax.optim import fused
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.machine import peak_rss_bytes
from sparse_jax.xmc import sharded_step

WARM_UP = 3  # steps
BATCHES = 8  # of a shard, in turn
SAME = ("labels", "features", "hidden", "active", "entries", "labels_each", "steps")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--labels", type=int, default=670_091)
    add("--features", type=int, default=135_909)
    add("--hidden", type=int, default=128)
    add("--active", type=int, default=4096)
    add("--batch-size", type=int, default=256, help="of all shards; weak scaling doubles it")
    add("--entries", type=int, default=76, help="features of a point")
    add("--labels-each", type=int, default=6, help="labels of a point")
    add("--steps", type=int, default=30)
    add("--child", action="store_true", help="one of the processes, started by this script")
    return parser.parse_args()


def draw_batch(args: argparse.Namespace, size: int, seed: int) -> data.Batch:
    """A shard's points: ids by a power law, distinct within a point."""
    rng = np.random.default_rng(seed)

    def ids(count: int, most: int) -> np.ndarray:
        drawn = (most ** rng.random((size, count))).astype(np.int32) - 1
        drawn.sort(axis=1)
        drawn[:, 1:][drawn[:, 1:] == drawn[:, :-1]] = -1
        return drawn

    features, labels = ids(args.entries, args.features), ids(args.labels_each, args.labels)
    rows = np.arange(size, dtype=np.int32)
    return data.Batch(
        feature_ids=features.reshape(-1),
        feature_values=np.full(features.size, args.entries**-0.5, np.float32),
        feature_rows=np.repeat(rows, args.entries),
        label_ids=labels.reshape(-1),
        label_rows=np.repeat(rows, args.labels_each),
        label_counts=(labels >= 0).sum(axis=1, dtype=np.int32),
        row_mask=np.ones(size, bool),
    )


def most_features(args: argparse.Namespace, shards: int) -> int:
    """Distinct features that a shard may hold of a batch, as `train-sharded` plans them."""
    dealing = sharding.Dealing(args.features, shards, "hash")
    most = np.zeros((shards, shards), np.int64)
    for seed in range(BATCHES * shards):
        batch = draw_batch(args, args.batch_size // shards, seed)
        owners = np.asarray(dealing.place(np.unique(batch.feature_ids))[0])
        asked = np.bincount(owners[owners >= 0], minlength=shards)
        np.maximum(most[seed % shards], asked, out=most[seed % shards])
    return int(min(most.sum(axis=0).max(), dealing.per_shard))


def loopback_bytes() -> int:
    """Sent over the loopback interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def child(args: argparse.Namespace) -> None:
    """Trains in this process, one of those that the environment names; process 0 prints."""
    keep_freed_memory()  # as the training command does
    with sharding.hard_exit():
        sharding.initialize(options=vars(args))
        mesh = sharding.mesh()
        shards, own = mesh.size, jax.process_index()
        size = args.batch_size // shards
        config = sharded_step.Config(
            features=sharding.Dealing(args.features, shards, "hash"),
            labels=sharding.Dealing(args.labels, shards, "hash"),
            hidden=args.hidden,
            active=args.active,
            active_here=sharded_step.active_here(args.active, shards),
            distinct_features=most_features(args, shards),
        )
        tx = fused.adam(1e-3)
        state = sharded_step.init(tx, mesh, config=config)
        step = sharded_step.make_step(tx, mesh, config=config)
        pieces = [draw_batch(args, size, seed) for seed in range(own, BATCHES * shards, shards)]
        batches = [sharded_step.place_batches([piece], mesh) for piece in pieces]
        for number in range(WARM_UP):
            state, seen = step(state, batches[number % len(batches)])
        jax.block_until_ready(seen)
        sharding.processes.barrier("warm")
        before, started = loopback_bytes(), time.perf_counter()
        worked = time.process_time()
        for number in range(args.steps):
            state, seen = step(state, batches[number % len(batches)])
        jax.block_until_ready((state, seen))
        seconds = time.perf_counter() - started
        worked, counted = time.process_time() - worked, loopback_bytes() - before
        if own:
            return
        sent = sharded_step.bytes_sent(
            config,
            batch_size=size,
            entries=pieces[0].feature_ids.size,
            labels=pieces[0].label_ids.size,
        )
        weights = (args.features + args.labels) * args.hidden + args.labels + args.hidden
        dense = sharding.traffic.dense_all_reduce(weights, shards)
        result: dict[str, Any] = {
            "processes": shards,
            "batch_size": args.batch_size,
            "examples_per_second": args.steps * args.batch_size / seconds,
            "step_ms": 1e3 * seconds / args.steps,
            "processor_ms": 1e3 * worked / args.steps,
            "bytes_sent": sent,
            "bytes_counted": counted / args.steps / shards,
            "share_of_dense": sent / dense if dense else 0.0,
            "peak_rss_bytes": peak_rss_bytes(),
            "overflow": int(seen.overflow_active) + int(seen.overflow_features),
        }
        print(json.dumps(result), flush=True)


def run(args: argparse.Namespace, processes: int, batch_size: int) -> dict[str, Any]:
    """What `child` prints of so many processes, one core each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in SAME]
    started = []
    for number in range(processes):
        given = {
            "SPARSE_JAX_COORDINATOR": f"127.0.0.1:{port}",
            "SPARSE_JAX_PROCESSES": str(processes),
            "SPARSE_JAX_PROCESS": str(number),
        }
        core = str(cores[number % len(cores)])
        command = ["taskset", "-c", core, sys.executable, __file__, "--child", *options]
        command.append(f"--batch-size={batch_size}")
        started.append(
            subprocess.Popen(command, env=os.environ | given, stdout=subprocess.PIPE, text=True)
        )
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process of {processes} has failed")
    (line,) = (line for line in printed[0].splitlines() if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def main() -> None:
    args = parse_args()
    if args.child:
        child(args)
        return
    one = run(args, 1, args.batch_size)
    print(json.dumps(one), flush=True)
    for kind, factor in (("strong", 1), ("weak", 2)):
        two = run(args, 2, factor * args.batch_size)
        two["speedup"] = two["examples_per_second"] / one["examples_per_second"]
        print(json.dumps({"scaling": kind} | two), flush=True)


if __name__ == "__main__":
    main()
