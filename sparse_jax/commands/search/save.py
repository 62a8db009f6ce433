"""Fold the log of the index in DIR into a new snapshot; feedback until now can't be undone then."""

from __future__ import annotations

import argparse

from sparse_jax import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")


def run(args: argparse.Namespace) -> None:
    """Saves."""
    with search.load(args.dir) as index:
        index.save()
        print(f"saved {len(index):,} documents")
