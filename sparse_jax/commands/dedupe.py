"""Near-duplicates among texts: keep the first of those alike, in their order.

    sparse-jax dedupe crawled.txt > kept.txt
    sparse-jax dedupe a.jsonl b.jsonl --text body --output kept.jsonl --pairs dropped.jsonl
    sparse-jax dedupe folder/ --output kept-files.txt     # a file a text: writes the names kept

Two texts are alike if of the words and pairs of neighbouring words that either holds, both hold a
share of at least --threshold (Jaccard). A text that is like one before it is dropped. Texts are
read some at a time, so that files may be larger than memory; about 4 bytes a word and pair, and 300
more at 0.8, stay of a text that is kept. Texts without words are kept.

A text is a line of a text file (.txt, .md, .rst), a row of a table (.csv, .tsv, .jsonl, .parquet),
or, with --kind files or a folder, a whole text file. All may be gzip. Rows are written as they
stand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.data import plain, streams
from sparse_jax.data.kinds.base import Options
from sparse_jax.retrieval.duplicates import Finder, Matches, sizes
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import write_stream

FILES = "files"
_TEXT_FILES = (".txt", ".md", ".rst", ".gz")
_FILES_AT_ONCE = 256


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="to read in this order; - for standard input")
    add("--threshold", type=float, default=0.8, metavar="J", help="from 0.2 to 1 (default: 0.8)")
    add("--output", metavar="FILE", help="write here instead of to standard output")
    add("--pairs", metavar="FILE", help="write what dropped texts are like, a JSON object each")
    add(
        "--kind",
        choices=(*streams.KINDS, FILES),
        help="of the files (default: by name, else content; of -: text)",
    )
    add(
        "--text",
        action="append",
        metavar="COLUMN",
        help="of a table, the column of texts; give it again to join several (default: text)",
    )
    args = parser.parse_args(argv)
    try:
        sizes(args.threshold)
    except ValueError:
        parser.error(f"--threshold {args.threshold}: must be from 0.2 to 1, such as 0.8")
    for other in (args.output, *args.files):
        if args.pairs is not None and other is not None and _same_file(args.pairs, other):
            parser.error(f"--pairs {args.pairs}: is {other} too: must be another file")
    if len(args.files) > 1 and "-" in args.files:
        parser.error("FILE -: standard input must be the only one")
    return args


def _same_file(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads, finds, writes what is kept.

    Raises:
      ValueError: a malformed file, files of several kinds, an option without effect.
      ImportError: Parquet without its library.
      OSError: a file can't be read or written.
    """
    options = Options(text=None if args.text is None else tuple(args.text))
    paths, kind = find_files(args.files, args.kind, options)
    if args.text is not None and kind in ("text", FILES):
        raise ValueError(f"--text: no effect on files of kind {kind}; leave it out")
    if kind == "parquet" and args.output is None:
        raise ValueError("--output is missing: Parquet can't be written to standard output")
    started = time.perf_counter()
    done = _Run(paths, kind, options, args.threshold)

    def with_pairs(pairs: BinaryIO | None) -> None:
        if args.output is None:
            done.dedupe(sys.stdout.buffer, pairs, packed=False)
            sys.stdout.buffer.flush()
        else:
            packed = args.output.endswith(".gz") and kind != "parquet"
            write_stream(args.output, lambda file: done.dedupe(file, pairs, packed=packed))

    if args.pairs is None:
        with_pairs(None)
    else:
        write_stream(args.pairs, with_pairs)
    print(f"{done.told()}; {time.perf_counter() - started:.1f} s", file=sys.stderr)


def find_files(given: Sequence[str], kind: str | None, options: Options) -> tuple[list[str], str]:
    """The files that a command line names, folders replaced by what is in them, and their kind.

    Raises:
      ValueError: there are none, or of several kinds.
      OSError: one isn't there.
    """
    if given == ["-"]:
        if kind in ("parquet", FILES):
            raise ValueError(f"--kind {kind}: can't be read from standard input; name files")
        return ["-"], kind or "text"
    paths: list[str] = []
    kinds: dict[str, str] = {}  # a file of each
    for path in given:
        if os.path.isdir(path):
            found = sorted(
                str(p) for p in Path(path).rglob("*") if p.suffix in _TEXT_FILES and p.is_file()
            )
            if not found:
                raise ValueError(
                    f"{path}: must hold text files, {', '.join(_TEXT_FILES)}; has none"
                )
            paths += found
            kinds.setdefault(FILES, path)
        else:
            paths.append(path)
            kinds.setdefault(kind or streams.kind_of(path, options), path)
    if len(kinds) > 1:
        shown = ", ".join(f"{path} of kind {name}" for name, path in kinds.items())
        raise ValueError(f"files = {shown}: must be of one kind; give them apart, or say --kind")
    return paths, next(iter(kinds))


def whole_files(paths: Sequence[str]) -> Iterator[streams.Part]:
    """Files as texts, some at a time; a row is a name."""
    for start in range(0, len(paths), _FILES_AT_ONCE):
        some = paths[start : start + _FILES_AT_ONCE]
        texts = [plain.read(path).text for path in some]
        names = [os.fsencode(path) + b"\n" for path in some]
        yield streams.Part(texts, [1] * len(some), b"", names, 0)


class _Run:
    """One run over files, and what it found."""

    def __init__(self, paths: list[str], kind: str, options: Options, threshold: float) -> None:
        self.paths, self.kind, self.options = paths, kind, options
        self.finder = Finder(threshold=threshold)
        self.texts = self.dropped = self.equal = 0
        self.files = array("i")  # of each text, where pairs are told
        self.lines = array("q")

    def dedupe(self, file: BinaryIO, pairs: BinaryIO | None, *, packed: bool) -> None:
        """Reads all, and writes the texts kept, and what the others are like."""
        writer = streams.Writer(file, "text" if self.kind == FILES else self.kind, packed=packed)
        for files, part in self._parts():
            found = self.finder.add(part.texts)
            writer.write(part, found.kept.tolist())
            if pairs is not None:
                self.files.extend(files)
                self.lines.extend(part.lines)
                pairs.write(self._pairs(found).encode())
            self.texts += len(part.texts)
            self.dropped += int(np.sum(~found.kept))
            self.equal += int(np.sum(~found.kept & (found.similarities == 1)))
        writer.close()

    def _parts(self) -> Iterator[tuple[list[int], streams.Part]]:
        """(the number of each text's file, part); a bar shows how far it is."""
        sizes = [0 if path == "-" else os.path.getsize(path) for path in self.paths]
        total = sum(sizes) or None
        with tqdm(total=total, desc="read", disable=None, unit="B", unit_scale=True) as bar:
            if self.kind == FILES:
                first = 0
                for part in whole_files(self.paths):
                    yield list(range(first, first + len(part.texts))), part
                    bar.update(sum(sizes[first : first + len(part.texts)]))
                    first += len(part.texts)
                return
            for number, path in enumerate(self.paths):
                before = bar.n
                for part in streams.read(path, self.kind, self.options):
                    yield [number] * len(part.texts), part
                    bar.update(before + part.position - bar.n)

    def _place(self, number: int) -> str:
        """Where a text stands: a file's name, or file:line; of Parquet, file:row from 0."""
        path = self.paths[self.files[number]]
        return path if self.kind == FILES else f"{path}:{self.lines[number]}"

    def _pairs(self, found: Matches) -> str:
        """What the dropped texts of a part are like, a JSON object a line."""
        rows = [
            {
                "dropped": self._place(self.texts + i),
                "like": self._place(int(found.numbers[i])),
                "similarity": round(float(found.similarities[i]), 4),
            }
            for i in np.flatnonzero(~found.kept).tolist()
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)

    def told(self) -> str:
        """What was found, in a line."""
        return (
            f"kept {self.texts - self.dropped:,} of {self.texts:,} texts: dropped "
            f"{self.dropped:,} near-duplicates ({self.dropped / max(self.texts, 1):.1%}), "
            f"{self.equal:,} of them with equal words"
        )


if __name__ == "__main__":
    sys.exit(main())
