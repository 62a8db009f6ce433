"""Print what the index in DIR was taught, a JSON object a line; or, with --from, teach it so.

What is printed can be given to another index of the same documents, or kept beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sparse_jax import search
from sparse_jax.search.documents import check_query

FIELDS = {"upvote": ("query", "id"), "associate": ("source", "target")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument(
        "--from",
        dest="given",
        metavar="FILE",
        help="lessons to learn, as this command and the page write them; upvotes of documents that "
        "the index lacks are left out",
    )


def run(args: argparse.Namespace) -> None:
    """Prints, or learns."""
    if args.given is None:
        with search.load(args.dir, read_only=True) as index:
            print(as_lines(index), end="")
        return
    lessons = [_checked(args.given, *row) for row in search.read_jsonl(Path(args.given))]
    with search.load(args.dir) as index:
        known = set(search.list_ids(index))
        wanted = [x for x in lessons if x["do"] == "associate" or x["id"] in known]
        for lesson in wanted:
            if lesson["do"] == "upvote":
                index.upvote(lesson["query"], lesson["id"])
            else:
                index.associate(lesson["source"], lesson["target"])
    left = len(lessons) - len(wanted)
    more = f"; {left:,} left out, whose documents are not in it" if left else ""
    print(f"{len(wanted):,} lessons learned{more}")


def as_lines(index: search.Index) -> str:
    """What an index was taught, as JSON lines."""
    lessons = search.list_feedback(index)
    return "".join(f"{json.dumps(lesson, ensure_ascii=False)}\n" for lesson in lessons)


def _checked(path: str, line: int, row: dict[str, Any]) -> dict[str, str]:
    """A lesson.

    Raises:
      ValueError: if it is none, naming file and line.
    """
    names = FIELDS.get(str(row.get("do")))
    if names is None or any(not isinstance(row.get(name), str) for name in names):
        raise ValueError(
            f'{path}, line {line}: must be {{"do": "upvote", "query": ..., "id": ...}} or '
            '{"do": "associate", "source": ..., "target": ...}'
        )
    try:  # all before the first is learned: a file that is refused taught nothing
        for name in names:
            if name != "id":
                check_query(row[name], name)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}; mend or drop the line") from None
    return row
