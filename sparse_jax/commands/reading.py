"""Points that a command line names: any kind of file, or standard input."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

from sparse_jax.commands.checks import flag
from sparse_jax.data import Table, kinds, reading
from sparse_jax.data.kinds.base import Kind, Options
from sparse_jax.xmc import Model

STDIN = "-"
FILE_KINDS = tuple(kind.name for kind in kinds() if not kind.memory)


def add_options(parser: argparse.ArgumentParser, *, labels: str | None = None) -> None:
    """The options that say how a file is read.

    Args:
      parser: of the command.
      labels: the help of --labels; None for a command that needs no labels.
    """
    group = parser.add_argument_group(
        "how a file is read",
        "Its content tells its kind. Two files of one set are given as X,Y. The kinds:\n"
        + "\n".join(f"  {kind.name:<14}{kind.about}" for kind in kinds() if not kind.memory),
    )
    add = group.add_argument
    add("--kind", choices=("auto", *FILE_KINDS), default="auto", help="(default: auto)")
    add(
        "--text",
        action="append",
        metavar="COLUMN",
        help="of a table, the column of texts; give it again to join several (default: text)",
    )
    if labels is not None:
        add("--labels", metavar="COLUMN", help=labels)
    add("--separator", metavar="TEXT", help="parts several labels in one cell (default: none)")
    for name, what in (("base", "feature"), ("label-base", "label")):
        add(
            f"--{name}",
            type=int,
            choices=(0, 1),
            help=f"of svmlight, the id of the first {what} (default: 0)",
        )


def options_of(args: argparse.Namespace) -> Options:
    """What a command line says of its files."""
    return Options(
        None if args.text is None else tuple(args.text),
        getattr(args, "labels", None),
        args.separator,
        args.base,
        args.label_base,
    )


def source_of(path: str) -> Any:
    """Standard input, a file, or two where a comma parts names that aren't one file's."""
    if path == STDIN:
        return sys.stdin.buffer
    parts = path.split(",")
    return tuple(parts) if len(parts) > 1 and not os.path.exists(path) else path


def columns_note(args: argparse.Namespace, table: Table) -> dict[str, Any]:
    """What a model notes of its training table, so that later files need not be told about."""
    said = {name: x for name, x in options_of(args)._asdict().items() if x is not None}
    return {"columns": said} if table.columns and said else {}


def as_trained(options: Options, model: Model, *, labels: bool = True) -> Options:
    """The options, with what the model's training table was told where they say nothing.

    Args:
      options: of the command line.
      model: of `xmc train`.
      labels: the column of labels too, which files to predict need not have.
    """
    noted = dict(model.about.notes.get("columns", {}))
    if not labels:
        noted = {"text": noted["text"]} if "text" in noted else {}
    if "text" in noted:
        noted["text"] = tuple(noted["text"])
    return options._replace(**{n: x for n, x in noted.items() if getattr(options, n) is None})


def read(
    path: str, args: argparse.Namespace, *, strict: bool = True, model: Model | None = None
) -> Table:
    """The table that a path names, before its words are counted; what is odd is told.

    Args:
      path: `-`, a file, or two as X,Y.
      args: with the options of `add_options`. Of a kind without columns, --labels is left to the
        caller.
      strict: refuses options that have no effect on this kind.
      model: whose training table's columns are taken where the command line names none.

    Raises:
      ValueError: a malformed file, or options without effect.
      ImportError: a missing library.
      OSError: a file can't be read.
    """
    options = options_of(args)
    sources = reading.open_sources(source_of(path))
    known = options if model is None else as_trained(options, model)
    kind = reading.find(sources, None if args.kind == "auto" else args.kind, known)
    if strict:
        refuse_useless(kind, options, but=["labels"])
    table = reading.read_sources(sources, kind, taken(kind, known))
    tell(sources[0].name, table)
    return table


def taken(kind: Kind, options: Options) -> Options:
    """The options that have an effect on a kind."""
    return Options(**{name: x for name, x in options._asdict().items() if name in kind.options})


def refuse_useless(kind: Kind, options: Options, *, but: Iterable[str] = ()) -> None:
    """Refuses options without effect on a kind, by the names that a command line has.

    Raises:
      ValueError: it names them.
    """
    useless = [flag(name) for name in sorted(options.given() - kind.options - set(but))]
    if useless:
        raise ValueError(
            f"{', '.join(useless)}: no effect on files of kind {kind.name}; leave it out, or say "
            "another --kind"
        )


def tell(name: str, table: Table) -> None:
    """Warns of what is odd."""
    for note in table.notes:
        print(f"warning: {name}: {note}", file=sys.stderr)
