#!/usr/bin/env python3
"""Time against recall of the top 5 of a trained output layer, for each way to find them.

The layer is trained first, by this library with train_xmc.py's recipe, since random rows have no
neighbours to find; --cache keeps it, and the graphs that take long to build, for the next run.

    python scripts/bench_inference.py                       debian-depends, 19,182 labels
    python scripts/bench_inference.py TRAIN TEST            your own files, XMC text format
    python scripts/bench_inference.py --synthetic 670091    a power-law set of that many labels

Peers (hnswlib, faiss-cpu) are measured where they are installed; where not, the report says so.
How to read it: "recall@5" is the share of the exact top 5 found; "us/query" the median over rounds
in which all ways take turns; "speedup" is over our exact kernel at the same batch size. "CPU us"
is the CPU time of all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Any

import changing
import default_set
import numpy as np
import searchers
import trained

from sparse_jax.commands.report import save_figure
from sparse_jax.retrieval import quantized
from sparse_jax.runtime.files import write_json
from sparse_jax.runtime.machine import peak_rss_bytes

EFS = [16, 32, 64, 128, 256, 512]
PROBES = [4, 8, 16, 32, 64, 128]
RESCORED = [16, 32, 64, 96, 128, 256, 512]
METHODS = ("exact", "quantized", "tables", "hnswlib", "faiss")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST; default: debian-depends")
    add("--synthetic", type=int, metavar="N", help="train on a synthetic set of N labels instead")
    add(
        "--train",
        default="",
        metavar="OPTIONS",
        help="options of train_xmc.py for the training, in one string",
    )
    add("--cache", metavar="DIR", help="keep trained layers and peers' graphs here")
    add(
        "--methods",
        default=",".join(METHODS),
        metavar="LIST",
        help=f"which ways to measure, of {','.join(METHODS)}",
    )
    add("--batch-sizes", default="1,256", metavar="LIST", help="queries in a call (1,256)")
    add("--queries", type=int, default=1024, help="held-out points for recall (1024)")
    add("--rounds", type=int, default=5, help="rounds of timing, interleaved (5)")
    add("--seconds", type=float, default=0.2, help="of each way in each round (0.2)")
    add(
        "--changing",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="also: build, then so many rounds of changing 1 %% of the rows, bringing the index up "
        "to date, and searching; 100,000 queries in all",
    )
    add("--seed", type=int, default=0, help="of training and synthetic data (0)")
    add("--json", metavar="FILE", help="write the results here")
    add("--plot", metavar="FILE", help="draw the frontier here (.png, .svg)")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2):
        parser.error(f"got {len(args.files)} file(s): give TRAIN and TEST, or neither")
    if args.files and args.synthetic:
        parser.error("--synthetic makes its own data: give it no files")
    args.methods = args.methods.split(",")
    unknown = set(args.methods) - set(METHODS)
    if unknown:
        parser.error(f"--methods {','.join(sorted(unknown))}: must be of {','.join(METHODS)}")
    try:
        args.batch_sizes = [int(b) for b in args.batch_sizes.split(",")]
    except ValueError:
        parser.error(f"--batch-sizes {args.batch_sizes}: must be numbers with commas between")
    for name in ("queries", "rounds", "seed"):
        least = 0 if name == "seed" else 1
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    if min(args.batch_sizes) < 1 or (args.synthetic is not None and args.synthetic < 100):
        parser.error("--batch-sizes must be at least 1, and --synthetic at least 100")
    return args


def make(args: argparse.Namespace, layer: trained.Trained) -> tuple[list[Any], dict[str, str]]:
    """The searchers, and why some are missing."""
    k = min(5, len(layer.bias))
    default = quantized.default_subspaces(layer.weights.shape[1])
    bits = max(4, min(16, round(np.log2(len(layer.bias) / 32))))
    makers = {
        "exact": lambda: searchers.exact(layer, k=k),
        "quantized": lambda: searchers.quantized_rows(
            layer, k=k, subspaces=[max(2, default // 4 * 2), default], rescored=RESCORED
        ),
        "tables": lambda: searchers.lsh_tables(
            layer, k=k, configs=[(16, bits), (64, bits)], candidates=[256, 1024, 4096]
        ),
        "hnswlib": lambda: searchers.hnswlib(layer, k=k, efs=EFS, cache=args.cache),
        "faiss": lambda: searchers.faiss(layer, k=k, efs=EFS, probes=PROBES, cache=args.cache),
    }
    found, absent = searchers.exact(layer, k=k)[:1], {}
    for name in args.methods:
        try:
            print(f"building: {name}", file=sys.stderr, flush=True)
            made = makers[name]()
        except ImportError as error:
            package = {"faiss": "faiss-cpu"}.get(name, name)
            absent[name] = f"not installed ({error}): pip install {package}"
            continue
        found += made[1:] if name == "exact" else made
    return found, absent


def measure(
    ways: list[searchers.Searcher], queries: np.ndarray, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Recall and time of each way at each batch size; the first way is the exact one."""
    truth = _all_ids(ways[0], queries)
    recalls = []
    for way in ways:
        ids = _all_ids(way, queries)
        recalls.append(
            {
                "recall@5": float((ids[:, :, None] == truth[:, None, :]).any(1).mean()),
                "recall@1": float((ids == truth[:, :1]).any(1).mean()),
            }
        )
    out = []
    for size in args.batch_sizes:
        starts = np.arange(0, max(1, len(queries) - size + 1), size)
        seconds: list[list[tuple[float, float]]] = [[] for _ in ways]
        for _ in range(args.rounds):
            for way, spent in zip(ways, seconds, strict=True):
                spent.append(_one_round(way, queries, starts, size, args.seconds))
        exact, exact_cpu = np.median(seconds[0], axis=0)
        for way, recall, taken in zip(ways, recalls, seconds, strict=True):
            spent, cpu = np.array(taken).T
            out.append(
                {
                    "method": way.name,
                    "setting": way.setting,
                    "batch_size": size,
                    "us_per_query": 1e6 * float(np.median(spent)),
                    "us_spread": [1e6 * float(min(spent)), 1e6 * float(max(spent))],
                    "cpu_us_per_query": 1e6 * float(np.median(cpu)),
                    "speedup_vs_exact": float(exact / np.median(spent)),
                    "cpu_speedup_vs_exact": float(exact_cpu / np.median(cpu)),
                    "build_seconds": way.build_seconds,
                    "build_cpu_seconds": way.build_cpu_seconds,
                    "bytes": way.bytes,
                    **recall,
                }
            )
    return out


def _all_ids(way: searchers.Searcher, queries: np.ndarray) -> np.ndarray:
    size = min(256, len(queries))
    parts = []
    for start in range(0, len(queries), size):
        start = min(start, len(queries) - size)
        parts.append((start, way.ids(way.search(way.prepare(queries[start : start + size])))))
    out = np.full((len(queries), parts[0][1].shape[1]), -1, np.int64)
    for start, ids in parts:
        out[start : start + len(ids)] = ids
    return out


def _one_round(
    way: searchers.Searcher, queries: np.ndarray, starts: np.ndarray, size: int, budget: float
) -> tuple[float, float]:
    """Mean wall and CPU seconds of a query, over as many calls as fit the budget; at least one."""
    calls = [way.prepare(_tile(queries[s : s + size], size)) for s in starts[:200]]
    way.search(calls[0])
    begun, begun_cpu = time.perf_counter(), time.process_time()
    done = 0
    while True:
        way.search(calls[done % len(calls)])
        done += 1
        passed = time.perf_counter() - begun
        if passed > budget:
            return passed / (done * size), (time.process_time() - begun_cpu) / (done * size)


def _tile(queries: np.ndarray, size: int) -> np.ndarray:
    """Exactly `size` queries, repeated where there are fewer."""
    return queries[np.arange(size) % len(queries)]


def report(results: dict[str, Any]) -> None:
    """The table, for people."""
    print(
        f"\n{results['origin']}\n{results['labels']:,} rows of {results['dim']} on "
        f"{results['threads']} threads, {results['machine']}"
    )
    for size in results["batch_sizes"]:
        print(
            f"\nbatch {size:<32}{'us/query':>10}{'speedup':>9}{'CPU us':>10}{'recall@5':>10}"
            f"{'recall@1':>10}{'build CPU s':>13}"
        )
        for p in results["points"]:
            if p["batch_size"] == size:
                name = f"{p['method']} {p['setting']}"
                print(
                    f"{name:<38}{p['us_per_query']:>10,.1f}{p['speedup_vs_exact']:>9.1f}"
                    f"{p['cpu_us_per_query']:>10,.1f}{p['recall@5']:>10.3f}{p['recall@1']:>10.3f}"
                    f"{p['build_cpu_seconds']:>13.1f}"
                )
    for name, why in results["absent"].items():
        print(f"\n{name}: {why}")
    if results["changing"]:
        print(f"\n{changing.__doc__.splitlines()[0]}")
        for p in results["changing"]:
            print(
                f"{p['method']:<38}{p['total_seconds']:>8.1f} s = build {p['build_seconds']:.1f} "
                f"+ update {p['update_seconds']:.1f} + search {p['search_seconds']:.1f}; "
                f"recall@5 {p['recall@5']:.3f}"
            )


def draw(path: str, results: dict[str, Any]) -> None:
    """Recall against time, one panel for each batch size."""

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = results["batch_sizes"]
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(5 * len(sizes), 4), layout="constrained", squeeze=False
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        points = [p for p in results["points"] if p["batch_size"] == size]
        for name in dict.fromkeys(p["method"] for p in points):
            own = sorted((p["us_per_query"], p["recall@5"]) for p in points if p["method"] == name)
            style = "D" if len(own) == 1 else "o-"
            axis.plot(*zip(*own, strict=True), style, label=name, markersize=4)
        axis.set(
            xscale="log",
            xlabel="µs per query",
            ylabel="recall@5",
            ylim=(0, 1.02),
            title=f"batch {size}",
        )
        axis.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{results['labels']:,} trained rows of {results['dim']}")
    save_figure(path, figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    files = args.files or default_set.FILES
    try:
        layer = trained.get(
            "synthetic" if args.synthetic else "files",
            files=None if args.synthetic else files,
            num_labels=args.synthetic or 0,
            options=args.train.split(),
            cache=args.cache,
            seed=args.seed,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    queries = layer.queries[: args.queries]
    ways, absent = make(args, layer)
    results = {
        "origin": layer.origin,
        "labels": len(layer.bias),
        "dim": layer.weights.shape[1],
        "threads": searchers.num_threads(),
        "machine": platform.processor() or platform.machine(),
        "batch_sizes": args.batch_sizes,
        "points": measure(ways, queries, args),
        "absent": absent,
        "changing": changing.run(layer, args.changing, args.methods) if args.changing else [],
        "peak_rss_bytes": peak_rss_bytes(),
    }
    report(results)
    if args.json:
        write_json(args.json, results)
    if args.plot:
        draw(args.plot, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
