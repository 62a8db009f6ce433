#!/usr/bin/env python3
"""Which negatives help? Uniform, ranked by tables, by logits of a sample or of all, at equal cost.

    python scripts/studies/compare_negatives.py --sets data/debian-depends --runs DIR

Each way of choosing the active set's negatives trains the same network on the same batches: first
for equal steps, then for equal seconds, namely the processor seconds that the cheapest way took for
its steps (compiling left out). A way's steps for these seconds come from its own seconds a step,
measured in its first runs, so that its learning rate falls to zero in time. Every run is written to
--runs at once and is not repeated; the tables are made from all that lies there, so one command for
each loss, mode or size adds to the same tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import negatives_table
import numpy as np
import ranking_ways
from learned_hashing import LearnedRun

from sparse_jax import data
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_json
from sparse_jax.xmc import metrics, negatives
from sparse_jax.xmc import step as training
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

DEFAULT_SET = str(Path(__file__).resolve().parent.parent / "data" / "debian-depends")
WAYS = ("uniform", "lsh", "learned", "oracle", "ranked", *ranking_ways.WAYS)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all ways share."""

    set: str
    mode: str
    active: int | None  # what the data need
    candidates: int
    loss: str
    batch_size: int
    epochs: int
    points: int  # of training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--sets",
        nargs="+",
        metavar="PREFIX",
        default=[DEFAULT_SET],
        help="PREFIX_train.txt.gz and PREFIX_test.txt.gz, or .txt (debian-depends)",
    )
    add("--ways", nargs="+", choices=WAYS, default=WAYS, help="(all)")
    add("--active", nargs="+", type=int, default=[None], metavar="A", help="(what the data need)")
    add(
        "--candidates",
        type=int,
        default=24,
        metavar="M",
        help="rows of each example that lsh, learned and oracle rank; the rest of A is drawn "
        "uniformly (24)",
    )
    add("--mode", choices=training.MODES, default="shared", help="(shared)")
    add("--loss", choices=("softmax", "bce"), default="softmax", help="(softmax)")
    add("--batch-size", type=int, default=128, metavar="B", help="(128)")
    add("--epochs", type=int, default=5, help="of the equal steps (5)")
    add("--points", type=int, metavar="N", help="train on N points of each set, drawn once")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    add(
        "--equal",
        nargs="+",
        choices=negatives_table.EQUAL,
        default=negatives_table.EQUAL,
        help="(steps seconds)",
    )
    add("--runs", required=True, metavar="DIR", help="each run is kept here")
    add("--json", metavar="FILE", help="write the tables here")
    add("--plot", metavar="FILE", help="draw the differences to uniform here")
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < 2:
        parser.error(f"--seeds {args.seeds[0]}: give at least two, or there are no intervals")
    if negatives_table.BASE not in args.ways or len(set(args.ways)) < 2:
        base = negatives_table.BASE
        parser.error(f"--ways {' '.join(args.ways)}: needs {base}, the base, and another")
    return args


def load(
    prefix: str, args: argparse.Namespace, active: int | None
) -> tuple[data.XmcData, data.XmcData]:
    """Training and test points of a set.

    In per_example mode, training points whose labels would fill more than half of A are left out.
    """
    ending = ".txt.gz" if Path(f"{prefix}_train.txt.gz").exists() else ".txt"
    files = [f"{prefix}_{part}{ending}" for part in ("train", "test")]
    train, test = train_xmc.load_weighted(files)
    if args.mode == "per_example" and active is not None:
        train = train.take(np.diff(train.label_offsets) <= active // 2)
    if args.points:
        order = np.random.default_rng(0).permutation(train.num_points)
        train = train.take(np.sort(order[: args.points]))
    return train, test


def train_one(
    setting: Setting, way: str, seed: int, steps: int | None, train: data.XmcData
) -> tuple[NetworkRun, float]:
    """A finished run, and the processor seconds of its training."""
    names = ("mode", "active", "candidates", "loss", "batch_size", "epochs")
    chosen = {name: getattr(setting, name) for name in names}
    options = Options(strategy="lsh" if way == "learned" else way, seed=seed, **chosen)
    run = (LearnedRun if way == "learned" else NetworkRun)(options, train, steps=steps)
    begun = time.process_time()
    run.fit()
    return run, time.process_time() - begun


def per_point(
    predicted: np.ndarray, test: data.XmcData, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [n, 3], whose means are P@1, P@5 and PSP@1, and each point's group [n].

    A group is the points with one set of labels: near-copies, which go right or wrong together.
    """
    points = np.arange(test.num_points)
    rows = np.repeat(points, np.diff(test.label_offsets))
    true = rows * np.int64(test.num_labels) + test.label_ids
    hits = np.isin(points[:, None] * np.int64(test.num_labels) + predicted, true)
    hits &= predicted >= 0
    best = np.zeros(points.size)
    np.maximum.at(best, rows, inverse[test.label_ids])
    gained = hits[:, 0] * inverse[predicted[:, 0]] / best.mean()
    sets = [tuple(sorted(ids)) for ids in np.split(test.label_ids, test.label_offsets[1:-1])]
    number = {ids: i for i, ids in enumerate(dict.fromkeys(sets))}
    groups = np.array([number[ids] for ids in sets], np.int32)
    return np.stack([hits[:, 0], hits.mean(axis=1), gained], axis=1).astype(np.float32), groups


class Study:
    """One setting on one set: trains what isn't in the directory yet."""

    def __init__(self, setting: Setting, train: data.XmcData, test: data.XmcData, directory: Path):
        self.setting, self.train, self.test, self.directory = setting, train, test, directory
        self.inverse = metrics.inverse_propensities(
            train.label_offsets, train.label_ids, train.num_labels
        )
        self.whole = data.num_batches(train.num_points, setting.batch_size) * setting.epochs

    def done(self, equal: str) -> list[dict[str, Any]]:
        """Runs of this setting."""
        own = dataclasses.asdict(self.setting) | {"equal": equal}
        return [r for r in negatives_table.read(self.directory) if own.items() <= r.items()]

    def compare(self, ways: list[str], seeds: list[int], equal: list[str]) -> None:
        """All ways and seeds for equal steps, then for equal seconds."""
        for seed in seeds:
            for way in ways:
                self._once("steps", way, seed, self.whole)
        if "seconds" not in equal:
            return
        # The least of the seeds: what else runs on a machine only adds to it.
        cost = {
            way: min(r["seconds"] / r["steps"] for r in self.done("steps") if r["way"] == way)
            for way in ways
        }
        cheapest = min(cost, key=lambda way: cost[way])
        for seed in seeds:
            for way in ways:
                steps = max(1, round(self.whole * cost[cheapest] / cost[way]))
                self._once("seconds", way, seed, steps)

    def _once(self, equal: str, way: str, seed: int, steps: int) -> None:
        done = {
            r["equal"]: r
            for e in negatives_table.EQUAL
            for r in self.done(e)
            if (r["way"], r["seed"]) == (way, seed)
        }
        if equal in done:
            return
        if equal == "seconds" and steps == self.whole:  # the cheapest way
            negatives_table.append(self.directory, done["steps"] | {"equal": equal})
            return
        run, seconds = train_one(self.setting, way, seed, steps, self.train)
        scores, groups = per_point(run.predict(self.test), self.test, self.inverse)
        row = dataclasses.asdict(self.setting) | {
            "equal": equal,
            "way": way,
            "seed": seed,
            "steps": run.clock.step,
            "seconds": seconds,
            "labels": self.train.num_labels,
            "file": negatives_table.keep_scores(self.directory, scores, groups),
        }
        negatives_table.append(self.directory, row)
        means = zip(negatives_table.METRICS, scores.mean(axis=0), strict=True)
        print(
            f"{self.setting.set}, A = {self.setting.active}, equal {equal}, {way}, seed {seed}: "
            + ", ".join(f"{name} {mean:.4f}" for name, mean in means)
            + f", {run.clock.step:,} steps, {seconds:.1f} processor s",
            flush=True,
        )


def train_all(args: argparse.Namespace) -> None:
    """Every run that isn't in the directory yet."""
    for prefix in args.sets:
        for active in args.active:
            train, test = load(prefix, args, active)
            setting = Setting(
                set=Path(prefix).name,
                mode=args.mode,
                active=active,
                candidates=args.candidates,
                loss=args.loss,
                batch_size=args.batch_size,
                epochs=args.epochs,
                points=train.num_points,
            )
            Study(setting, train, test, Path(args.runs)).compare(args.ways, args.seeds, args.equal)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        with mock.patch.dict(negatives.STRATEGIES, ranking_ways.WAYS):
            train_all(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables = negatives_table.summarize(Path(args.runs))
    negatives_table.show(tables)
    if args.json:
        write_json(args.json, tables)
    if args.plot:
        negatives_table.draw(args.plot, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
