"""The items that users are likeliest to take next, by a kept recommender.

    sparse-jax recommend predict MODEL events.csv --top-k 10
    sparse-jax recommend predict MODEL --known ann --known bob
    echo "ann tea milk" | sparse-jax recommend predict MODEL -

Lines come out in the order of FILE's users: the user, then pairs of an item and its score, parted
by tabs, best first (tsv); or one JSON object each (jsonl). Scores order items of one user and mean
nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from sparse_jax import recommend
from sparse_jax.commands import checks
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.recommend import options
from sparse_jax.commands.report import cell
from sparse_jax.data.histories import Histories
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_stream

_CHUNK = 4096  # users


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("file", metavar="FILE", nargs="?", help="histories or events; - reads standard input")
    add("--known", action="append", metavar="USER", help="a user that the model was trained on")
    add("--top-k", type=int, default=10, metavar="K", help="items of each user (default: 10)")
    add("--with-seen", action="store_true", help="also items that the user took before")
    add("--format", choices=("tsv", "jsonl"), default="tsv", help="(default: tsv)")
    add("--output", metavar="FILE", help="write here instead of to standard output")
    options.add_reading(parser)
    args = parser.parse_args(argv)
    checks.at_least(parser, args, 1, ["top_k"])
    if (args.file is None) == (args.known is None):
        parser.error("give FILE, or --known USER, and not both")
    if args.known is not None:
        options.refuse_reading(parser, args, "with --known, which reads no file")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=0)


def _run(args: argparse.Namespace) -> None:
    """Reads histories, writes what comes next."""
    model = recommend.load(args.model)
    if args.known is None:
        histories = options.read(args.file, args)
        _warn_of_strangers(args.file, model, histories)
    else:
        histories = _known(model, args.known)
    if args.output:
        write_stream(args.output, lambda file: _write(args, model, histories, file))
    else:
        _write(args, model, histories, sys.stdout.buffer)


def _warn_of_strangers(name: str, model: recommend.Model, histories: Histories) -> None:
    """Says if a file's items are mostly unknown, as by other ids or a wrong column."""
    known = np.array([item in model.places for item in histories.item_names], bool)
    strange = int((~known[histories.items]).sum())
    if 2 * strange > len(histories.items):
        example = histories.item_names[int(histories.items[~known[histories.items]][0])]
        print(
            f"warning: the model doesn't know the items of {strange:,} of "
            f"{len(histories.items):,} events in {name}, as {example!r:.40}: they are left out, "
            "and a user of no other gets what is popular; check the column of items (--item)",
            file=sys.stderr,
        )


def _known(model: recommend.Model, users: Sequence[str]) -> Histories:
    """What the model keeps of some users.

    Raises:
      ValueError: a user that it doesn't know.
    """
    places = {name: place for place, name in enumerate(model.recent.user_names)}
    for user in users:
        if user not in places:
            raise ValueError(
                f"--known {user}: must be a user that the model was trained on; give FILE with the "
                "user's events"
            )
    return model.recent.take(np.array([places[user] for user in users]))


def _write(
    args: argparse.Namespace, model: recommend.Model, histories: Histories, file: IO[bytes]
) -> None:
    for line in _lines(args, model, histories):
        file.write(f"{line}\n".encode())
    file.flush()


def _lines(args: argparse.Namespace, model: recommend.Model, histories: Histories) -> Iterator[str]:
    for start in range(0, histories.num_users, _CHUNK):
        part = histories.take(np.arange(start, min(start + _CHUNK, histories.num_users)))
        k = min(args.top_k, model.num_items)
        found = recommend.predict(model, part, k=k, exclude_seen=not args.with_seen)
        for user, items, scores in zip(part.user_names, *found, strict=True):
            names, values = model.names(items), scores[items >= 0].tolist()
            if args.format == "jsonl":
                yield json.dumps({"user": user, "items": names, "scores": values})
            else:
                pairs = (f"{cell(n)}\t{v:.6g}" for n, v in zip(names, values, strict=True))
                yield "\t".join([cell(user), *pairs])


if __name__ == "__main__":
    sys.exit(main())
