"""Take feedback back: the event with this number, or the last one."""

from __future__ import annotations

import argparse

from sparse_jax import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument(
        "event", metavar="EVENT", nargs="?", type=int, help="its number; the last one if left out"
    )


def run(args: argparse.Namespace) -> None:
    """Undoes it."""
    with search.load(args.dir) as index:
        print(f"undone: event {index.undo(args.event)}")
