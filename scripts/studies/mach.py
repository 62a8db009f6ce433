#!/usr/bin/env python3
"""Labels that share output rows by hashing, beside a row for each: accuracy, bytes, time, memory.

python scripts/studies/mach.py made --labels 200000 --points 400000 --seed 0 [--buckets 16384]
python scripts/studies/mach.py files TRAIN TEST [--buckets 32768] [--repetitions 4] [--validate]

One network, trained once, in a process of its own, so that its peak of memory is known; a line of
JSON on standard output. Without --buckets each label has a row. --merged trains what MACH trains: a
softmax over buckets, whose logits are only merged in prediction. --validate holds out a tenth of
TRAIN and asks about that. Made points are those of `clustered`. docs/mach.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax.numpy as jnp
import numpy as np

from sparse_jax import data, xmc
from sparse_jax.data import XmcData, weighting
from sparse_jax.ops.mach import Buckets, bucket_rows
from sparse_jax.runtime.machine import peak_rss_bytes
from sparse_jax.xmc.alone import network_alone, of_params
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

CLUSTER = 50  # labels that share features
SHARED, OWN = 8, 6  # features of a cluster, and of a label
FEATURES = 30_000


def mixed(h: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer of uint32 words."""
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x85EBCA6B)
    h = h ^ (h >> np.uint32(13))
    h = h * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def feature_of(owner: np.ndarray, which: np.ndarray, kind: int, features: int) -> np.ndarray:
    """The features of labels or clusters, drawn by hashing: no table of them is kept."""
    salt = mixed(owner.astype(np.uint32) + np.uint32(kind * 0x9E3779B9 % 2**32))
    return (mixed(salt ^ which.astype(np.uint32) * np.uint32(0x85EBCA77)) % features).astype(int)


def clustered(
    points: int, labels: int, *, seed: int, world: int = 0, features: int = FEATURES
) -> XmcData:
    """Points of one or two labels of a cluster, by a power law: label l is as likely as 1/(l + 20).

    A point has 3 of its cluster's features, 3 of each label's, and 4 of noise, by a power law too.

    Args:
      points: n.
      labels: N.
      seed: of the points.
      world: of the labels' features.
      features: F.
    """
    rng = np.random.default_rng(seed)
    clusters = max(1, labels // CLUSTER)
    chance = np.cumsum(1 / (np.arange(labels) + 20.0))
    first = np.searchsorted(chance, rng.random(points) * chance[-1]).clip(0, labels - 1)
    cluster = first % clusters
    members = (labels - 1 - cluster) // clusters + 1
    second = cluster + clusters * np.floor(rng.random(points) ** 2 * members).astype(np.int64)
    second = np.where((rng.random(points) < 0.5) & (second != first), second, -1)
    columns = [(features * rng.random((points, 4)) ** 3).astype(np.int64)]
    for owner, kind, count in ((cluster, 1, SHARED), (first, 2, OWN), (second, 2, OWN)):
        which = rng.integers(0, count, (points, 3))
        drawn = feature_of(owner[:, None], which, kind + 2 * world, features)
        columns.append(np.where(owner[:, None] >= 0, drawn, -1))
    ids = np.sort(np.concatenate(columns, axis=1), axis=1)
    kept = ids >= 0
    kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    both = np.stack([first, second], axis=1)
    return XmcData(
        np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64),
        ids[kept].astype(np.int32),
        np.ones(int(kept.sum()), np.float32),
        np.concatenate([[0], np.cumsum((both >= 0).sum(axis=1))]).astype(np.int64),
        both[both >= 0].astype(np.int32),
        num_features=features,
        num_labels=labels,
    )


def as_buckets(points: XmcData, buckets: Buckets) -> XmcData:
    """Points whose labels are their labels' buckets in all repetitions."""
    rows = np.asarray(bucket_rows(jnp.asarray(points.label_ids), buckets))
    point = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    pairs = np.unique(
        np.stack([np.repeat(point, buckets.repetitions), rows.reshape(-1)], axis=1), axis=0
    )
    counts = np.bincount(pairs[:, 0], minlength=points.num_points)
    return XmcData(
        points.feature_offsets,
        points.feature_ids,
        points.feature_values,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        pairs[:, 1].astype(np.int32),
        num_features=points.num_features,
        num_labels=buckets.num_rows,
    )


def load(args: argparse.Namespace) -> tuple[XmcData, XmcData]:
    """Training points, and those that are asked about."""
    if args.command == "made":
        world = {"world": args.seed}
        train = clustered(args.points, args.labels, seed=10 * args.seed + 1, **world)
        test = clustered(args.test_points, args.labels, seed=10 * args.seed + 2, **world)
        return train, test
    train, test = data.read_xmc(args.train), data.read_xmc(args.test)
    if args.validate:
        order = np.random.default_rng(0).permutation(train.num_points)
        count = train.num_points // 10
        return train.take(np.sort(order[count:])), train.take(np.sort(order[:count]))
    return train, test


def main() -> int:
    """Trains, asks, tells."""
    args = parse_args()
    train, test = load(args)
    chosen = weighting.fit(train)
    weighted = weighting.apply(chosen, train)
    options = Options(
        hidden=args.hidden,
        epochs=args.epochs,
        seed=args.seed,
        buckets=None if args.merged else args.buckets,
        repetitions=args.repetitions,
        optimizer=args.optimizer,
        dtype=args.dtype,
    )
    started, used = time.perf_counter(), time.process_time()
    if args.merged:
        buckets = Buckets(train.num_labels, args.buckets, args.repetitions, args.seed)
        run = NetworkRun(options, as_buckets(weighted, buckets))
        run.fit()
        about = network_alone(run, train, chosen).about
        kept = network_alone(run, train, chosen).memory
        model = of_params(run.state.params, about, chosen=chosen, kept=kept, buckets=buckets)
    else:
        run = NetworkRun(options, weighted)
        run.fit()
        model = network_alone(run, train, chosen)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    xmc.predict(model, test.take(slice(0, 512)), k=5)  # compiles
    asked, asked_cpu = time.perf_counter(), time.process_time()
    predicted = xmc.predict(model, test, k=5)
    per_point = 1e6 / test.num_points
    figures = xmc.evaluate(predicted, test)
    told = vars(args) | {
        "points": train.num_points,
        "labels": train.num_labels,
        "labels_seen": int(np.unique(train.label_ids).size),
        "rows": int(model.output.shape[0]),
        "p@1": round(figures["p@1"], 4),
        "p@5": round(figures["p@5"], 4),
        "model_bytes": model.nbytes(),
        "train_seconds": round(seconds, 1),
        "train_processor_seconds": round(cpu, 1),
        "predict_us": round((time.perf_counter() - asked) * per_point),
        "predict_processor_us": round((time.process_time() - asked_cpu) * per_point),
        "peak_rss_bytes": peak_rss_bytes(),
        "asked_points": test.num_points,
    }
    print(json.dumps(told))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="command", required=True)
    made, files = kinds.add_parser("made"), kinds.add_parser("files")
    made.add_argument("--labels", type=int, default=200_000)
    made.add_argument("--points", type=int, default=400_000)
    made.add_argument("--test-points", type=int, default=20_000)
    files.add_argument("train")
    files.add_argument("test")
    files.add_argument("--validate", action="store_true")
    for kind in (made, files):
        kind.add_argument("--buckets", type=int)
        kind.add_argument("--repetitions", type=int, default=4)
        kind.add_argument("--merged", action="store_true")
        kind.add_argument("--hidden", type=int, default=128)
        kind.add_argument("--epochs", type=int, default=2)
        kind.add_argument("--optimizer", default="adam")
        kind.add_argument("--dtype", default="float32")
        kind.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.merged and args.buckets is None:
        parser.error("--merged needs --buckets")
    return args


if __name__ == "__main__":
    sys.exit(main())
