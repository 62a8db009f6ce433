"""Take the document ID out of the index in DIR."""

from __future__ import annotations

import argparse

from sparse_jax import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("id", metavar="ID")


def run(args: argparse.Namespace) -> None:
    """Deletes it."""
    with search.load(args.dir) as index:
        index.delete(args.id)
        print(f"deleted {args.id}; {len(index):,} left")
