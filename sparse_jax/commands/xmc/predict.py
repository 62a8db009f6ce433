"""The best labels of new points or texts, by a kept classifier.

    sparse-jax xmc predict MODEL new.txt --top-k 10
    sparse-jax xmc predict MODEL new.csv --text question
    echo "a library for reading fonts" | sparse-jax xmc predict MODEL - --threshold 0.3

FILE holds points by id, or texts, if the model knows the words of its features: a text a line, or
any table of texts. Lines come out in the order of FILE: pairs of a label and its chance to be true,
separated by tabs, best first (tsv); or one JSON object each (jsonl); or all of it as arrays
`labels` and `scores` (npz). Of a network that was trained alone, as with --buckets or --strategy,
the numbers order labels but are no chances.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from sparse_jax import xmc
from sparse_jax.commands import reading
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.report import cell
from sparse_jax.commands.xmc import points, table
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_stream

FORMATS = ("tsv", "jsonl", "npz")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add("file", metavar="FILE", help="points or texts, plain or gzip; - reads standard input")
    add("--top-k", type=int, default=5, metavar="K", help="labels of each point (default: 5)")
    add(
        "--threshold",
        type=float,
        default=0.0,
        metavar="P",
        help="only labels whose chance to be true is at least P (default: 0)",
    )
    add("--format", choices=FORMATS, default="tsv", help="(default: tsv)")
    add("--output", metavar="FILE", help="write here instead of to standard output; npz needs it")
    reading.add_options(parser)
    args = parser.parse_args(argv)
    if args.top_k < 1:
        parser.error(f"--top-k {args.top_k}: must be at least 1")
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold}: must be from 0 to 1")
    if args.output is not None:
        place = Path(args.output)
        if place.is_dir() or not place.parent.is_dir():
            parser.error(f"--output {args.output}: must be a file in a folder that exists")
    if args.format == "npz" and not args.output:
        parser.error("--format npz needs --output FILE")
    if args.format == "npz" and args.threshold:
        parser.error("--threshold has no effect with --format npz, whose arrays hold all scores")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=0)


def _run(args: argparse.Namespace) -> None:
    """Reads points, writes their labels."""
    if table.is_table(args.model):
        of_table, found = table.predict(args)
        if found.numbers is not None:
            _write_numbers(args, found.numbers)
            return
        assert of_table.classifier is not None
        assert found.labels is not None and found.scores is not None
        model = of_table.classifier
        chunks = iter([xmc.Predictions(found.labels, found.scores)])
    else:
        model = xmc.load(args.model)
        if args.threshold and model.about.notes.get("calibrated") is False:
            print(
                f"warning: --threshold {args.threshold:g}: the numbers of {args.model} order "
                "labels but are no chances, since no points were held out to learn those from",
                file=sys.stderr,
            )
        chunks = _chunks(args, model)
    if args.format == "npz":
        _write_arrays(args, list(chunks))
    elif args.output:
        write_stream(args.output, lambda file: _write_lines(args, model, chunks, file))
    else:
        _write_lines(args, model, chunks, sys.stdout.buffer)


def _chunks(args: argparse.Namespace, model: xmc.Model) -> Iterator[xmc.Predictions]:
    options = reading.options_of(args)
    # Arrays are as wide as was asked for, lines as there are labels.
    k = args.top_k if args.format == "npz" else min(args.top_k, model.num_labels)
    for part in points.stream(args.file, model, kind=args.kind, options=options):
        yield xmc.predict(model, part, k=k)


def _write_numbers(args: argparse.Namespace, numbers: np.ndarray) -> None:
    """The numbers that a model of a table predicts, one a line."""
    if args.format == "npz":
        write_stream(args.output, lambda file: np.savez(file, numbers=numbers))
        return
    values = numbers.tolist()
    if args.format == "jsonl":
        values = [{"value": value} for value in values]
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    if args.output:
        write_stream(args.output, lambda file: file.write(content))
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _write_arrays(args: argparse.Namespace, chunks: list[xmc.Predictions]) -> None:
    labels = [c.labels for c in chunks] or [np.zeros((0, args.top_k), np.int32)]
    scores = [c.scores for c in chunks] or [np.zeros((0, args.top_k), np.float32)]
    arrays: dict[str, Any] = {"labels": np.concatenate(labels), "scores": np.concatenate(scores)}

    def write(file: Any) -> None:
        np.savez(file, **arrays)

    write_stream(args.output, write)


def _write_lines(
    args: argparse.Namespace, model: xmc.Model, chunks: Iterator[xmc.Predictions], file: IO[bytes]
) -> None:
    for chunk in chunks:
        for labels, scores in zip(chunk.labels, chunk.scores, strict=True):
            kept = (labels >= 0) & (scores >= args.threshold)
            names = points.names_of(model, labels[kept])
            if args.format == "tsv":
                pairs = zip(names, scores[kept].tolist(), strict=True)
                line = "\t".join(f"{cell(name)}\t{score:.6g}" for name, score in pairs)
            else:
                found: dict[str, Any] = {"labels": labels[kept].tolist()}
                if model.about.label_names is not None:
                    found["names"] = names
                found["scores"] = [float(f"{score:.6g}") for score in scores[kept].tolist()]
                line = json.dumps(found, ensure_ascii=False)
            file.write(line.encode() + b"\n")
        with contextlib.suppress(AttributeError):
            file.flush()


if __name__ == "__main__":
    sys.exit(main())
