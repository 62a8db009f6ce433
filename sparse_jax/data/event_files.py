"""Files of histories: a user a line, or an event a line, as shops and benchmarks have them."""

from __future__ import annotations

import contextlib
import datetime
import math
import numbers
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from sparse_jax.data import histories as of
from sparse_jax.data.errors import FormatError
from sparse_jax.data.histories import Histories
from sparse_jax.data.kinds import cells
from sparse_jax.data.kinds.base import Options as _Options
from sparse_jax.data.kinds.base import Source, look, rows_of
from sparse_jax.data.kinds.columns import as_name, is_missing
from sparse_jax.data.reading import open_sources

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
    "user": ("user", "user_id", "userid", "uid", "customer_id", "reviewerid", "session_id"),
    "item": ("item", "item_id", "itemid", "movie_id", "movieid", "product_id", "asin"),
    "time": ("time", "timestamp", "date", "unixreviewtime", "datetime"),
    "weight": ("weight",),
}
"""Names of columns that are understood without being told, in small letters."""

_MARKS = ("::", "\t", " ")  # what parts the columns of kind movielens; the first one there is


def read_histories(
    path: Any,
    *,
    kind: str | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    weight: str | None = None,
) -> Histories:
    """Histories of a file of any kind, plain or gzip; its content tells its kind.

    Events need not be sorted: see `histories.of_events` for order, repeats and weights. Of a file
    of sequences, a user's later lines go on where the earlier ones end. A column of ratings is no
    weight unless it is named as one.

    Args:
        path: of the file; or a binary file that is open.
        kind: a name in `KINDS`; None to look at the content.
        user: the column of users; None for a usual name, as user_id.
        item: the column of items; None for a usual name, as item_id.
        time: the column of times, as numbers or dates in ISO's form; None for a usual name, as
            timestamp; without one, lines are in order of time.
        weight: the column of weights; None for `weight`, where there is one.

    Returns:
        `Histories`.

    Raises:
        FormatError: a malformed file; the message has the path, the line and what helps.
        ValueError: an unknown kind, or columns of a kind that has none.
        ImportError: Parquet without pyarrow.
        OSError: the file can't be read.

    Example:
        >>> import io
        >>> found = read_histories(io.BytesIO(b"ann tea egg\\nbob egg\\n"))
        >>> found.user_names, found.item_names, found.items.tolist()
        (('ann', 'bob'), ('egg', 'tea'), [1, 0, 0])
    """
    (source,) = open_sources(path)
    said = {"user": user, "item": item, "time": time, "weight": weight}
    found = _recognise(source, said) if kind is None else kind
    if found not in KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    if not source.content.strip():
        raise FormatError(source.name, "line 1: the file is empty; give one with a user or event")
    if found in ("sequences", "movielens"):
        useless = next((name for name, column in said.items() if column is not None), None)
        if useless:
            raise ValueError(
                f"{useless} = {said[useless]!r}: no effect on kind {found}, which has no names of "
                "columns; leave it out"
            )
        read = _sequences if found == "sequences" else _movielens
        histories = read(source)
    else:
        histories = _table(source, found, said)
    for note in histories.notes:
        warnings.warn(f"{source.name}: {note}", stacklevel=2)
    return histories


def _recognise(source: Source, said: dict[str, str | None]) -> str:
    if source.content.startswith(b"PAR1"):
        return "parquet"
    lines = look(source.content, _Options()).lines
    first = lines[0] if lines else ""
    if first.startswith("{"):
        return "jsonl"
    if _movielens_mark(lines):
        return "movielens"
    for kind, mark in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        names = [_plain(name).lower() for name in first.split(mark)]
        wanted = (said["user"] or "").lower(), (said["item"] or "").lower()
        if len(names) > 1 and (
            (wanted[0] in names if wanted[0] else set(USUAL["user"]) & set(names))
            and (wanted[1] in names if wanted[1] else set(USUAL["item"]) & set(names))
        ):
            return kind
    if any(said.values()) or ("," in first and " " not in first.strip()):
        return "csv"
    return "sequences"


def _movielens_mark(lines: Sequence[str]) -> str | None:
    """What parts the columns, where most lines are user, item, rating and Unix time."""
    for mark in _MARKS:
        rows = [line.split(mark) for line in lines]
        fitting = [
            len(row) == 4
            and re.fullmatch(r"[0-5](\.\d+)?", row[2]) is not None
            and re.fullmatch(r"\d{9,10}", row[3].strip()) is not None
            for row in rows
        ]
        if fitting and fitting[0] and sum(fitting) > len(rows) / 2:
            return mark
    return None


def _sequences(source: Source) -> Histories:
    rows: dict[str, list[str]] = {}
    for number, line in rows_of(source):
        user, *items = line.split()
        if not items:
            raise FormatError(
                source.name,
                f"line {number}: has a user, {user!r:.40}, and no item: must be `user item item "
                "...`; drop the line",
            )
        rows.setdefault(user, []).extend(items)
    return of.of_lists(rows.values(), users=list(rows))


def _movielens(source: Source) -> Histories:
    users, items, times = [], [], []
    mark = next((m for m in _MARKS if m.encode() in source.content[:1000]), "\t")
    for number, line in rows_of(source):
        row = line.split(mark)
        if len(row) != 4:
            raise FormatError(
                source.name,
                f"line {number}: has {len(row)} cells: must have 4, user, item, rating and time; "
                "mend or drop it",
            )
        users.append(row[0].strip())
        items.append(row[1].strip())
        try:
            times.append(as_seconds(row[3]))
        except ValueError as error:
            raise FormatError(source.name, f"line {number}: time {error}") from None
    return of.of_events(users, items, times)


def _plain(name: str) -> str:
    """A column's name without RecBole's type behind it."""
    return re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip())


def _table(source: Source, kind: str, said: dict[str, str | None]) -> Histories:
    columns = {_plain(name): values for name, values in cells.read_cells(source, kind).items()}
    chosen = {role: _column(source.name, columns, role, said[role]) for role in USUAL}
    read = {
        role: _read_cells(source, kind, role, columns[name])
        for role, name in chosen.items()
        if name is not None
    }
    return of.of_events(read["user"], read["item"], read.get("time"), read.get("weight"))


def _column(path: str, columns: Iterable[str], role: str, said: str | None) -> str | None:
    """The column of a role; None for one that may be missing."""
    names = list(columns)
    if said is not None:
        if said not in names:
            shown = ", ".join(names[:20])
            raise FormatError(
                path,
                f"line 1: columns = {shown}: must have {said!r}; name the column of {role}s: "
                f"{role}=NAME (--{role} NAME)",
            )
        return said
    usual = [name for name in names if name.lower() in USUAL[role]]
    if len(usual) == 1 or (usual and role in ("time", "weight")):
        return usual[0]
    if role in ("time", "weight"):
        return None
    why = f"has {' and '.join(usual)}" if usual else f"columns = {', '.join(names[:20])}"
    raise FormatError(
        path, f"line 1: {why}: must have one column of {role}s; say {role}=NAME (--{role} NAME)"
    )


def _seconds(value: datetime.datetime) -> float:
    """Of a moment; one without a zone is taken for UTC's."""
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def _read_cells(source: Source, kind: str, role: str, values: Sequence[Any]) -> list[Any]:
    """The values of a column, each read as its role asks."""
    read = _READERS[role]
    found = []
    for row, value in enumerate(values):
        try:
            found.append(read(value))
        except ValueError as error:
            place = _place(source, kind, row)
            raise FormatError(source.name, f"{place}: {role} {error}") from None
    return found


def _place(source: Source, kind: str, row: int) -> str:
    """What a row, from 0, is called in messages."""
    if kind == "parquet":
        return f"row {row}"
    lines = [number for number, _ in rows_of(source)]
    return f"line {lines[min(row + (kind in ('csv', 'tsv')), len(lines) - 1)]}"


def _name(value: Any) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if isinstance(value, numbers.Real) and not is_missing(value):
        name = as_name(value)
    if not name:
        raise ValueError("is missing: must have a name or number; drop the event, or mend it")
    return name


def as_seconds(value: Any) -> float:
    """Seconds of a number, a date or a text of either.

    Raises:
        ValueError: something else.

    Example:
        >>> as_seconds("7"), as_seconds("1970-01-02")
        (7.0, 86400.0)
    """
    number = math.nan
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = float(value)
        with contextlib.suppress(ValueError):
            value = datetime.datetime.fromisoformat(value.strip())
    if isinstance(value, datetime.datetime) and not is_missing(value) and math.isnan(number):
        number = _seconds(value)
    elif isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"= {value!r:.40}: must be a number or a date such as 2024-05-17; mend it, or drop "
            "the event"
        )
    return number


def _weight(value: Any) -> float:
    number = math.nan
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"= {value!r:.40}: must be a finite number; mend it, or drop the event")
    return number


_READERS = {"user": _name, "item": _name, "time": as_seconds, "weight": _weight}
