"""Files of histories: a user a line, or an event a line, as shops and benchmarks have them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sparse_jax.data import histories as of
from sparse_jax.data.errors import FormatError
from sparse_jax.data.event_kinds import (
    KINDS,
    USUAL,
    looks_like_time,
    movielens_mark,
    recognise,
)
from sparse_jax.data.histories import Histories
from sparse_jax.data.ids import (
    check_file,
    columns_of,
    missing_names,
    name_of,
    without_point_zero,
)
from sparse_jax.data.kinds.base import Options, Source, look, rows_of
from sparse_jax.data.kinds.columns import is_missing
from sparse_jax.data.reading import open_sources
from sparse_jax.data.times import MIXED, Moment, as_seconds, moment, unclear


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
        TypeError: what is no file.
        ImportError: Parquet without pyarrow.
        OSError: the file can't be read.

    Example:
        >>> import io
        >>> found = read_histories(io.BytesIO(b"ann tea egg\\nbob egg\\n"))
        >>> found.user_names, found.item_names, found.items.tolist()
        (('ann', 'bob'), ('egg', 'tea'), [1, 0, 0])
    """
    check_file(path, "give columns to data.of_events, lists to data.of_lists")
    (source,) = open_sources(path)
    said = {"user": user, "item": item, "time": time, "weight": weight}
    found = recognise(source, said) if kind is None else kind
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
        histories = _table(source, found, said, guessed=kind is None)
    for note in histories.notes:
        warnings.warn(f"{source.name}: {note}", stacklevel=2)
    return histories


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
    mark = movielens_mark(look(source.content, Options()).lines) or "\t"
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


def _table(source: Source, kind: str, said: dict[str, str | None], *, guessed: bool) -> Histories:
    columns = columns_of(source, kind)
    cure = ""
    if guessed and kind in ("csv", "tsv"):
        cure = "; or kind='sequences' (--kind sequences) if each line is a user and their items"
    chosen = {role: _column(source.name, columns, role, said[role], cure) for role in USUAL}
    read = {
        role: _read_cells(source, kind, role, columns[name])
        for role, name in chosen.items()
        if name is not None
    }
    notes = []
    for role in ("user", "item"):
        if kind in ("csv", "tsv"):
            read[role] = without_point_zero(read[role])
        notes += missing_names("events", role, read[role])
    if chosen["time"] is None:
        notes += _times_not_read(columns, set(chosen.values()))
    found = of.of_events(read["user"], read["item"], read.get("time"), read.get("weight"))
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def _times_not_read(columns: dict[str, Any], chosen: set[str | None]) -> list[str]:
    """A note if a column looks like the times that order events, and isn't named so."""
    for name, values in columns.items():
        if name not in chosen and len(values) and looks_like_time(name, values[0]):
            return [
                "no column is read as times, so lines count as in order of time; if "
                f"{name!r} holds them, say time={name!r} (--time {name})"
            ]
    return []


def _column(
    path: str, columns: Iterable[str], role: str, said: str | None, cure: str
) -> str | None:
    """The column of a role; None for one that may be missing."""
    names = list(columns)
    if said is not None:
        if said not in names:
            shown = ", ".join(names[:20])
            raise FormatError(
                path,
                f"line 1: columns = {shown}: must have {said!r}; name the column of {role}s: "
                f"{role}=NAME (--{role} NAME){cure}",
            )
        return said
    usual = [name for name in names if name.lower() in USUAL[role]]
    if len(usual) == 1 or (usual and role in ("time", "weight")):
        return usual[0]
    if role in ("time", "weight"):
        return None
    why = f"has {' and '.join(usual)}" if usual else f"columns = {', '.join(names[:20])}"
    raise FormatError(
        path,
        f"line 1: {why}: must have one column of {role}s; say {role}=NAME (--{role} NAME){cure}",
    )


def _read_cells(source: Source, kind: str, role: str, values: Sequence[Any]) -> list[Any]:
    """The values of a column, each read as its role asks."""
    read = _READERS[role]
    found: list[Any] = []
    for row, value in enumerate(values):
        try:
            found.append(read(value))
        except ValueError as error:
            place = _place(source, kind, row)
            raise FormatError(source.name, f"{place}: {role} {error}") from None
    return found if role != "time" else _seconds(source, kind, found)


def _seconds(source: Source, kind: str, moments: list[Moment]) -> list[float]:
    """Seconds of a column of times."""
    seconds = [each.seconds for each in moments]
    row = unclear(np.array(seconds), np.array([each.is_date for each in moments], bool))
    if row is not None:
        place = _place(source, kind, row)
        raise FormatError(source.name, f"{place}: time = {seconds[row]:.15g}: {MIXED}")
    return seconds


def _place(source: Source, kind: str, row: int) -> str:
    """What a row, from 0, is called in messages."""
    if kind == "parquet":
        return f"row {row}"
    lines = [number for number, _ in rows_of(source)]
    return f"line {lines[min(row + (kind in ('csv', 'tsv')), len(lines) - 1)]}"


def _name(value: Any) -> str:
    name = name_of(value)
    if not name:
        none = is_missing(value) or isinstance(value, str)
        shown = "is missing" if none else f"= {value!r:.40}"
        raise ValueError(f"{shown}: must be a name or number; drop the event, or mend it")
    return name


def _weight(value: Any) -> float:
    number = math.nan
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"= {value!r:.40}: must be a finite number; mend it, or drop the event")
    return number


_READERS: dict[str, Any] = {"user": _name, "item": _name, "time": moment, "weight": _weight}
