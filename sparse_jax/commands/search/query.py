"""Search the index in DIR.

--where takes KEY=VALUE, KEY!=VALUE, KEY<VALUE, KEY<=VALUE, KEY>VALUE or KEY>=VALUE, in quotes. With
several of one key, documents have one of the values of =, none of !=, and lie in the range.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparse_jax import search

if TYPE_CHECKING:
    from sparse_jax.search import Index, Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("query", metavar="QUERY")
    add_output_arguments(parser)
    parser.add_argument("--explain", action="store_true", help="say what each word added")


def add_output_arguments(parser: argparse.ArgumentParser, *, k: int = 10) -> None:
    """How many documents, which, and how they are shown."""
    parser.add_argument("-k", "--k", type=int, default=k, help=f"how many documents ({k})")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only documents with this metadata: 1, true and null mean what they mean in JSON, and "
        "the same letters as a string; true is not 1. Repeat a key for one of several values, or "
        "for a range: 'year>2005'",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a document")


def run(args: argparse.Namespace) -> None:
    """Searches, and prints what was found."""
    with search.load(args.dir, read_only=True) as index:
        results = index.search(args.query, k=args.k, where=conditions(args.where))
        if results and not any(found.is_matched for found in results):
            print(
                "no document found holds a word of the query: parts of words, and what was "
                "learned, speak for these",
                file=sys.stderr,
            )
        show(index, results, as_json=args.json, explain=args.query if args.explain else None)


def conditions(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `--where` says, for `Index.search`.

    Raises:
      ValueError: if one is not of its form, or a range has two limits on one side.
    """
    where: dict[str, dict[str, Any]] = {}
    for item in given:
        found = re.fullmatch(r"(.+?)(!=|<=|>=|=|<|>)(.*)", item, re.DOTALL)
        if not found:
            raise ValueError(f"--where {item}: must be KEY=VALUE, or KEY>VALUE and the like")
        key, sign, text = found.groups()
        condition = where.setdefault(key, {})
        if sign in ("=", "!="):
            condition.setdefault("in" if sign == "=" else "not in", []).extend(_values(text))
            continue
        if sign in condition:
            raise ValueError(f"--where {item}: {key}{sign}{condition[sign]} is given as well")
        condition[sign] = _values(text)[-1]
    return where


def _values(text: str) -> list[Any]:
    """A text, and the number, boolean or null that it means as well."""
    with contextlib.suppress(ValueError):
        parsed = json.loads(text)
        if isinstance(parsed, int | float | bool | None):
            return [text, parsed]
    return [text]


def show(
    index: Index, results: Sequence[Result], *, as_json: bool, explain: str | None = None
) -> None:
    """Prints documents found.

    Args:
      index: that found them.
      results: best first.
      as_json: a JSON object a line.
      explain: the query whose words' shares are shown; None for no shares.
    """
    for place, found in enumerate(results, 1):
        words = index.explain(explain, found.id) if explain is not None else []
        if as_json:
            record = {"score": found.score, "matched": found.words, **found.document.record()}
            print(json.dumps(record | ({"words": words} if words else {}), ensure_ascii=False))
            continue
        title = found.document.title or found.document.text[:70]
        print(f"{place:3}  {found.score:6.3f}  {found.id}  {title}")
        if words:
            print("             " + "  ".join(f"{word} {value:+.3f}" for word, value in words))
