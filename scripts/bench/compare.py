#!/usr/bin/env python3
"""Ours beside its peers on one extreme-classification set: accuracy, seconds, memory, model size.

    python scripts/compare_xmc.py TRAIN TEST --json table.json --plot accuracy.png

Every way runs in a process of its own, one after the other, on the same two files, with the same
TF-IDF weights. Omikuji (Parabel and Bonsai; `pip install omikuji`), PECOS XR-Linear (`pip install
libpecos`, beside NumPy 1.26 and a CPU torch) and TF-IDF nearest neighbours (`pip install scipy`)
take part where installed; --python names another interpreter that has some of them. Training
seconds are all of training, compiling and tree building counted; reading the files is counted only
for Omikuji, which reads its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import default_set
import numpy as np

from sparse_jax import data
from sparse_jax.commands import report
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.runtime import files
from sparse_jax.xmc import metrics

HERE = Path(__file__).resolve().parent
OURS = {
    "fast": ["--preset", "fast"],
    "accurate": ["--preset", "accurate"],
    "network, lsh": ["--strategy", "lsh"],
    "network, uniform": ["--strategy", "uniform"],
    "network, dense": ["--strategy", "dense"],
}
PEERS = {  # and their package
    "Parabel": "omikuji",
    "Bonsai": "omikuji",
    "XR-Linear": "pecos",
    "neighbours": "scipy",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = [*OURS, *PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST; default: debian-depends")
    add("--ways", help=f"some of: {'; '.join(known)}, with ; between them (all)")
    add(
        "--python",
        action="append",
        default=[],
        metavar="EXE",
        help="an interpreter that has peers this one lacks; more than once if need be",
    )
    add("--seed", type=int, default=0, help="(0)")
    add("--json", metavar="FILE", help="write the table here")
    add("--plot", metavar="FILE", help="draw P@1 against training seconds here")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2):
        parser.error(f"got {len(args.files)} file(s): give TRAIN and TEST, or neither")
    args.ways = [w.strip() for w in args.ways.split(";")] if args.ways else known
    unknown = set(args.ways) - {*known}
    if unknown:
        parser.error(f"--ways {'; '.join(sorted(unknown))}: must be of {'; '.join(known)}")
    return args


def run_ours(args: argparse.Namespace, way: str, directory: Path) -> dict[str, Any]:
    """Our script, as a user runs it."""
    out = directory / "ours.json"
    command = [
        sys.executable,
        str(HERE.parent / "train_xmc.py"),
        *args.files,
        *OURS[way],
        "--seed",
        str(args.seed),
        "--json",
        str(out),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = json.loads(out.read_text())
    if "preset" not in results:  # a preset's seconds hold its compiling already
        results["train_seconds"] += results["compile_seconds"]
    return results


def run_peer(args: argparse.Namespace, way: str, directory: Path) -> tuple[np.ndarray, Any] | None:
    """A peer in its own interpreter; None where it isn't installed."""
    module = PEERS[way]
    for python in [sys.executable, *args.python]:
        if not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            break
    else:
        print(f"{way}: not measured, no interpreter has {module}")
        return None
    command = [python, str(HERE / "compare_peer.py"), way, str(directory)]
    subprocess.run(command, check=True, capture_output=True)  # Omikuji logs every example
    with np.load(directory / "predicted.npz") as z:
        return z["predicted"], json.loads(str(z["figures"]))


def prepare(train: data.XmcData, test: data.XmcData, directory: Path) -> None:
    """The files the peers read."""
    data.write_xmc(directory / "train.txt", train)
    np.savez(
        directory / "train.npz",
        values=train.feature_values,
        ids=train.feature_ids,
        offsets=train.feature_offsets,
        shape=(train.num_points, train.num_features),
        labels=train.label_ids,
        label_offsets=train.label_offsets,
        label_shape=(train.num_points, train.num_labels),
    )
    np.savez(
        directory / "test.npz",
        values=test.feature_values,
        ids=test.feature_ids,
        offsets=test.feature_offsets,
        n=test.num_points,
    )


HEADS = "  train s  predict µs  RSS MiB  model MiB"
COLUMNS = ("p@1", "p@3", "p@5", "psp@1", "psp@3", "psp@5")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    train, test = train_xmc.load_weighted(args.files or default_set.FILES)
    inverse = metrics.inverse_propensities(train.label_offsets, train.label_ids, train.num_labels)
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'':18}" + "".join(f"{c:>8}" for c in COLUMNS) + HEADS)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        prepare(train, test, directory)
        for way in args.ways:
            if way in OURS:
                row = run_ours(args, way, directory)
            else:
                found = run_peer(args, way, directory)
                if found is None:
                    continue
                scores = metrics.evaluate(found[0], test.label_offsets, test.label_ids, inverse)
                row = scores | found[1]
            rows[way] = row
            print(_line(way, row), flush=True)
    if args.json:
        files.write_json(args.json, rows)
    if args.plot:
        draw(args.plot, rows)
    return 0


def _line(way: str, row: dict[str, Any]) -> str:
    scores = "".join(f"{row[c]:8.4f}" for c in COLUMNS)
    predict = f"{row['predict_us']:10,.0f}" if "predict_us" in row else f"{'-':>10}"
    size = f"{row['model_bytes'] / 2**20:9,.0f}" if "model_bytes" in row else f"{'-':>9}"
    rss = row["peak_rss_bytes"] / 2**20
    return f"{way:18}{scores}{row['train_seconds']:9.1f}{predict}  {rss:9,.0f}  {size}"


def draw(path: str, rows: dict[str, dict[str, Any]]) -> None:
    """P@1 against training seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for way, row in rows.items():
        ours = way in OURS
        axes.scatter(row["train_seconds"], row["p@1"], color="tab:orange" if ours else "tab:blue")
        axes.annotate(
            way,
            (row["train_seconds"], row["p@1"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xlabel="training seconds", ylabel="P@1 on the test set")
    report.save_figure(path, figure)


if __name__ == "__main__":
    sys.exit(main())
