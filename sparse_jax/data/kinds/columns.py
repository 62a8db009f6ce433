"""What tables have in common: a column of texts, one of labels, and what their cells may hold."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import LABELS, TEXT, Options, label_rows, texts_of
from sparse_jax.data.tables import Table, of_texts

_MARKS = ("|", ";", ",")  # what may part labels in a cell; the first that seems to
OPTIONS: frozenset[str] = frozenset({"text", "labels", "separator"})
_SHOWN = 20  # columns that an error names, and letters of each


def names_columns(cells: Sequence[str], options: Options) -> bool:
    """Whether a line holds the names of columns that are wanted, or usual."""
    given = {cell.strip() for cell in cells}
    if options.text or options.labels:
        return {*(options.text or ()), *([options.labels] if options.labels else [])} <= given
    return TEXT in given


def looks_named(cells: Sequence[str]) -> bool:
    """Whether cells could be names: distinct, short, and no numbers."""
    names = [cell.strip() for cell in cells]
    return len(set(names)) == len(names) and all(
        name and len(name) <= 40 and len(name.split()) <= 3 and not _is_number(name)
        for name in names
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def chosen(name: str, columns: Sequence[str], options: Options) -> tuple[list[str], str | None]:
    """(columns of texts, the column of labels if there is one).

    Raises:
        FormatError: columns that aren't there, or come twice.
    """
    texts = list(options.text or (TEXT,))
    labels = options.labels or next((x for x in LABELS if x in columns), None)
    # A file that isn't such a table may have its half for a name.
    shown = ", ".join(" ".join(name.split())[:_SHOWN] for name in columns[:_SHOWN]) or "none"
    for column, option, what in (
        *((text, "text", "texts") for text in texts),
        *([] if labels is None else [(labels, "labels", "labels")]),
    ):
        if column not in columns:
            raise FormatError(
                name,
                f"line 1: columns = {shown}: must have {column!r}; name the column of {what}: "
                f"{option}=NAME (--{option} NAME)",
            )
        if list(columns).count(column) > 1:
            raise FormatError(
                name, f"line 1: columns = {shown}: must have {column!r} once; rename one"
            )
    return texts, labels


def table_of(
    kind: str,
    name: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Any], Any]],
    options: Options,
) -> Table:
    """A table of what its rows hold.

    Args:
        kind: of the file.
        name: of the file.
        columns: all there are.
        rows: (where, as "line 3"; cells of texts; cell of labels) of each.
        options: what the user said.

    Raises:
        FormatError: a cell that holds something else.
    """
    texts, labels, written = [], [], []
    for where, parts, cell in rows:
        try:
            found = [as_text(part) for part in parts]
            names = _as_labels(cell, options.separator)
        except ValueError as error:
            raise FormatError(name, f"{where}: {error}") from None
        texts.append(" ".join(part for part in found if part))
        labels.append(names)
        if isinstance(cell, str):  # lists part their labels themselves
            written.append(names)
    notes = _unparted(written) if options.separator is None else ()
    return of_texts(kind, texts, labels, columns=tuple(columns), notes=notes)


def _unparted(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A note where several labels seem to stand in a cell, which is taken for one label."""
    names = sorted({name for row in labels for name in row})
    lists = next((name for name in names if name[0] + name[-1] == "[]"), None)
    if lists is not None:
        return (
            f"labels are written as lists, as {lists!r:.60}, and each is one label: if it is "
            "several, write the rows as JSONL, or part them by a mark and say separator=MARK "
            "(--separator MARK)",
        )
    for mark in _MARKS:
        within = [name for name in names if mark in name]
        parts = [part.strip() for name in within for part in {*name.split(mark)}]
        alone = set(names) - set(within)
        if len(set(parts)) < len(parts) or alone & set(parts):
            return (
                f"labels have {mark!r} within, as {within[0]!r:.60}, and each is one label: if it "
                f"parts several, say separator={mark!r} (--separator '{mark}')",
            )
    return ()


def as_text(cell: Any) -> str:
    """The text of a cell; empty where it is missing.

    Raises:
        ValueError: it holds something else.
    """
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        return ""
    if isinstance(cell, numbers.Real):
        return as_name(cell)
    raise ValueError(
        f"a text is {cell!r:.60}: must be text, or missing; name another column by text="
    )


def _as_labels(cell: Any, separator: str | None) -> list[str]:
    """The labels of a cell: text, parted where a separator is given; a number; or a list."""
    if is_missing(cell):
        return []
    if isinstance(cell, str):
        parts: Iterable[str] = cell.split(separator) if separator else (cell,)
        return [name for name in (part.strip() for part in parts) if name]
    if isinstance(cell, numbers.Real) or type(cell).__name__ == "bool_":
        return [as_name(cell)]
    if isinstance(cell, dict | bytes) or not hasattr(cell, "__iter__"):
        raise ValueError(
            f"labels are {cell!r:.60}: must be text, a number, or a list of them; name another "
            "column by labels="
        )
    found = []
    # A set has an order of its own in each process.
    for label in sorted(cell, key=str) if isinstance(cell, set | frozenset) else cell:
        if not (isinstance(label, str | numbers.Real) or is_missing(label)):
            raise ValueError(f"a label is {label!r:.60}: must be text or a number; mend it")
        found += _as_labels(label, None)
    return found


def is_missing(cell: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, numbers.Real) and cell != cell


def as_name(label: Any) -> str:
    """A number as a name: 3.0 is 3, since a column with gaps holds floats.

    Example:
        >>> as_name(3.0), as_name(True), as_name(2.5)
        ('3', 'true', '2.5')
    """
    if isinstance(label, bool) or type(label).__name__ == "bool_":
        return "true" if label else "false"
    if isinstance(label, numbers.Integral):
        return str(int(label))
    value = float(label)
    return str(int(value)) if value.is_integer() else repr(value)


def to_columns(table: Table, options: Options, *, joined: bool, kind: str) -> dict[str, list[Any]]:
    """A table's texts and labels by column.

    Args:
        table: of texts.
        options: names of the columns, and what parts labels.
        joined: labels of a point as one text, not a list.
        kind: for messages.

    Raises:
        ValueError: several labels and nothing to part them, or that parts a name.
    """
    names = options.text or (TEXT,)
    if len(names) > 1:
        raise ValueError(f"text = {', '.join(names)}: must be one column to write; name one")
    texts = list(texts_of(table, kind))
    labels: list[Any] = label_rows(table, kind)
    if joined:
        labels = [_joined(row, options.separator) for row in labels]
    return {names[0]: texts, options.labels or LABELS[0]: labels}


def _joined(row: list[str], separator: str | None) -> str:
    if separator is None and len(row) > 1:
        raise ValueError(
            f"labels = {', '.join(row)}: must be one of a point where nothing parts them; give "
            "separator=TEXT (--separator TEXT)"
        )
    within = next((name for name in row if separator and separator in name), None)
    if within is not None:
        raise ValueError(
            f"separator = {separator!r}: must not be within a label, as in {within!r}; give another"
        )
    return (separator or "").join(row)
