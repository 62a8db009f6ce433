"""Read an ARPA file once, check it, and keep it so that it opens at once.

    sparse-jax lm arpa news.arpa.gz NEWS
    sparse-jax lm perplexity NEWS sentences.txt

`lm score`, `perplexity` and `filter` take NEWS where they take the file. It tells how many n-grams
there are, and the sum of the probabilities after the context where it is farthest from 1: where it
isn't near 1, perplexities can't be compared with those of other models.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sparse_jax.commands.checks import check_target
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.lm.models import load_ngram
from sparse_jax.commands.report import tell
from sparse_jax.lm import ngram, ngram_sums
from sparse_jax.runtime.files import check_writable

MUCH = 1e-3  # distance of a sum from 1 from which a note tells of it


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="an ARPA file, .gz too")
    add("directory", metavar="DIR", help="what to write; another n-gram model there is replaced")
    add("--json", metavar="FILE", help="write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return status_of(_run, parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    """Reads, checks and writes the model; tells its figures."""
    check_target(args.directory, kind=ngram.KIND)
    model = load_ngram(args.file)
    check_writable(args.directory)
    ngram.save(model, args.directory)
    results: dict[str, Any] = {
        "order": len(model.orders),
        "ngrams": [order.keys.size for order in model.orders],
        "worst_sum": ngram_sums.worst_sum(model),
    }
    for n, size in enumerate(results["ngrams"], 1):
        print(f"  {f'{n}-grams':<12} {size:,}")
    print(f"  {'worst sum':<12} {results['worst_sum']:.6f}")
    if abs(results["worst_sum"] - 1) > MUCH:
        print(
            f"note: {args.file}: after some context the probabilities sum to "
            f"{results['worst_sum']:.4f}: perplexities can't be compared with other models'",
            file=sys.stderr,
        )
    tell(results, args.json)


if __name__ == "__main__":
    sys.exit(main())
