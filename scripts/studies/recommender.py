#!/usr/bin/env python3
"""A recommender of 1.6 billion weights on one CPU: memory, speed and accuracy as it grows.

    python scripts/studies/recommender.py --hidden 128 512 2000 --dtype bfloat16 --json FILE

Histories are generated from a seed. Labels are frequent by a power law and lie on a line in groups;
a point has a label and some of its neighbours, and features of three kinds: of its labels, of
their groups, and noise. Each size runs in a process of its own, which tells its peak of memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the problem; the defaults are those of Amazon-670K."""

    num_features: int = 135_909
    num_labels: int = 670_091
    points: int = 490_449
    test_points: int = 4_096
    features: int = 75  # of a point
    labels: int = 5  # of a point
    group: int = 50  # labels that share features
    own: int = 12  # features of a label, of which a point shows some


def make_points(shape: Shape, count: int, *, seed: int, part: int) -> Any:
    """`count` points; the same labels mean the same features for any seed and part."""
    from sparse_jax import data

    rng = np.random.default_rng([seed, part])
    first = _power_law(rng.random(count), shape.num_labels)
    near = rng.integers(1, 8, (count, shape.labels - 1)) * rng.choice([-1, 1], (count, 1))
    labels = np.concatenate([first[:, None], first[:, None] + np.cumsum(near, axis=1)], axis=1)
    labels = np.sort(labels % shape.num_labels, axis=1)
    shown = shape.features // 3  # of each kind
    of = np.take_along_axis(labels, rng.integers(0, shape.labels, (count, shown)), axis=1)
    own = _prototype(of, rng.integers(0, shape.own, of.shape), shape.num_features)
    of_group = _prototype(
        labels[:, :1] // shape.group + shape.num_labels,
        rng.integers(0, 4 * shape.own, (count, shown)),
        shape.num_features,
    )
    noise = rng.random((count, shape.features - 2 * shown))
    features = [own, of_group, _power_law(noise, shape.num_features)]
    feature_ids, offsets = _distinct(np.concatenate(features, axis=1))
    label_ids, label_offsets = _distinct(labels)
    lengths = np.diff(offsets).astype(np.float32)
    return data.XmcData(
        offsets,
        feature_ids,
        np.repeat(1 / np.sqrt(lengths), np.diff(offsets)).astype(np.float32),
        label_offsets,
        label_ids,
        num_features=shape.num_features,
        num_labels=shape.num_labels,
    )


def _power_law(uniform: np.ndarray, size: int) -> np.ndarray:
    """Ranks below `size`; the rank r comes up about 1 / (r + 10) of the time."""
    return np.minimum(10 * ((size + 10) / 10) ** uniform - 10, size - 1).astype(np.int64)


def _prototype(labels: np.ndarray, numbers: np.ndarray, num_features: int) -> np.ndarray:
    """The features of labels by number, drawn from a hash; frequent features more often."""
    words = (labels.astype(np.uint64) << np.uint64(16)) + numbers.astype(np.uint64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (29, 0xC4CEB9FE1A85EC53)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    uniform = (words >> np.uint64(11)).astype(np.float64) / 2**53
    return (uniform**2 * num_features).astype(np.int64)


def _distinct(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of each row [n, m] without repeats, ascending, and their offsets."""
    ids = np.sort(ids, axis=1)
    kept = np.ones(ids.shape, bool)
    kept[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return ids[kept].astype(np.int32), np.concatenate([[0], np.cumsum(kept.sum(axis=1))])


def train(args: argparse.Namespace) -> dict[str, Any]:
    """One network: what it cost, and what it finds in points it hasn't seen."""
    from sparse_jax.runtime import allocator
    from sparse_jax.runtime.machine import peak_rss_bytes
    from sparse_jax.xmc import metrics
    from sparse_jax.xmc.network_options import Options
    from sparse_jax.xmc.network_run import NetworkRun

    allocator.keep_freed_memory()
    shape = Shape(num_labels=args.labels, points=args.points)
    points = make_points(shape, shape.points, seed=args.seed, part=0)
    options = Options(
        hidden=args.hidden[0],
        dtype=args.dtype,
        optimizer=args.optimizer,
        precision=args.precision,
        active=args.active,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        epochs=args.epochs,
        seed=args.seed,
    )
    run = NetworkRun(
        options, points, steps=args.steps, directory=args.checkpoint, begun=not args.resume
    )
    if args.resume and not run.resume():
        raise SystemExit(f"nothing is saved in {args.checkpoint}")

    def progress(_: str, step: int, steps: int, note: str) -> None:
        print(f"step {step} of {steps}: {note}", file=sys.stderr, flush=True)

    started = time.process_time()
    run.fit(progress=progress)
    spent = time.process_time() - started
    rss = peak_rss_bytes()
    test = make_points(shape, shape.test_points, seed=args.seed, part=1)
    predicted = run.predict(test, k=5)
    found = {
        f"P@{k}": metrics.precision_at_k(predicted, test.label_offsets, test.label_ids, k)
        for k in (1, 5)
    }
    costs = run.costs()
    return {
        "hidden": options.hidden,
        "parameters": sum(x.size for x in run.state.params.values()),
        "dtype": options.dtype,
        "optimizer": options.optimizer,
        "active": run.config.active,
        "steps": costs["steps"],
        "examples_per_second": costs["examples_per_second"],
        "cpu_seconds": spent,
        "peak_rss_gb": rss / 1e9,
        "weights_sha256": costs["weights_sha256"],
        **found,
    }


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--hidden", type=int, nargs="+", default=[128, 2000], metavar="D", help="hidden widths")
    add("--labels", type=int, default=Shape.num_labels, metavar="N")
    add("--points", type=int, default=Shape.points, help="training points")
    add("--epochs", type=int, default=1, help="passes over them")
    add("--steps", type=int, help="rather than whole passes")
    add("--batch-size", type=int, default=512, metavar="B", help="points a step")
    add("--active", type=int, metavar="A", help="size of the active set")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--optimizer", choices=("adam", "row-scale"), default="row-scale")
    add("--precision", choices=("float32", "mixed", "auto"), default="auto")
    add("--lr", type=float, default=3e-3, help="peak learning rate")
    add("--seed", type=int, default=0)
    add("--checkpoint", metavar="DIR", help="save after each pass and at the end; of one width")
    add("--resume", action="store_true", help="go on from there")
    add("--json", metavar="FILE", help="write the results here, a list")
    args = parser.parse_args()
    if args.checkpoint and len(args.hidden) > 1:
        parser.error("--checkpoint is for one --hidden")
    if args.resume and not args.checkpoint:
        parser.error("--resume needs --checkpoint DIR")
    return args


def main() -> None:
    """Runs one size here, or each of several in a process of its own."""
    args = parse_args()
    if len(args.hidden) == 1:
        results = [train(args)]
        print(json.dumps(results[0]), flush=True)
    else:
        rest = sys.argv[1:]
        at = rest.index("--hidden") if "--hidden" in rest else len(rest)
        others = rest[:at] + rest[at + 1 + len(args.hidden) :]
        results = []
        for width in args.hidden:
            call = [sys.executable, __file__, *others, "--hidden", str(width)]
            told = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(told, end="", flush=True)
            results.append(json.loads(told.splitlines()[-1]))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
