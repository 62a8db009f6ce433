"""CSV and TSV, with names of columns in the first line."""

from __future__ import annotations

import csv
import io
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import columns
from sparse_jax.data.kinds.base import Head, Kind, Options, Source, text_of
from sparse_jax.data.tables import Table

_LIMIT = threading.Lock()  # the csv module's limit of a cell is the process's


def delimiter_of(first: str) -> str:
    """Comma, or the semicolon of spreadsheets where the comma parts decimals."""
    return "," if "," in first or ";" not in first else ";"


def _fits(head: Head, delimiter: str) -> bool:
    if not head.lines:
        return False
    try:
        rows = list(csv.reader(head.lines, delimiter=delimiter))
    except csv.Error:
        return False
    named = columns.names_columns(rows[0], head.options)
    if len(rows[0]) < 2:
        return named and bool(head.options.text)
    if named:
        return True
    if head.lines[0].startswith(("__label__", "{")):  # fastText, JSON
        return False
    # The last row may go on behind the head.
    same = all(len(row) == len(rows[0]) for row in rows[1:-1]) and len(rows[-1]) <= len(rows[0])
    return columns.looks_named(rows[0]) and same and len(rows) > 2


def _fits_csv(head: Head) -> bool:
    return bool(head.lines) and _fits(head, delimiter_of(head.lines[0]))


def _fits_tsv(head: Head) -> bool:
    return _fits(head, "\t") and (len(head.lines[0].split("\t")) > 1 or not _fits_csv(head))


def next_record(name: str, reader: Any, number: int) -> list[str] | None:
    """The cells of the next record of a csv reader; None behind the last.

    Args:
        name: of the file.
        reader: of `csv.reader`.
        number: of the line that it begins in.

    Raises:
        FormatError: open quotation marks.
    """
    with _LIMIT:
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            return next(reader, None)
        except csv.Error as error:
            raise FormatError(
                name,
                f"line {number}: {error}; close the quotation marks, and double those within a "
                "cell",
            ) from None
        finally:
            csv.field_size_limit(before)


def _records(source: Source, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins in, cells) of each record that isn't blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    while (cells := next_record(source.name, reader, number)) is not None:
        if not is_blank(cells):
            yield number, cells
        number = reader.line_num + 1


def is_blank(cells: list[str]) -> bool:
    """Whether a record is a blank line."""
    return len(cells) < 2 and not "".join(cells).strip()


def check_width(name: str, number: int, cells: list[str], names: list[str]) -> None:
    """Refuses a record of another length than the first.

    Raises:
        FormatError: it names the line.
    """
    if len(cells) != len(names):
        raise FormatError(
            name,
            f"line {number}: has {len(cells)} cells: must have {len(names)}, as the first "
            "line has; put quotation marks around cells that hold what parts them",
        )


def records_of(kind: str, source: Source) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """A table's names of columns, and its rows.

    Args:
        kind: "csv" or "tsv".
        source: of the file.

    Returns:
        (names, (line that it begins in, as many cells) of each row).

    Raises:
        FormatError: an empty file, open quotation marks, rows of another length.
    """
    text = text_of(source)
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = "\t" if kind == "tsv" else delimiter_of(first)
    records = list(_records(source, text, delimiter))
    if not records:
        raise FormatError(
            source.name, "line 1: the file is empty; give one with names of columns first"
        )
    names = [cell.strip() for cell in records[0][1]]
    for number, cells in records[1:]:
        check_width(source.name, number, cells, names)
    return names, records[1:]


def _read(kind: str, source: Source, options: Options) -> Table:
    names, records = records_of(kind, source)
    texts, labels = columns.chosen(source.name, names, options)
    at = [names.index(name) for name in texts]
    label_at = None if labels is None else names.index(labels)
    rows = (
        (f"line {number}", [cells[i] for i in at], None if label_at is None else cells[label_at])
        for number, cells in records
    )
    return columns.table_of(kind, source.name, names, rows, options)


def _write(kind: str, table: Table, options: Options) -> list[bytes]:
    found = columns.to_columns(table, options, joined=True, kind=kind)
    delimiter = "\t" if kind == "tsv" else ","
    # The csv module leaves carriage returns bare where lines end without.
    special = re.compile(f'[\r\n"{delimiter}]')
    lines = [
        delimiter.join(
            '"' + cell.replace('"', '""') + '"' if special.search(cell) else cell for cell in row
        )
        for row in (list(found), *zip(*found.values(), strict=True))
    ]
    return ["".join(f"{line}\n" for line in lines).encode()]


def _kind(name: str, about: str, sign: str, fits: Any) -> Kind:
    return Kind(
        name=name,
        about=about,
        sign=sign,
        fits=fits,
        read=lambda sources, options: _read(name, sources[0], options),
        write=lambda table, files, options: _write(name, table, options),
        options=columns.OPTIONS,
        suffixes=(f".{name}",),
    )


KINDS = (
    _kind(
        "csv",
        "a table with names of columns first, parted by commas (or semicolons)",
        "a first line of names between commas, and as many cells in the lines behind",
        _fits_csv,
    ),
    _kind(
        "tsv",
        "a table with names of columns first, parted by tabs",
        "a first line of names between tabs, and as many cells in the lines behind",
        _fits_tsv,
    ),
)
