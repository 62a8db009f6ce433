"""Commands that score lines of text files and standard input, some at a time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sparse_jax.commands import checks
from sparse_jax.commands.lm.models import load_any, load_ngram
from sparse_jax.data import encoding, plain
from sparse_jax.lm import interpolation, sentences
from sparse_jax.lm.ngram import NGram

Scored = tuple[list[str], sentences.SentenceScores]
Scorer = Callable[[list[str]], sentences.SentenceScores]
AT_ONCE = 4096  # lines scored together
DEFAULT_WEIGHT = 0.5


def parser(about: str | None) -> argparse.ArgumentParser:
    """Of a command that scores lines: its description, MODEL and FILE, and a second model."""
    found = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "directory",
        metavar="MODEL",
        help="of lm train or lm arpa, or an ARPA file; words of the last two are what stands "
        "between white space",
    )
    found.add_argument(
        "file", metavar="FILE", help="a sentence a line, .gz too; - for standard input"
    )
    group = found.add_argument_group(
        "with an n-gram model",
        "Each token's probability is W times the n-gram model's and 1 - W times MODEL's, over\n"
        "MODEL's words: words that the n-gram model alone knows count as unknown, those that\n"
        "MODEL alone knows share the probability of its <unk>.",
    )
    add = group.add_argument
    add("--arpa", metavar="FILE", help="an ARPA file, .gz too, or what lm arpa made of one")
    add(
        "--valid",
        metavar="FILE",
        help="choose W by these lines, which neither model was trained on",
    )
    add("--weight", type=float, metavar="W", help=f"from 0 to 1 ({DEFAULT_WEIGHT})")
    return found


def parse_args(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The command line of a parser of `parser`; errors end the process."""
    args = parser.parse_args(argv)
    if args.arpa is None:
        checks.no_effect(parser, args, ("valid", "weight"), "without --arpa FILE")
    elif args.valid is not None:
        checks.no_effect(parser, args, ("weight",), "with --valid, which chooses it")
    if args.weight is not None and not 0 <= args.weight <= 1:
        parser.error(f"--weight {args.weight}: must be from 0 to 1, such as 0.5")
    if args.file == args.valid == "-":
        parser.error("--valid -: standard input is FILE already; name a file")
    return args


def read(file: str) -> list[str]:
    """The lines of a file, of which gzip is unpacked, or of standard input where it is "-".

    Only a newline ends a line. Bytes that are no UTF-8 become U+FFFD, with a note.

    Raises:
      ValueError: if it is no text.
      OSError: if it can't be read.
    """
    if file == "-":
        found = plain.decode_text(encoding.unpack(sys.stdin.buffer.read()), "standard input")
    else:
        found = plain.read(file)
    if found.replaced:
        print(f"note: {file}: {found.replaced:,} bytes are no UTF-8: now U+FFFD", file=sys.stderr)
    lines = found.text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{file}: no line to score; give text with one sentence a line")
    return [line.removesuffix("\r") for line in lines]


class Work(NamedTuple):
    """Lines that are being scored."""

    lines: list[str]
    parts: Iterator[Scored]  # the same lines with their scores, some at a time, in order
    weight: float | None  # of the n-gram model beside MODEL, if there is one


def scored(args: argparse.Namespace) -> Work:
    """The lines of FILE, and what scores them.

    Raises:
      ValueError: if FILE is no text, or MODEL no model.
      OSError: if one can't be read.
    """
    lines = read(args.file)
    model = load_any(args.directory)
    if args.arpa is None:
        return Work(lines, _scored(model.score, lines), None)
    if isinstance(model, NGram):
        raise ValueError(
            f"--arpa {args.arpa}: no effect on {args.directory}, which is an n-gram model itself; "
            "name a model of lm train"
        )
    other = load_ngram(args.arpa)
    weight = DEFAULT_WEIGHT if args.weight is None else args.weight
    both = interpolation.interpolate(model, other, weight)
    if args.valid is not None:
        if args.valid != "-" and args.file != "-" and os.path.samefile(args.valid, args.file):
            print(
                f"warning: --valid {args.valid} is FILE itself: its lines choose the weight that "
                "they are scored by, which flatters them; name others",
                file=sys.stderr,
            )
        both = interpolation.fit(both, read(args.valid))
    print(
        f"note: {args.arpa} knows {both.expert.known:,} of the model's {model.vocabulary.size:,} "
        f"words, and has weight {both.weight:.4f}",
        file=sys.stderr,
    )
    return Work(lines, _scored(both.score, lines), both.weight)


def joined(parts: Iterator[Scored]) -> sentences.SentenceScores:
    """The scores of all parts in one."""
    fields = zip(*(scores for _, scores in parts), strict=True)
    return sentences.SentenceScores(*map(np.concatenate, fields))


def _scored(score: Scorer, lines: list[str]) -> Iterator[Scored]:
    """A bar shows how far it is."""
    rest = iter(lines)
    with tqdm(total=len(lines), desc="lines", disable=None, dynamic_ncols=True) as bar:
        while part := list(islice(rest, AT_ONCE)):
            yield part, score(part)
            bar.update(len(part))
