"""Train a recommender on what users took, and keep it.

    sparse-jax recommend train events.csv --model MODEL
    sparse-jax recommend train ml-1m/ratings.dat --model MODEL --hold-out last
    sparse-jax recommend train events.csv --items items.csv --model MODEL
    sparse-jax recommend predict MODEL events.csv --top-k 10

FILE holds events, or a user's items in order of time, a line each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from sparse_jax import recommend
from sparse_jax.commands import checks, spending
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.progress import Bars
from sparse_jax.commands.recommend import options
from sparse_jax.commands.report import tell
from sparse_jax.recommend.presets import PRESETS
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import check_writable
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.runtime.machine import peak_rss_bytes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="histories or events")
    add("--model", metavar="MODEL", help="keep the model in this directory")
    add("--preset", choices=tuple(PRESETS), default="fast", help="(default: fast)")
    add("--seed", type=int, default=0, help="(default: 0)")
    add("--json", metavar="FILE", help="write the figures here, too")
    spending.add_price(parser)
    options.add_hold_out(parser, None)
    options.add_items(parser)
    options.add_reading(parser)
    args = parser.parse_args(argv)
    checks.seeds(parser, args)
    options.check_items(parser, args)
    if args.model is None and args.hold_out is None:
        parser.error("--model MODEL or --hold-out last: must have one, or nothing comes of it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args)


def _run(args: argparse.Namespace) -> int:
    checks.check_target(args.model, kind="recommend")
    with locked(args.model):
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    """Reads, learns, tests and keeps; returns the exit status."""
    if args.model:
        check_writable(args.model)
    texts = options.item_texts(args)
    histories = options.read(args.file, args)
    held_out = None if args.hold_out is None else options.split(histories, args.hold_out)
    train = histories if held_out is None else held_out.train
    print(
        f"{len(train.items):,} events of {train.num_users:,} users, {train.num_items:,} items"
        + ("" if held_out is None else f"; {len(held_out.targets):,} users to test on")
    )
    if texts is not None:
        known = sum(name in texts for name in train.item_names)
        print(
            f"{len(texts):,} texts of items: {known:,} of those with events, "
            f"{len(texts) - known:,} of others"
        )
        if 2 * known < train.num_items:
            strange = next(name for name in train.item_names if name not in texts)
            print(
                f"warning: {args.items} has no text of {train.num_items - known:,} of "
                f"{train.num_items:,} items with events, as {strange!r:.40}; its first item is "
                f"{next(iter(texts))!r:.40}: if ids differ, name the column of items "
                "(--item-column)",
                file=sys.stderr,
            )
    with Interrupt() as interrupt, Bars() as bars:
        model = recommend.fit(
            train,
            preset=args.preset,
            seed=args.seed,
            item_texts=texts,
            interrupt=interrupt,
            progress=bars,
        )
    if interrupt.asked:
        print("\ninterrupted", file=sys.stderr)
        return 130
    if texts is not None:
        options.tell_of_texts(model)
    results: dict[str, Any] = {"preset": args.preset, "seed": args.seed} | model.notes
    if held_out is not None:
        figures = recommend.evaluate(model, held_out.contexts, held_out.targets)
        options.print_figures(figures)
        results |= figures
    results |= {"model_bytes": model.nbytes(), "peak_rss_bytes": peak_rss_bytes()}
    print(f"  {'training':<21} {results['train_seconds']:.1f} s")
    results |= spending.spent(args)
    if args.model:
        recommend.save(model, args.model)
        print(f"kept in {args.model}")
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
