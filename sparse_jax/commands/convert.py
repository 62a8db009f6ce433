"""Points from one kind of file into another.

    sparse-jax convert table.csv points.jsonl --text question --labels type
    sparse-jax convert trn_X_Xf.txt,trn_X_Y.txt train.txt --to xmc
    sparse-jax convert table.csv train.txt --to xmc --label-names labels.txt --words words.txt

The kind of IN is told by its content, that of OUT by its name or by --to. Texts can become points
by id: their words are then counted, and labels numbered in the order of their names; points by id
can't become texts. Columns have the same names in OUT; other options that IN has no use for are
OUT's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparse_jax import data
from sparse_jax.commands import reading
from sparse_jax.commands.checks import flag
from sparse_jax.commands.parsing import Parser
from sparse_jax.data import reading as reading_room
from sparse_jax.data import tables
from sparse_jax.data.kinds.base import Kind, Options
from sparse_jax.runtime.files import write_atomically

BOTH = ("text", "labels", "separator")  # options of OUT even where IN takes them


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("source", metavar="IN", help="points of any kind; - reads standard input")
    add("target", metavar="OUT", help="the file to create or replace; two as X,Y")
    add("--to", choices=reading.FILE_KINDS, help="the kind of OUT (default: by its name)")
    add("--label-names", metavar="FILE", help="write the labels' names here, a line each")
    add("--words", metavar="FILE", help="write the words of texts here, a line each")
    reading.add_options(parser, labels="the column of labels (default: labels, or label)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        convert(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def convert(args: argparse.Namespace) -> None:
    """Reads, writes, and says what was done.

    Raises:
      ValueError: a malformed file, or points that OUT can't hold.
      ImportError: a missing library.
      OSError: a file can't be read or written.
    """
    options = reading.options_of(args)
    sources = reading_room.open_sources(reading.source_of(args.source))
    named = None if args.kind == "auto" else args.kind
    source = reading_room.find(sources, named, options)
    targets = args.target.split(",")
    target = reading_room.written_kind(targets[0], args.to)
    said = _of_target(options, source, target)
    column = said.text[0] if said.text is not None and len(said.text) == 1 else None
    table = reading_room.read_sources(sources, source, reading.taken(source, options))
    reading.tell(sources[0].name, table)
    if table.texts is not None and not target.texts:
        table = tables.count_words(table)
    _write_names(args, table, target)
    data.write(
        table,
        targets if len(targets) > 1 else targets[0],
        target.name,
        **(said._asdict() | {"text": column}),
    )
    print(
        f"{table.points.num_points:,} points of kind {source.name}, written to {args.target} as "
        f"{target.name}",
        file=sys.stderr if "-" in targets else sys.stdout,
    )


def _of_target(options: Options, source: Kind, target: Kind) -> Options:
    """The options that are OUT's.

    Raises:
      ValueError: some have no effect on either.
    """
    left = {
        name: None if name in source.options and name not in BOTH else value
        for name, value in options._asdict().items()
    }
    useless = [flag(name) for name in sorted(options.given() - source.options - target.options)]
    if useless:
        raise ValueError(
            f"{', '.join(useless)}: no effect on kind {source.name} nor on {target.name}; leave it "
            "out"
        )
    return reading.taken(target, Options(**left))


def _write_names(args: argparse.Namespace, table: data.Table, target: Kind) -> None:
    """Files of names, where they are asked for; OUT of points by id has none itself.

    Raises:
      ValueError: there are none.
    """
    for option, path, names in (
        ("label-names", args.label_names, table.label_names),
        ("words", args.words, table.feature_names),
    ):
        if path is not None and names is None:
            raise ValueError(f"--{option}: no effect, since OUT has ids that IN has no names for")
        if path is not None and names is not None:
            broken = next((name for name in names if "\n" in name), None)
            if broken is not None:
                raise ValueError(f"--{option}: a name has two lines, {broken!r}; rename it")
            write_atomically(path, "".join(f"{name}\n" for name in names).encode())
        elif names is not None and not target.texts:
            print(f"names are left out: --{option} FILE keeps them", file=sys.stderr)
