"""Teach a kept classifier new points, new features and new labels, without training it anew.

    sparse-jax xmc update MODEL more.txt
    sparse-jax xmc update MODEL more.txt --labels names.txt --output MODEL2
    sparse-jax xmc update MODEL more.csv --text question --labels type

Ids below the model's sizes mean what they meant in training; larger ones are new. Labels and words
of texts are known by name; those that the model lacks are new.
"""

from __future__ import annotations

import argparse
import sys
import time

from sparse_jax import xmc
from sparse_jax.commands import reading
from sparse_jax.commands.checks import check_target
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.progress import Bars
from sparse_jax.commands.xmc import naming
from sparse_jax.commands.xmc.table import is_table
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked

LABELS = (
    "of a table, the column of labels (default: labels, or label); of points whose labels are ids, "
    "a file with all labels' names, a line each"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("file", metavar="FILE", help="new points, of any kind; - reads standard input")
    add("--vocabulary", metavar="NAMES", help="a file with all features' names, a line each")
    add("--output", metavar="DIR", help="keep the model here (default: in the place of MODEL)")
    add("--seed", type=int, default=0, help="of the order of the points (default: 0)")
    reading.add_options(parser, labels=LABELS)
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        if is_table(args.model):  # also: before a directory is made
            raise ValueError(
                f"{args.model} is a model of a table: must be one of texts or points; train it on "
                "all rows anew, by xmc train --target"
            )
        check_target(args.output, kind="xmc")
        with locked(args.output or args.model):
            return _run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    """Reads, learns and keeps; returns the exit status."""
    model = xmc.load(args.model)
    table = reading.read(args.file, args, model=model)
    table = naming.for_update(args.file, table, model, args.labels, args.vocabulary)
    if table.label_weights is not None:
        print("warning: an update takes every label as 1, whatever its weight", file=sys.stderr)
    started = time.perf_counter()
    interrupt = Interrupt()
    with Bars() as bars:
        updated = xmc.update(
            model,
            table.points,
            seed=args.seed,
            label_names=table.label_names,
            feature_names=table.feature_names,
            interrupt=interrupt,
            progress=bars,
        )
    if interrupt.asked:
        print(f"\ninterrupted: {args.model} stays as it was", file=sys.stderr)
        return 130
    xmc.save(updated, args.output or args.model)
    more = updated.num_labels - model.num_labels, updated.num_features - model.num_features
    print(
        f"{table.points.num_points:,} points, {more[0]:,} new labels and {more[1]:,} new features "
        f"in {time.perf_counter() - started:.1f} s, kept in {args.output or args.model}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
