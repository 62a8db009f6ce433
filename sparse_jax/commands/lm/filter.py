"""Keep the lines of a text that a language model finds likely, in their order.

    sparse-jax lm filter MODEL crawled.txt --keep 0.5 > kept.txt

Lines are compared by log10 of a token, ends counted, so that long ones aren't at a loss; of equal
ones the earlier is kept. Tokens that a model doesn't know say little: if many are, in a text of
another language for one, take a model of `lm train --vocabulary bpe`.
"""

from __future__ import annotations

import argparse
import math
import sys
from fractions import Fraction

import numpy as np

from sparse_jax.commands.ending import status_of
from sparse_jax.commands.lm import lines
from sparse_jax.commands.lm.lines import joined
from sparse_jax.lm.sentences import SentenceScores
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
    scores = joined(parts)
    mean = scores.log10_p / (scores.tokens + 1)
    count = math.ceil(Fraction(str(args.keep)) * len(given))  # .07 of 100 are 7, not 8
    best = np.argsort(-mean, kind="stable")[:count]
    content = "".join(given[i] + "\n" for i in np.sort(best)).encode()
    if args.output:
        write_stream(args.output, lambda file: file.write(content))
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    print(f"kept {best.size:,} of {len(given):,} lines", file=sys.stderr)
    _tell_of_unknown(scores, best)


def _tell_of_unknown(scores: SentenceScores, best: np.ndarray) -> None:
    """Says if what is kept is likely for being unknown, as another script is to a model of words.

    The unknown token has the chance of all rare words together, which is more than most words'.
    """
    kept = np.zeros(scores.tokens.size, bool)
    kept[best] = True
    own, all_ = (
        scores.unknown[part].sum() / max(scores.tokens[part].sum(), 1)
        for part in (kept, np.ones_like(kept))
    )
    mostly = int((2 * scores.unknown[kept] > scores.tokens[kept]).sum())
    if mostly and own >= all_:
        print(
            f"warning: most tokens of {mostly:,} lines kept are unknown to the model ({own:.1%} of "
            f"all tokens kept, {all_:.1%} of those given): their scores say little; take a model "
            "of lm train --vocabulary bpe, or leave them out by lm score's column `unknown`",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
