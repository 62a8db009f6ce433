"""A kept recommender on histories whose last items it was not trained on.

    sparse-jax recommend train events.csv --model MODEL --hold-out last
    sparse-jax recommend evaluate MODEL events.csv

Each user's last item, or the first one after a moment, is ranked among all items.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from sparse_jax import recommend
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.recommend import options
from sparse_jax.commands.report import tell
from sparse_jax.recommend.updating import num_learned
from sparse_jax.runtime.allocator import keep_freed_memory


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("file", metavar="FILE", help="histories or events; - reads standard input")
    add("--with-seen", action="store_true", help="rank what the user took before, too")
    add("--json", metavar="FILE", help="write the figures here, too")
    options.add_hold_out(parser, "last")
    options.add_reading(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Ranks what was held out, tells the figures."""
    model = recommend.load(args.model)
    held_out = options.split(options.read(args.file, args), args.hold_out)
    learned = num_learned(model, held_out.contexts, held_out.targets)
    if learned > held_out.contexts.num_users / 2:
        print(
            f"warning: the model was trained on the held-out items of {learned:,} of "
            f"{held_out.contexts.num_users:,} users, so it looks better here than it is; "
            f"`sparse-jax recommend train FILE --hold-out {args.hold_out}` leaves them out",
            file=sys.stderr,
        )
    figures = recommend.evaluate(
        model, held_out.contexts, held_out.targets, exclude_seen=not args.with_seen
    )
    recommend.predict(model, held_out.contexts, k=10)  # compiles
    started = time.perf_counter()
    recommend.predict(model, held_out.contexts, k=10, exclude_seen=not args.with_seen)
    seconds = time.perf_counter() - started
    figures["learned_targets"] = learned
    figures["predict_us"] = 1e6 * seconds / held_out.contexts.num_users
    options.print_figures(figures)
    print(f"  {'predicting':<21} {figures['predict_us']:,.0f} µs a user")
    tell(figures, args.json)


if __name__ == "__main__":
    sys.exit(main())
