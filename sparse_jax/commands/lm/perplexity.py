"""Perplexity of a text whose lines are sentences by themselves, with and without unknown words.

    sparse-jax lm perplexity MODEL sentences.txt
    sparse-jax lm perplexity MODEL sentences.txt --arpa news.arpa.gz --valid others.txt

`lm evaluate` takes files as running documents instead, where each line has those before it as
context.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sparse_jax.commands.ending import status_of
from sparse_jax.commands.lm import lines
from sparse_jax.commands.report import tell
from sparse_jax.runtime.allocator import keep_freed_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = lines.parser(__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    return lines.parse_args(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads lines, tells their figures."""
    work = lines.scored(args)
    scores = lines.joined(work.parts)
    results: dict[str, Any] = {
        "perplexity": scores.perplexity(),
        "perplexity_of_known_tokens": scores.perplexity(unknown=False),
        "log10_p": float(scores.log10_p.sum()),
        "sentences": scores.tokens.size,
        "tokens": int(scores.tokens.sum()),
        "unknown_tokens": int(scores.unknown.sum()),
    }
    if work.weight is not None:
        results["arpa_weight"] = work.weight
    for name, value in results.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        print(f"  {name:<28} {shown}")
    tell(results, args.json)


if __name__ == "__main__":
    sys.exit(main())
