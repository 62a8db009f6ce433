"""Teach a kept recommender new events, users and items, without training it anew.

    sparse-jax recommend update MODEL today.csv
    sparse-jax recommend update MODEL --items new.csv

FILE holds the new events alone. The model is replaced once all is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from sparse_jax import data, recommend
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.recommend import options
from sparse_jax.runtime import saved
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.lock import locked


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="directory of a kept model")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="new events; - reads standard input"
    )
    options.add_items(parser)
    options.add_reading(parser)
    args = parser.parse_args(argv)
    options.check_items(parser, args)
    if args.file is None:
        if args.items is None:
            parser.error("give FILE, or --items FILE, or both")
        options.refuse_reading(parser, args, "without FILE of events")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads, learns and keeps."""
    saved.read_manifest(args.model)  # before the lock would make a directory
    with locked(args.model):
        before = recommend.load(args.model)  # what another update has just kept, too
        texts = options.item_texts(args)
        events = data.of_lists([]) if args.file is None else options.read(args.file, args)
        started = time.perf_counter()
        model = recommend.update(before, events, item_texts=texts)
        seconds = time.perf_counter() - started
        recommend.save(model, args.model)
    if texts is not None:
        options.tell_of_texts(model)
    print(
        f"{len(events.items):,} events in {seconds:.2f} s: "
        f"{model.recent.num_users - before.recent.num_users:,} new users, "
        f"{model.num_items - before.num_items:,} new items; kept in {args.model}"
    )


if __name__ == "__main__":
    sys.exit(main())
