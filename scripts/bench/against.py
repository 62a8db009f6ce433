#!/usr/bin/env python3
"""Time a command in this tree against the same one in an earlier revision's, in turn.

    python scripts/bench/against.py c3a3f1d -- python scripts/train_xmc.py
    python scripts/bench/against.py c3a3f1d --figure peers.ours_shared.ms \\
        -- python scripts/bench_step.py --peers ours_shared --json {json}

The revision is checked out of git into a temporary folder and its kernels are built there, by this
Python. Each pair runs the command once in either tree, the first of them in turn, so that whatever
slows the machine down slows both. A ratio below 1 says that this tree takes less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sparse_jax.runtime.files import write_json

ROOT = Path(__file__).resolve().parents[2]


class Cost(NamedTuple):
    """What one run took."""

    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    figure: float | None = None  # of the command's own JSON


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", metavar="REV", help="a commit, tag or branch")
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="runs of each (7)")
    parser.add_argument(
        "--figure",
        metavar="A.B.C",
        help="a number of the JSON that the command writes to {json}, besides the command's costs",
    )
    parser.add_argument("--json", metavar="FILE", help="write all runs here")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="behind --; run in each tree")
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error(f"--pairs {args.pairs}: must be at least 1")
    if (args.figure is None) == any("{json}" in word for word in args.command):
        parser.error("--figure and {json} in the command go together: give both or neither")
    return args


@contextlib.contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision, and its kernels in place.

    Raises:
      ValueError: if git doesn't know the revision, or it doesn't build.
    """
    with tempfile.TemporaryDirectory(prefix="sparse_jax-against-") as folder:
        tree, build = Path(folder) / "tree", Path(folder) / "build"
        packed = subprocess.run(
            ["git", "-C", str(ROOT), "archive", revision], capture_output=True, check=False
        )
        if packed.returncode:
            raise ValueError(f"REV = {revision!r}: {packed.stderr.decode().strip()}")
        tree.mkdir()
        subprocess.run(["tar", "-xf", "-", "-C", str(tree)], input=packed.stdout, check=True)
        build_kernels(tree, build)
        yield tree


def build_kernels(tree: Path, build: Path) -> None:
    """Builds the kernels of a tree, for this Python, into its package."""
    configure = ["cmake", "-S", str(tree / "kernels"), "-B", str(build)]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    for step in (configure, ["cmake", "--build", str(build), "--parallel"]):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{' '.join(step)} failed:\n{done.stdout}{done.stderr}")
    built = list(build.glob("_kernels*")) + list((tree / "sparse_jax").glob("_kernels*"))
    if not built:
        raise ValueError(f"{tree / 'kernels'}: no kernels came of the build")
    for module in built:
        if module.parent == build:
            shutil.copy2(module, tree / "sparse_jax")


def run(command: Sequence[str], tree: Path, figure: str | None) -> Cost:
    """Runs a command in a tree, with its package first on the path.

    Raises:
      ValueError: if it fails, or doesn't write the figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "figures.json"
        words = [word.replace("{json}", str(written)) for word in command]
        env = {**os.environ, "PYTHONPATH": str(tree)}
        with open(Path(folder) / "log", "w+b") as log:
            began = time.perf_counter()
            child = subprocess.Popen(words, cwd=tree, env=env, stdout=log, stderr=log)
            _, status, used = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                log.seek(0)
                said = log.read().decode(errors="replace")
                raise ValueError(f"{' '.join(words)} in {tree}: {child.returncode}\n{said}")
        peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        cost = Cost(seconds, used.ru_utime + used.ru_stime, peak)
        return cost if figure is None else cost._replace(figure=read_figure(written, figure))


def read_figure(file: Path, name: str) -> float:
    """A number of a JSON file, by the names that lead to it.

    Raises:
      ValueError: if there is none.
    """
    try:
        found = json.loads(file.read_text())
        for part in name.split("."):
            found = found[part]
        return float(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--figure {name}: not in the JSON of the command ({error!r})") from error


def summary(pairs: Sequence[tuple[Cost, Cost]]) -> dict[str, dict[str, float]]:
    """For each cost the medians before and after, and of their ratio, with its range."""
    found = {}
    for name in Cost._fields:
        both = [(getattr(old, name), getattr(new, name)) for old, new in pairs]
        if any(None in pair for pair in both):
            continue
        ratios = [new / old for old, new in both]
        found[name] = {
            "before": statistics.median(old for old, _ in both),
            "after": statistics.median(new for _, new in both),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return found


def measure(args: argparse.Namespace) -> list[tuple[Cost, Cost]]:
    """(cost at the revision, cost here) of each pair."""
    pairs = []
    with tree_of(args.revision) as before:
        for number in range(args.pairs):
            trees = (before, ROOT) if number % 2 == 0 else (ROOT, before)
            costs = {tree: run(args.command, tree, args.figure) for tree in trees}
            pairs.append((costs[before], costs[ROOT]))
            seconds = " ".join(f"{cost.seconds:.2f}" for cost in pairs[-1])
            print(f"pair {number + 1} of {args.pairs}: {seconds} s", file=sys.stderr)
    return pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        pairs = measure(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    found = summary(pairs)
    print(f"{'':<14} {args.revision[:12]:>12} {'here':>12} {'ratio':>7}   least to most")
    for name, cost in found.items():
        shown = args.figure if name == "figure" else name
        print(
            f"{shown:<14} {cost['before']:>12.3f} {cost['after']:>12.3f} {cost['ratio']:>7.3f}"
            f"   {cost['least']:.3f} to {cost['most']:.3f}"
        )
    if args.json:
        runs = [{"before": old._asdict(), "after": new._asdict()} for old, new in pairs]
        write_json(args.json, {"command": args.command, "summary": found, "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
