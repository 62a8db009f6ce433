"""What the commands of recommenders have in common: how files are read, what is held out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from sparse_jax import data
from sparse_jax.commands import checks
from sparse_jax.data.event_kinds import KINDS, USUAL
from sparse_jax.data.histories import Histories, Split
from sparse_jax.data.times import as_seconds
from sparse_jax.recommend import borrowing
from sparse_jax.recommend.model import Model


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how a file is read.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group(
        "how a file is read",
        "Its content tells its kind; plain or gzip, - for standard input. The kinds:\n"
        + "\n".join(f"  {kind:<14}{about}" for kind, about in KINDS.items()),
    )
    group.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="(default: auto)")
    for role, names in USUAL.items():
        usual = f"{', '.join(names[:3])} ..." if len(names) > 3 else ", ".join(names)
        group.add_argument(
            f"--{role}", metavar="COLUMN", help=f"of a table, the column of {role}s ({usual})"
        )


def add_items(parser: argparse.ArgumentParser) -> None:
    """The options that say what items' texts are.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group(
        "texts of items", "So items of no events can be recommended, by what their texts say."
    )
    group.add_argument("--items", metavar="FILE", help="a table, an item a row: csv, tsv, jsonl ..")
    group.add_argument(
        "--text",
        action="append",
        metavar="COLUMN",
        help="of FILE, may come several times (default: text, else all but the items')",
    )
    group.add_argument(
        "--item-column", metavar="COLUMN", help="of FILE, that of items (item, item_id ...)"
    )


def check_items(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses options of `add_items` that have no effect.

    Args:
      parser: that reports the error.
      args: the command line.
    """
    if args.items is None:
        checks.no_effect(parser, args, ["text", "item_column"], "without --items FILE")


def item_texts(args: argparse.Namespace) -> dict[str, str] | None:
    """The texts that the options of `add_items` name; None without.

    Args:
      args: with these options.

    Raises:
      ValueError: a malformed file.
      ImportError: a missing library.
      OSError: a file can't be read.
    """
    if args.items is None:
        return None
    with _notes_told():
        return data.read_item_texts(args.items, item=args.item_column, text=args.text)


def tell_of_texts(model: Model) -> None:
    """Says whose texts help nothing.

    Args:
      model: trained or updated with texts.
    """
    alone = borrowing.without_lenders(model)
    if alone:
        print(
            f"note: {len(alone):,} items of no events have no text, or no word in common with an "
            f"item of some, as {alone[0]!r:.40}: nothing speaks for them",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _notes_told() -> Iterator[None]:
    """Warnings within come out as notes, a line each."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)


def refuse_reading(parser: argparse.ArgumentParser, args: argparse.Namespace, reason: str) -> None:
    """Refuses the options of `add_reading` where no file is read.

    Args:
      parser: that reports the error.
      args: the command line.
      reason: why they have no effect.
    """
    checks.no_effect(parser, args, ["kind", *USUAL], reason, neutral={"kind": "auto"})


def read(path: str, args: argparse.Namespace) -> Histories:
    """The histories that a path names; what is odd is told.

    Args:
      path: `-` or a file.
      args: with the options of `add_reading`.

    Raises:
      ValueError: a malformed file, or options without effect.
      ImportError: a missing library.
      OSError: a file can't be read.
    """
    source: Any = sys.stdin.buffer if path == "-" else path
    with _notes_told():
        return data.read_histories(
            source,
            kind=None if args.kind == "auto" else args.kind,
            **{role: getattr(args, role) for role in USUAL},
        )


def add_hold_out(parser: argparse.ArgumentParser, default: str | None) -> None:
    """The option that says what is tested on.

    Args:
      parser: of the command.
      default: if it isn't given.
    """
    parser.add_argument(
        "--hold-out",
        metavar="last|TIME",
        type=_hold_out,
        default=default,
        help="test on each user's last item, or on the first one after a moment, given as a number "
        f"or date as in the file; neither is trained on (default: {default or 'nothing'})",
    )


def _hold_out(text: str) -> str | float:
    if text == "last":
        return text
    try:
        return as_seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be `last`, a number or a date such as 2024-05-17"
        ) from None


def split(histories: Histories, hold_out: str | float) -> Split:
    """What is trained on and what is asked.

    Args:
      histories: all there are.
      hold_out: as the option has it.

    Raises:
      ValueError: no times where they are needed, or nothing to ask.
    """
    found = (
        data.leave_one_out(histories)
        if isinstance(hold_out, str)
        else data.split_at(histories, hold_out)
    )
    if not len(found.targets):
        raise ValueError("no user has two events: must have some to hold out the last")
    return found


def print_figures(figures: dict[str, float]) -> None:
    """Figures of `recommend.evaluate`, for people."""
    ks = [name.removeprefix("hr@") for name in figures if name.startswith("hr@")]
    for title, key in (
        ("HR", "hr"),
        ("NDCG", "ndcg"),
        ("coverage", "coverage"),
        ("popularity", "popularity"),
    ):
        head = f"{title}@" + "/".join(ks)
        print(f"  {head:<21} " + " / ".join(f"{figures[f'{key}@{k}']:.4f}" for k in ks))
    print(f"  {'MRR':<21} {figures['mrr']:.4f}")
    print(f"  {'users asked':<21} {figures['users']:,.0f}")
    for name in ("repeats", "unknown"):
        if figures[name]:
            print(f"  {name:<21} {figures[name]:.2%}")
