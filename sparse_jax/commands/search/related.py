"""Documents of the index in DIR like the document ID, or like several: what to read next."""

from __future__ import annotations

import argparse

from sparse_jax import search
from sparse_jax.commands.search.query import add_output_arguments, conditions, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("ids", metavar="ID", nargs="+")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Finds them, and prints them."""
    with search.load(args.dir, read_only=True) as index:
        results = search.related(index, args.ids, k=args.k, where=conditions(args.where))
        show(index, results, as_json=args.json)
