"""Teach a kept classifier new points, new features and new labels, without training it anew.

    sparse-jax xmc update MODEL more.txt
    sparse-jax xmc update MODEL more.txt --labels names.txt --output MODEL2

Ids below the model's sizes mean what they meant in training; larger ones are new.
"""

from __future__ import annotations

import argparse
import sys
import time

from sparse_jax import data, xmc
from sparse_jax.commands.checks import check_target
from sparse_jax.commands.progress import Bars
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.runtime.saved import read_manifest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("file", metavar="FILE", help="new points, in the XMC text format")
    add("--labels", metavar="NAMES", help="a file with all labels' names, a line each")
    add("--vocabulary", metavar="NAMES", help="a file with all features' names, a line each")
    add("--output", metavar="DIR", help="keep the model here (default: in the place of MODEL)")
    add("--seed", type=int, default=0, help="of the order of the points (default: 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        read_manifest(args.model)  # before a directory is made
        check_target(args.output, kind="xmc")
        with locked(args.output or args.model):
            return _run(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    """Reads, learns and keeps; returns the exit status."""
    model = xmc.load(args.model)
    points = data.read_xmc(args.file)
    sizes = {
        "label_names": (args.labels, max(points.num_labels, model.num_labels)),
        "feature_names": (args.vocabulary, max(points.num_features, model.num_features)),
    }
    names = {
        name: None if path is None else data.read_names(path, count=count)
        for name, (path, count) in sizes.items()
    }
    started = time.perf_counter()
    interrupt = Interrupt()
    with Bars() as bars:
        updated = xmc.update(
            model, points, seed=args.seed, interrupt=interrupt, progress=bars, **names
        )
    if interrupt.asked:
        print(f"\ninterrupted: {args.model} stays as it was", file=sys.stderr)
        return 130
    xmc.save(updated, args.output or args.model)
    more = updated.num_labels - model.num_labels, updated.num_features - model.num_features
    print(
        f"{points.num_points:,} points, {more[0]:,} new labels and {more[1]:,} new features in "
        f"{time.perf_counter() - started:.1f} s, kept in {args.output or args.model}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
