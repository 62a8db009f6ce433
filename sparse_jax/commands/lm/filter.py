"""Keep the lines of a text that a language model finds likely, in their order.

    sparse-jax lm filter MODEL crawled.txt --keep 0.5 > kept.txt

Lines are compared by log10 of a token, ends counted, so that long ones aren't at a loss; of equal
ones the earlier is kept.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np

from sparse_jax.commands.ending import status_of
from sparse_jax.commands.lm import lines
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_stream


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = lines.parser(__doc__)
    add = parser.add_argument
    add("--keep", type=float, required=True, metavar="SHARE", help="of the lines, above 0, up to 1")
    add("--output", metavar="FILE", help="write here instead of to standard output")
    args = lines.parse_args(parser, argv)
    if not 0 < args.keep <= 1:
        parser.error(f"--keep {args.keep}: must be above 0 and at most 1, such as 0.5 for half")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads lines, writes the likeliest."""
    given, parts, _ = lines.scored(args)
    mean = np.concatenate([scores.log10_p / (scores.tokens + 1) for _, scores in parts])
    best = np.argsort(-mean, kind="stable")[: math.ceil(args.keep * len(given))]
    content = "".join(given[i] + "\n" for i in np.sort(best)).encode()
    if args.output:
        write_stream(args.output, lambda file: file.write(content))
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    print(f"kept {best.size:,} of {len(given):,} lines", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
