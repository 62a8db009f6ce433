"""Learn that the text SOURCE means TARGET: it then finds what that finds."""

from __future__ import annotations

import argparse

from sparse_jax import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET")


def run(args: argparse.Namespace) -> None:
    """Learns, and says how to undo it."""
    with search.load(args.dir) as index:
        event = index.associate(args.source, args.target)
        print(f"learned; undo with: undo {args.dir} {event}")
