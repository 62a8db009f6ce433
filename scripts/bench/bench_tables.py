#!/usr/bin/env python3
"""What the hash tables cost: build, insert, update, query, and their bytes, against N.

    python scripts/bench_tables.py                              10,000 to 1,000,000 rows
    python scripts/bench_tables.py --rows 10000,4000000 --tables 16,50
    python scripts/bench_tables.py --tune TRAIN TEST --memory 50 --active-fraction 0.05

Codes are random; a query shares half of its codes with a row, so that there is something to count.
Buckets hold about --bucket rows on average, so a query reads as much at any N: its time should stay
flat, and grow only with what falls out of the caches.

With --tune the tuner chooses an index for the output layer trained on your files (or on
debian-depends, without files): family, bits, tables and bucket size within --memory MiB. The report
compares predicted with measured bytes and recall for the best and some others.
"""

from __future__ import annotations

import argparse
import functools
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import default_set
import jax
import jax.numpy as jnp
import numpy as np
import searchers
import trained

from sparse_jax.commands.report import save_figure
from sparse_jax.retrieval import tables, tuner
from sparse_jax.runtime.files import write_json
from sparse_jax.runtime.machine import peak_rss_bytes

OPERATIONS = ("build", "insert", "update", "query")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def numbers(text: str) -> list[int]:
        values = [int(x) for x in text.split(",")]
        if min(values) < 1:
            raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
        return values

    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST, for --tune")
    add(
        "--rows",
        type=numbers,
        default=[10_000, 100_000, 1_000_000],
        metavar="LIST",
        help="N (10000,100000,1000000)",
    )
    add("--tables", type=numbers, default=[16], metavar="LIST", help="L (16)")
    add("--bucket", type=int, default=32, metavar="ROWS", help="mean rows of a bucket (32)")
    add(
        "--batch-sizes",
        type=numbers,
        default=[1, 256],
        metavar="LIST",
        help="queries of a call (1,256)",
    )
    add("--changed", type=int, default=4096, metavar="ROWS", help="of an insert or update (4096)")
    add("--candidates", type=int, default=256, metavar="M", help="ranked for a query (256)")
    add("--rounds", type=int, default=7, help="timings of each; the median counts (7)")
    add("--tune", action="store_true", help="choose an index for a trained layer instead")
    add("--memory", type=float, default=50, metavar="MIB", help="of the tuned tables (50)")
    add(
        "--active-fraction",
        type=float,
        default=0.05,
        metavar="F",
        help="of the rows that a batch's active set may hold (0.05)",
    )
    add("--train-batch", type=int, default=128, metavar="B", help="examples that share it (128)")
    add("--families", default="simhash,wta", metavar="LIST", help="to try (simhash,wta)")
    add("--train", default="", metavar="OPTIONS", help="options of train_xmc.py, for --tune")
    add("--cache", metavar="DIR", help="keep the trained layer here")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", metavar="FILE", help="write the results here")
    add("--plot", metavar="FILE", help="draw cost against N here (.png, .svg)")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2) or (args.files and not args.tune):
        parser.error("FILES are for --tune: give TRAIN and TEST, or neither")
    for name in ("bucket", "changed", "candidates", "rounds", "train_batch"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if not 0 < args.active_fraction <= 1 or args.memory <= 0:
        parser.error("--active-fraction must be above 0 and at most 1, and --memory above 0")
    return args


def one_size(num_rows: int, num_tables: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each operation at one (N, L)."""
    num_bits = max(1, round(np.log2(num_rows / args.bucket)))
    capacity = 4 * max(1, num_rows // 2**num_bits)
    shape = {"num_tables": num_tables, "num_buckets": 2**num_bits, "capacity": capacity}
    # NumPy's: jax.random would hold five times the codes, 4 GB of four million rows in 50 tables.
    rng = np.random.default_rng(args.seed)
    draw = functools.partial(rng.integers, 2**num_bits, dtype=np.int32)
    codes = jnp.asarray(draw(size=(num_rows, num_tables)))
    changed = min(args.changed, num_rows)
    ids = jnp.asarray(rng.choice(num_rows, changed, replace=False).astype(np.int32))
    fresh = jnp.asarray(draw(size=(changed, num_tables)))
    make = functools.partial(tables.init, num_rows, **shape, seed=args.seed)
    build = jax.jit(lambda codes: tables.build(make(), codes))
    # Donated, as in training: the tables stay where they are.
    insert = jax.jit(lambda held, codes: tables.insert(held, ids, codes), donate_argnums=0)
    update = jax.jit(lambda held, codes: tables.update(held, ids, codes), donate_argnums=0)
    query = jax.jit(functools.partial(tables.query, max_candidates=args.candidates))
    held: Any = None
    spent = []
    for _ in range(args.rounds + 1):
        held = None  # not two at a time
        begun = time.perf_counter()
        held = jax.block_until_ready(build(codes))
        spent.append(time.perf_counter() - begun)
    out: dict[str, Any] = {
        "rows": num_rows,
        "tables": num_tables,
        "bits": num_bits,
        "capacity": capacity,
        "changed": changed,
        "build_ms": 1e3 * float(np.median(spent[1:])),  # the first compiles
        "bytes": sum(x.nbytes for x in jax.tree.leaves(held)),
        "predicted_bytes": tables.memory_bytes(num_rows, **shape),
        "dropped": int(tables.stats(held).dropped) / (num_rows * num_tables),
    }
    both = [fresh, codes[ids]]  # there and back, so that rows move each time
    for name, step in (("insert", insert), ("update", update)):
        held, out[f"{name}_ms"] = _timed_in_place(step, held, both, args.rounds)
    for size in args.batch_sizes:
        some = rng.integers(num_rows, size=size)
        asked = jnp.where(jnp.arange(num_tables) % 2 == 0, codes[some], draw(size=(size, 1)))
        out[f"query_{size}_us"] = 1e3 * _timed(query, (held, asked), args.rounds) / size
    return out


def _timed_in_place(
    step: Callable[..., Any], held: Any, inputs: list[Any], rounds: int
) -> tuple[Any, float]:
    """Median milliseconds of held = step(held, input), and what is held at the end."""
    spent = []
    for i in range(rounds + 1):
        begun = time.perf_counter()
        held = jax.block_until_ready(step(held, inputs[i % len(inputs)]))
        spent.append(time.perf_counter() - begun)
    return held, 1e3 * float(np.median(spent[1:]))  # the first compiles


def _timed(step: Callable[..., Any], given: tuple[Any, ...], rounds: int) -> float:
    """Median milliseconds of a call, each timing long enough to be told from noise."""
    jax.block_until_ready(step(*given))
    spent = []
    for _ in range(rounds):
        begun, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - begun < 0.02:
            jax.block_until_ready(step(*given))
            calls += 1
        spent.append((time.perf_counter() - begun) / calls)
    return 1e3 * float(np.median(spent))


def report_sizes(points: list[dict[str, Any]], batch_sizes: list[int]) -> None:
    """The table, for people."""
    heads = [f"query {b}, us" for b in batch_sizes]
    print(
        f"\n{'N':>10}{'L':>4}{'K':>4}{'build ms':>10}{'insert ms':>11}{'update ms':>11}"
        + "".join(f"{h:>15}" for h in heads)
        + f"{'MiB':>9}{'predicted':>11}{'dropped':>9}"
    )
    for p in points:
        queries = "".join(f"{p[f'query_{b}_us']:>15,.1f}" for b in batch_sizes)
        print(
            f"{p['rows']:>10,}{p['tables']:>4}{p['bits']:>4}{p['build_ms']:>10,.1f}"
            f"{p['insert_ms']:>11,.2f}{p['update_ms']:>11,.2f}{queries}"
            f"{p['bytes'] / 2**20:>9,.1f}{p['predicted_bytes'] / 2**20:>11,.1f}"
            f"{p['dropped']:>9.2%}"
        )


def tune(args: argparse.Namespace) -> dict[str, Any]:
    """Plans for a trained layer; the best and some others, measured."""
    files = args.files or default_set.FILES
    layer = trained.get(
        "files", files=files, options=args.train.split(), cache=args.cache, seed=args.seed
    )
    weights, bias, queries = map(jnp.asarray, (layer.weights, layer.bias, layer.queries))
    half = len(layer.queries) // 2  # predicted from one half, measured on the other
    drawn = tuner.sample(jax.random.key(args.seed), weights, bias, queries[half:])
    begun = time.perf_counter()
    plans = tuner.plan(
        drawn,
        batch_size=args.train_batch,
        memory=int(args.memory * 2**20),
        active_fraction=args.active_fraction,
        families=args.families.split(","),
    )
    seconds = time.perf_counter() - begun
    if not plans:
        raise ValueError(f"--memory {args.memory}: no index fits; the smallest needs more")
    rows = []
    # The best, and others spread over the list: a prediction should be right about those, too.
    for i in sorted({0, *np.linspace(0, len(plans) - 1, 5).astype(int).tolist()}):
        found = tuner.measure(
            jax.random.key(args.seed),
            weights,
            bias,
            queries[: min(half, 512)],
            config=plans[i].config,
        )
        rows.append(
            tuner.as_dict(plans[i])
            | {"rank": i + 1, "measured_bytes": found.bytes, "measured_recall": found.recall}
        )
    print(
        f"\n{layer.origin}\n{len(plans)} plans within {args.memory} MiB in {seconds:.1f} s\n\n"
        f"{'rank':>5} {'family':<9}{'L':>4}{'K':>4}{'bucket':>8}{'ranked':>8}"
        f"{'predicted MiB':>15}{'measured':>10}{'predicted recall':>18}"
        f"{'measured':>10}"
    )
    for p in rows:
        print(
            f"{p['rank']:>5} {p['family']:<9}{p['num_tables']:>4}{p['num_bits']:>4}"
            f"{p['capacity']:>8}{p['max_candidates']:>8}{p['predicted_bytes'] / 2**20:>15.2f}"
            f"{p['measured_bytes'] / 2**20:>10.2f}{p['predicted_recall']:>18.3f}"
            f"{p['measured_recall']:>10.3f}"
        )
    return {"origin": layer.origin, "plans": rows, "seconds": seconds, "considered": len(plans)}


def draw(path: str, points: list[dict[str, Any]], batch_sizes: list[int]) -> None:
    """Cost against N, one panel for what is done to all rows and one for what is not."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for count in dict.fromkeys(p["tables"] for p in points):
        own = sorted((p for p in points if p["tables"] == count), key=lambda p: p["rows"])
        rows = [p["rows"] for p in own]
        for name in ("build", "insert", "update"):
            left.plot(rows, [p[f"{name}_ms"] for p in own], "o-", label=f"{name}, L={count}")
        for size in batch_sizes:
            times = [p[f"query_{size}_us"] for p in own]
            right.plot(rows, times, "o-", label=f"batch {size}, L={count}")
    changed = points[0]["changed"]
    left.set(xscale="log", yscale="log", xlabel="N", ylabel="ms", title=f"{changed:,} rows changed")
    right.set(xscale="log", xlabel="N", ylabel="µs per query", title="query with ranking")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.3)
    save_figure(path, figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": searchers.num_threads(),
    }
    try:
        if args.tune:
            results["tuner"] = tune(args)
        else:
            results["points"] = [
                one_size(n, count, args) for count in args.tables for n in args.rows
            ]
            report_sizes(results["points"], args.batch_sizes)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results["peak_rss_bytes"] = peak_rss_bytes()
    if args.json:
        write_json(args.json, results)
    if args.plot and not args.tune:
        draw(args.plot, results["points"], args.batch_sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
