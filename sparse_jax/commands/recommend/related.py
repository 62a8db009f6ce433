"""What goes with items: taken close together, by a kept recommender.

    sparse-jax recommend related MODEL tea milk --top-k 5

A line for each: the item, then pairs of another one and how much they belong together, from 0 to 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparse_jax import recommend
from sparse_jax.commands import checks
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.report import cell


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("items", metavar="ITEM", nargs="+", help="by name")
    add("--top-k", type=int, default=10, metavar="K", help="items beside each (default: 10)")
    args = parser.parse_args(argv)
    checks.at_least(parser, args, 1, ["top_k"])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        model = recommend.load(args.model)
        found = recommend.related(model, args.items, k=min(args.top_k, model.num_items))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for item, others, scores in zip(args.items, *found, strict=True):
        pairs = zip(model.names(others), scores[others >= 0].tolist(), strict=True)
        print("\t".join([cell(item), *(f"{cell(name)}\t{score:.4g}" for name, score in pairs)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
