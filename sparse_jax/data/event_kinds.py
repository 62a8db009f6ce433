"""Which kind of file of histories a file is, by its first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import Options, Source, look

KINDS = {
    "sequences": "a user a line: `user item item ...`, in order of time, parted by spaces",
    "csv": "a line of names of columns, then an event a line; also with semicolons",
    "tsv": "the same, parted by tabs; RecBole's .inter, with types as in user_id:token",
    "jsonl": "one JSON object a line, an event",
    "parquet": "a table, an event a row (needs the extra `tables`)",
    "movielens": "no names of columns: user, item, rating, time, parted by a tab, blank or ::",
}
"""Kinds of files of histories, and what they are."""

USUAL = {
    "user": (
        *("user", "user_id", "userid", "uid", "customer_id", "reviewerid", "session_id"),
        *("visitorid", "visitor_id"),
    ),
    "item": ("item", "item_id", "itemid", "movie_id", "movieid", "product_id", "asin"),
    "time": (
        *("time", "timestamp", "date", "unixreviewtime", "datetime"),
        *("event_time", "ts", "created_at"),
    ),
    "weight": ("weight",),
}
"""Names of columns that are understood without being told, in small letters."""

_MARKS = ("::", "\t", " ")  # what parts the columns of kind movielens; the first one there is
_TIME = re.compile(r"\d{9,13}(\.\d+)?|\d{4}-\d\d-\d\d.*")  # Unix time, or a date


def recognise(source: Source, said: dict[str, str | None]) -> str:
    """The kind of a file.

    Args:
        source: of it.
        said: the columns by role, None where none is named.

    Returns:
        A name in `KINDS`: "sequences" for what looks like nothing else.

    Raises:
        FormatError: a table that would be read as sequences, cell for item.
    """
    if source.content.startswith(b"PAR1"):
        return "parquet"
    lines = look(source.content, Options()).lines
    first = lines[0] if lines else ""
    if first.lstrip().startswith(("{", "[")):
        return "jsonl"
    if movielens_mark(lines):
        return "movielens"
    for kind, mark in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        names = [plain(name).lower() for name in _cells(first, mark)]
        wanted = (said["user"] or "").lower(), (said["item"] or "").lower()
        if len(names) > 1 and (
            (wanted[0] in names if wanted[0] else set(USUAL["user"]) & set(names))
            and (wanted[1] in names if wanted[1] else set(USUAL["item"]) & set(names))
        ):
            return kind
    for kind, mark, least in (("tsv", "\t", 3), ("csv", ",", 2), ("csv", ";", 2)):
        if _width(lines, mark) >= least:
            return kind
    if any(said.values()) or ("," in first and " " not in first.strip()):
        return "tsv" if "\t" in first else "csv"
    _refuse_tables(source.name, lines)
    return "sequences"


def movielens_mark(lines: Sequence[str]) -> str | None:
    """What parts the columns, where most lines are user, item, rating and Unix time."""
    for mark in _MARKS:
        rows = [line.split(mark) for line in lines]
        fitting = [
            len(row) == 4
            and re.fullmatch(r"\d{1,3}(\.\d+)?", row[2]) is not None
            and re.fullmatch(r"\d{9,13}", row[3].strip()) is not None
            for row in rows
        ]
        if fitting and fitting[0] and sum(fitting) > len(rows) / 2:
            return mark
    return None


def plain(name: str) -> str:
    """A column's name without RecBole's type behind it."""
    return re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip())


def looks_like_time(name: str, value: object) -> bool:
    """Whether a column may hold times, by its name and its first value."""
    named = re.search(r"time|date|(^|_)(ts|at|day)$", name.lower()) is not None
    return named or _TIME.fullmatch(str(value).strip()) is not None


def _cells(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return line.split(mark)


def _width(lines: Sequence[str], mark: str) -> int:
    """Cells of each line, where there are several lines of as many; else 0."""
    widths = {len(_cells(line, mark)) for line in lines}
    return widths.pop() if len(lines) > 1 and len(widths) == 1 else 0


def _refuse_tables(path: str, lines: Sequence[str]) -> None:
    """Refuses tables parted by spaces or bars, whose every cell would be an item."""
    if _width(lines, "|") > 1:
        raise FormatError(
            path,
            "line 1: columns are parted by '|': must be by commas, semicolons or tabs; put "
            "tabs in place of the bars, or say kind='sequences' (--kind sequences)",
        )
    rows = [line.split() for line in lines]
    named = bool(rows) and rows[0][:1] and rows[0][0].lower() in USUAL["user"]
    same = len(rows) > 1 and len({len(row) for row in rows}) == 1 and len(rows[0]) > 2
    timed = same and any(
        all(_TIME.fullmatch(c) for c in column) for column in zip(*rows[1:], strict=True)
    )
    if named or timed:
        raise FormatError(
            path,
            f"line 1: {lines[0]!r:.60} looks like a table, {'names' if named else 'times'} and "
            "all: must have names of columns first, parted by commas or tabs; write it so, or say "
            "kind='sequences' (--kind sequences) if each line is a user and their items",
        )
