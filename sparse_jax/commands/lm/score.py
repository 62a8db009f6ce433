"""Score each line of a text with a trained language model, an n-gram model, or both.

    sparse-jax lm score MODEL sentences.txt
    some program | sparse-jax lm score MODEL - --format jsonl
    sparse-jax lm score news.arpa.gz sentences.txt
    sparse-jax lm score MODEL sentences.txt --arpa news.arpa.gz --valid others.txt

A line is a sentence by itself. Columns: log10 of its probability with its end, the same without,
tokens, unknown tokens, and the text. `lm perplexity` sums them up, `lm filter` keeps the best.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import IO

from sparse_jax.commands.ending import status_of
from sparse_jax.commands.lm import lines
from sparse_jax.commands.report import cell, finite
from sparse_jax.lm.sentences import SentenceScores
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_stream

COLUMNS = ("log10", "log10_without_end", "tokens", "unknown", "text")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = lines.parser(__doc__)
    add = parser.add_argument
    add("--format", choices=("tsv", "jsonl"), default="tsv", help="of the output (%(default)s)")
    add("--output", metavar="FILE", help="write here instead of to standard output")
    return lines.parse_args(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads lines, writes their scores."""
    parts = lines.scored(args).parts

    def write(file: IO[bytes]) -> None:
        if args.format == "tsv":
            file.write(("\t".join(COLUMNS) + "\n").encode())
        for texts, scores in parts:
            file.write("".join(_rows(texts, scores, args.format)).encode())
            file.flush()

    if args.output:
        write_stream(args.output, write)
    else:
        write(sys.stdout.buffer)


def _rows(texts: list[str], scores: SentenceScores, form: str) -> list[str]:
    found = []
    whole, inner = scores.log10_p, scores.log10_without_end
    for i, text in enumerate(texts):
        figures = [round(float(whole[i]), 6), round(float(inner[i]), 6)]
        row = [*figures, int(scores.tokens[i]), int(scores.unknown[i])]
        if form == "tsv":
            found.append("\t".join([*map(str, row), cell(text)]) + "\n")
        else:
            fields = dict(zip(COLUMNS, [*row, text], strict=True))
            found.append(json.dumps(finite(fields), ensure_ascii=False) + "\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
