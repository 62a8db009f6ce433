"""Learn that the document ID answers QUERY."""

from __future__ import annotations

import argparse

from sparse_jax import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("id", metavar="ID")


def run(args: argparse.Namespace) -> None:
    """Learns, and says how to undo it."""
    with search.load(args.dir) as index:
        print(f"learned; undo with: undo {args.dir} {index.upvote(args.query, args.id)}")
