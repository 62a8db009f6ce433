"""Tables of documents: CSV, TSV and JSON lines, with columns of any name.

Which column is the id, the title and the text is said by name, or guessed where one alone can be;
all others are metadata.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparse_jax.data.jsonl import read_jsonl
from sparse_jax.data.plain import read as read_text
from sparse_jax.search.documents.document import MAX_TEXT, Document
from sparse_jax.search.documents.result import Reading

__all__ = ["Columns", "as_id", "delimiter_of", "read", "row_id", "scalars"]

_LINES = 50
DELIMITERS = {"csv": ",;", "tsv": "\t"}
# The first of each is the column's own name, and goes before the others.
_NAMES = {
    "id": ("id", "_id", "docid", "doc_id", "docno", "document_id", "pid", "uid", "key"),
    "title": ("title", "headline", "name", "subject", "heading"),
    "text": ("text", "body", "content", "contents", "abstract", "description", "passage"),
}
Row = tuple[int, dict[str, Any]]  # its line, its values by column


class Columns(NamedTuple):
    """Which column is what; None for what is not said, or not there."""

    id: str | None = None
    title: str | None = None
    text: str | None = None


def read(path: Path, kind: str, columns: Columns) -> Reading:
    """Documents of a table, one for each row.

    Raises:
      ValueError: at a row that doesn't fit, naming file, line and column; if it can't be said which
        column is the text; or if no row has a word.
    """
    rows = list(_json_rows(path) if kind == "jsonl" else _cells(path, DELIMITERS[kind]))
    judged = [row for row in rows if _is_judgement(row[1])]
    rows = [row for row in rows if not _is_judgement(row[1])]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    chosen = _choose(path, names, columns)
    if kind != "jsonl":
        rows = _typed(rows, [name for name in names if name not in chosen])
    documents, notes = [], []
    empty, unreadable = 0, dict.fromkeys(names, 0)
    for line, row in rows:
        try:
            document = _document(row, chosen, line, unreadable)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        if document.text.strip() or document.title.strip():
            documents.append(document)
        else:
            empty += 1
    if chosen.id is None:
        notes.append("no column is an id: documents are named by their lines")
    if empty:
        notes.append(f"{empty:,} rows without a text were left out")
    if judged:
        notes.append(f"{len(judged):,} rows that are queries were left out")
    for name, count in unreadable.items():
        if count:
            notes.append(f"column {name!r}: {count:,} values are lists or objects, left out")
    return Reading(documents, kind, [], notes)


def _choose(path: Path, names: Sequence[str], given: Columns) -> Columns:
    """The columns, guessed where they aren't said.

    Raises:
      ValueError: if a column isn't there, or several could be meant.
    """
    shown = ", ".join(map(repr, names[:30]))
    found: dict[str, str | None] = {}
    for role, name in given._asdict().items():
        if name is not None and name not in names:
            raise ValueError(f"{path}: {role} = {name!r}: must be a column; they are {shown}")
        others = {n for r, n in given._asdict().items() if r != role}
        found[role] = name or _guess(path, role, [n for n in names if n not in others])
    if found["text"] is None:
        rest = [name for name in names if name not in found.values() and name != "metadata"]
        if len(rest) == 1:
            found["text"] = rest[0]
        elif not rest and found["title"]:
            found["text"], found["title"] = found["title"], None
        else:
            raise ValueError(
                f"{path}: none of the columns {shown} is called text, or alone could be it: say "
                'which with text="NAME" (--text NAME)'
            )
    return Columns(**found)


def _guess(path: Path, role: str, names: Sequence[str]) -> str | None:
    """The column that a role's usual names point to."""
    usual = _NAMES[role]
    hits = [name for name in names if name.strip().casefold() in usual]
    own = [name for name in hits if name == usual[0]]
    if len(hits) > 1 and not own and not (role == "id" and "_id" in hits):
        listed = ", ".join(map(repr, hits))
        raise ValueError(
            f"{path}: each of the columns {listed} could be the {role}: say which with "
            f'{role}="NAME" (--{role} NAME)'
        )
    return next(iter(own or hits), None)


def _document(
    row: Mapping[str, Any], columns: Columns, line: int, unreadable: dict[str, int]
) -> Document:
    if columns.id is None:
        identifier = str(line)
    elif columns.id in ("id", "_id"):
        identifier = row_id(row)
    else:
        identifier = as_id(columns.id, row.get(columns.id))
    given = row.get("metadata")
    more = {name: value for name, value in row.items() if name not in (*columns, "id", "_id")}
    if isinstance(given, Mapping):
        more = {**{name: value for name, value in more.items() if name != "metadata"}, **given}
    elif "metadata" in row and given is not None:
        raise ValueError(f"metadata = {given!r}: must be an object")
    metadata = scalars(more)
    for name in more.keys() - metadata.keys():
        unreadable[name] = unreadable.get(name, 0) + (more[name] is not None)
    text, title = (_words(name, row) for name in (columns.text, columns.title))
    return Document(identifier, text, title, metadata)


def scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object can be metadata: strings, finite numbers, booleans, null.

    Example:
      >>> scalars({"year": 2005, "authors": ["a", "b"], "open": True})
      {'year': 2005, 'open': True}
    """
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, str | int | float | bool | None)
        and not (isinstance(value, float) and not math.isfinite(value))
    }


def _words(name: str | None, row: Mapping[str, Any]) -> str:
    """A text or a title; missing and null are empty."""
    value = row.get(name) if name is not None else None
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}: must be a string")
    return value


def row_id(row: Mapping[str, Any]) -> str:
    """The id of a row, from `id` or `_id`.

    Raises:
      ValueError: if it has neither, or both, or one that is no string and no whole number.

    Example:
      >>> row_id({"_id": 12, "text": "red apples"})
      '12'
    """
    if "id" in row and "_id" in row:
        raise ValueError(
            f"id = {row['id']!r} and _id = {row['_id']!r}: must be one; drop the other"
        )
    return as_id("_id" if "_id" in row else "id", row.get("_id", row.get("id")))


def as_id(name: str, value: Any) -> str:
    """An id as a string; a whole number is its digits.

    Raises:
      ValueError: if it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}: must be a string or a whole number")
    return value


def _is_judgement(row: Mapping[str, Any]) -> bool:
    """Whether a row of JSON is a query with answers, as `evaluate` takes them."""
    kind = row.get("kind")
    return isinstance(kind, str) and kind.endswith("query") and bool(row.keys() & {"rel", "qrels"})


def _json_rows(path: Path) -> Iterator[Row]:
    """Objects, one a line; or a list of them, one file."""
    start = read_text(path).text.lstrip() if path.suffix.lower() == ".json" else ""
    if not start.startswith("["):
        yield from read_jsonl(path)
        return
    try:
        found = json.loads(start)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON: {error}") from None
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, entry {number}: must be an object")
        yield number, row


def delimiter_of(lines: Sequence[str], delimiters: str) -> str | None:
    """What parts the cells: the one sign that cuts all lines into equally many, two or more.

    Raises:
      ValueError: if two of them do.

    Example:
      >>> delimiter_of(["id;text", "1;red, sweet"], ",;")
      ';'
    """
    fitting = [sign for sign in delimiters if _width(lines, sign) > 1]
    if len(fitting) > 1:
        raise ValueError(f"cells may be parted by {' or '.join(map(repr, fitting))}: quote them")
    return fitting[0] if fitting else None


def _width(lines: Sequence[str], sign: str) -> int:
    """Cells in each line; 0 where lines differ, or are no table."""
    try:
        widths = {len(row) for row in _parse(lines, sign, MAX_TEXT) if row}
    except csv.Error:
        return 0
    return widths.pop() if len(widths) == 1 else 0


def _parse(lines: Iterable[str], sign: str, limit: int) -> Iterator[list[str]]:
    before = csv.field_size_limit(limit)
    try:
        yield from csv.reader(lines, delimiter=sign, strict=True)
    finally:
        csv.field_size_limit(before)


def _cells(path: Path, delimiters: str) -> Iterator[Row]:
    """Rows of a table with a header, their cells by column; the number is that of the last line.

    Raises:
      ValueError: at a row that has more or fewer cells than the header.
    """
    lines = list(io.StringIO(read_text(path).text, newline=""))
    try:
        # A quoted cell may be cut at the end of the first lines: the header is whole.
        some = (delimiter_of(lines[:count], delimiters) for count in (_LINES, 1))
        sign = next(filter(None, some), delimiters[0])
    except ValueError as error:
        raise ValueError(f"{path}, line 1: {error}") from None
    names: list[str] = []
    numbered = _unquoted(path, lines) if sign == "\t" else _numbered(path, lines, sign)
    for line, cells in numbered:
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            if len(set(names)) < len(names) or "" in names:
                raise ValueError(
                    f"{path}, line {line}: columns = {names}: must have distinct names"
                )
        elif len(cells) != len(names):
            raise ValueError(
                f"{path}, line {line}: has {len(cells)} cells: must have {len(names)}, one for "
                f"each of {names}; quote cells that hold a {sign!r}"
            )
        else:
            yield line, dict(zip(names, cells, strict=True))


def _unquoted(path: Path, lines: Sequence[str]) -> Iterable[tuple[int, list[str]]]:
    """Rows of cells parted by tabs, where a quote is but a sign unless all of them quote cells."""
    rows = [line.rstrip("\r\n").split("\t") for line in lines]
    opened = [cell for row in rows for cell in row if cell.startswith('"')]
    even = len({len(row) for row in rows if "".join(row).strip()}) == 1
    if not opened or (even and not all(len(c) > 1 and c.endswith('"') for c in opened)):
        return enumerate(rows, 1)
    try:
        return list(_numbered(path, lines, "\t"))
    except ValueError:
        if not even:
            raise
        return enumerate(rows, 1)


def _numbered(path: Path, lines: Sequence[str], sign: str) -> Iterator[tuple[int, list[str]]]:
    limit = csv.field_size_limit(10 * MAX_TEXT)
    try:
        reader = csv.reader(lines, delimiter=sign, strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
            if cells is None:
                return
            yield reader.line_num, cells
    finally:
        csv.field_size_limit(limit)


def _typed(rows: list[Row], names: Sequence[str]) -> list[Row]:
    """Cells as numbers in columns of numbers alone; empty ones are left out."""
    numbers = {name for name in names if all(_is_number(row[name]) for _, row in rows)}

    def value(name: str, cell: str) -> Any:
        return json.loads(cell) if name in numbers else cell

    out = []
    for line, row in rows:
        kept = {n: c for n, c in row.items() if c.strip() or n not in names}
        out.append((line, {n: value(n, c.strip() if n in numbers else c) for n, c in kept.items()}))
    return out


def _is_number(cell: str) -> bool:
    """Whether a cell is empty or a number as JSON writes it: 007 is a name."""
    try:
        found = json.loads(cell) if cell.strip() else 0
    except ValueError:
        return False
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
