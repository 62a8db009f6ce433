"""Commands that score lines of text files and standard input, some at a time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice

from tqdm import tqdm

from sparse_jax import lm
from sparse_jax.commands.lm.models import load
from sparse_jax.data import encoding, plain
from sparse_jax.lm import sentences

Scored = tuple[list[str], sentences.SentenceScores]
AT_ONCE = 512  # lines scored together


def parser(about: str | None) -> argparse.ArgumentParser:
    """Of a command that scores lines: its description, and DIR and FILE."""
    found = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("directory", metavar="DIR", help="a model of lm train")
    found.add_argument(
        "file", metavar="FILE", help="a sentence a line, .gz too; - for standard input"
    )
    return found


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


def scored(args: argparse.Namespace) -> tuple[list[str], Iterator[Scored]]:
    """The lines of FILE, and the same with their scores by DIR's model, some at a time, in order.

    Raises:
      ValueError: if FILE is no text, or DIR no model.
      OSError: if one can't be read.
    """
    lines = read(args.file)
    return lines, _scored(load(args.directory), lines)


def _scored(model: lm.LanguageModel, lines: list[str]) -> Iterator[Scored]:
    """A bar shows how far it is."""
    rest = iter(lines)
    with tqdm(total=len(lines), desc="lines", disable=None, dynamic_ncols=True) as bar:
        while part := list(islice(rest, AT_ONCE)):
            yield part, sentences.score(model, part)
            bar.update(len(part))
