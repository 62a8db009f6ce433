#!/usr/bin/env python3
"""How long until ours is as accurate as the dense network is at its end.

    python scripts/time_to_accuracy.py TRAIN TEST --seeds 3 --json times.json --plot times.png

For each seed in turn: the dense network (softmax over all labels, Adam), then the sampled network
with LSH and with uniform negatives, the wide part alone, and --preset fast. P@1 is taken on the
whole test set at even steps. Seconds are those of training, compiling and all preparation counted,
evaluation not. "reached" is when P@1 first was what the dense network has at its end, for the dense
network itself as well; "ratio" is the dense network's over the way's own.

A preset has one point, its end: its weight of the wide part is chosen last.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import default_set
import jax
import numpy as np

from sparse_jax import data, xmc
from sparse_jax.commands import report
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.xmc import inference, metrics, wide
from sparse_jax.xmc.network_run import NetworkRun
from sparse_jax.xmc.presets import PRESETS

WAYS = ("dense", "lsh", "uniform", "wide", "fast")
Curve = list[tuple[float, float]]  # (seconds, P@1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST; default: debian-depends")
    add("--ways", default=",".join(WAYS), metavar="LIST", help=f"beside dense ({','.join(WAYS)})")
    add("--seeds", type=int, default=3, metavar="N", help="how many, from 0 on (3)")
    add(
        "--dense",
        default="--batch-size 512 --epochs 3",
        metavar="OPTIONS",
        help="of train_xmc.py, for the dense network (--batch-size 512 --epochs 3)",
    )
    add(
        "--sampled",
        default="--epochs 2",
        metavar="OPTIONS",
        help="of train_xmc.py, for the networks with sampled negatives (--epochs 2)",
    )
    add("--evaluations", type=int, default=6, metavar="N", help="of a run (6)")
    add("--max-points", type=int, metavar="N", help="train on the first N points only")
    add("--json", metavar="FILE", help="write the results here")
    add("--plot", metavar="FILE", help="draw P@1 over time here (.png, .svg)")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2):
        parser.error(f"got {len(args.files)} file(s): give TRAIN and TEST, or neither")
    unknown = {*args.ways.split(",")} - {*WAYS}
    if unknown:
        parser.error(f"--ways {','.join(sorted(unknown))}: must be of {','.join(WAYS)}")
    args.ways = ["dense", *(w for w in args.ways.split(",") if w != "dense")]
    for name in ("seeds", "evaluations", "max_points"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    return args


class Stopwatch:
    """Seconds since it was made, less those paused."""

    def __init__(self) -> None:
        self._begun, self._paused = time.perf_counter(), 0.0

    @contextmanager
    def paused(self) -> Iterator[float]:
        """Gives the seconds so far."""
        begun = time.perf_counter()
        yield begun - self._begun - self._paused
        self._paused += time.perf_counter() - begun


def precision(test: data.XmcData, predicted: np.ndarray) -> float:
    """P@1."""
    inverse = np.ones(test.num_labels)
    scores = metrics.evaluate(predicted, test.label_offsets, test.label_ids, inverse)
    return float(scores["p@1"])


def network(
    args: argparse.Namespace, seed: int, train: data.XmcData, test: data.XmcData, *, way: str
) -> Curve:
    """One network, dense or sampled."""
    options = args.dense if way == "dense" else args.sampled
    own = train_xmc.parse_args([*options.split(), "--strategy", way, "--seed", str(seed)])
    predict = jax.jit(functools.partial(inference.predict_dense, k=5))
    curve: Curve = []
    clock = Stopwatch()
    run = NetworkRun(train_xmc.options.network_options(own), train)

    def watch() -> None:
        params = jax.block_until_ready(run.state.params)
        with clock.paused() as seconds:
            found = inference.predict_all(test, lambda b: predict(params, b), k=5)
            curve.append((seconds, precision(test, found)))

    run.fit(watch=watch, watch_every=max(1, run.total_steps // args.evaluations))
    if run.total_steps % max(1, run.total_steps // args.evaluations):
        watch()
    return curve


def wide_alone(
    args: argparse.Namespace, seed: int, train: data.XmcData, test: data.XmcData
) -> Curve:
    """The wide part of --preset fast, with no network beside."""
    curve: Curve = []
    clock = Stopwatch()

    def watch(model: wide.WideModel) -> None:
        jax.block_until_ready(model)
        with clock.paused() as seconds:
            found = inference.predict_all(test, lambda b: _best(model, b), k=5)
            curve.append((seconds, precision(test, found)))

    preset = PRESETS["fast"]
    start = wide.zeros(train, min_share=preset.min_share)
    lengths = np.diff(start.offsets)
    epochs = preset.epochs(int(lengths[train.feature_ids].sum(dtype=np.int64)))
    wide.fit(train, start, epochs=epochs, seed=seed, watch=watch, looks=args.evaluations)
    return curve


@jax.jit
def _best(model: wide.WideModel, batch: data.Batch) -> jax.Array:
    return jax.lax.optimization_barrier(jax.lax.top_k(wide.scores(model, batch), 5))[1]


def fast(args: argparse.Namespace, seed: int, train: data.XmcData, test: data.XmcData) -> Curve:
    """--preset fast."""
    started = time.perf_counter()
    model = xmc.fit(train, preset="fast", seed=seed, weighting="none")
    seconds = time.perf_counter() - started
    return [(seconds, precision(test, xmc.predict(model, test).labels))]


def reached(curve: Curve, target: float) -> float | None:
    """Seconds at the first point that has at least the target."""
    return next((seconds for seconds, p in curve if p >= target), None)


def measure(
    args: argparse.Namespace, train: data.XmcData, test: data.XmcData
) -> list[dict[str, Any]]:
    """All ways with all seeds, one after the other."""
    makers: dict[str, Callable[..., Curve]] = {"wide": wide_alone, "fast": fast}
    makers |= {way: functools.partial(network, way=way) for way in ("dense", "lsh", "uniform")}
    rows: list[dict[str, Any]] = []
    print(f"{'seed':>4}  {'':8}{'P@1':>8}{'seconds':>10}{'reached':>10}{'ratio':>8}")
    for seed in range(args.seeds):
        target, whole = 0.0, 0.0
        for way in args.ways:
            curve = makers[way](args, seed, train, test)
            if way == "dense":
                target = curve[-1][1]
                whole = reached(curve, target) or 0.0
            at = reached(curve, target)
            row = {
                "seed": seed,
                "way": way,
                "p@1": curve[-1][1],
                "seconds": curve[-1][0],
                "reached": at,
                "ratio": whole / at if at else None,
                "curve": curve,
            }
            rows.append(row)
            when = f"{at:>10.1f}{row['ratio']:>8.1f}" if at else f"{'never':>10}"
            print(f"{seed:>4}  {way:8}{row['p@1']:>8.4f}{row['seconds']:>10.1f}{when}", flush=True)
    return rows


def draw(path: str, rows: list[dict[str, Any]]) -> None:
    """P@1 over seconds, one line for each run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in rows:
        axes.plot(
            *zip(*row["curve"], strict=True),
            "o-",
            markersize=3,
            color=f"C{WAYS.index(row['way'])}",
            label=row["way"] if row["seed"] == 0 else None,
        )
        if row["way"] == "dense":
            axes.axhline(row["p@1"], color="C0", linewidth=0.6, alpha=0.5)
    axes.set(xscale="log", xlabel="training seconds", ylabel="P@1 on the test set")
    axes.legend(frameon=False)
    report.save_figure(path, figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        train, test = train_xmc.load_weighted(args.files or default_set.FILES)
        if args.max_points:
            train = train.take(np.arange(min(args.max_points, train.num_points)))
        rows = measure(args, train, test)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "plot", "files")}
    report.tell({"settings": settings, "rows": rows}, args.json)
    if args.plot:
        draw(args.plot, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
