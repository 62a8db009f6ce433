"""Files of items: what each is called, what it says of itself, which categories it is in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.event_kinds import USUAL
from sparse_jax.data.ids import (
    check_file,
    columns_of,
    missing_names,
    name_of,
    without_point_zero,
)
from sparse_jax.data.kinds.base import Source, rows_of
from sparse_jax.data.kinds.columns import as_text, is_missing
from sparse_jax.data.reading import open_sources

_TEXT = "text"


def read_item_texts(
    path: Any, *, item: str | None = None, text: str | Sequence[str] | None = None
) -> dict[str, str]:
    """Texts of items, for `recommend.fit` and `recommend.update`: a csv, tsv, jsonl or Parquet.

    A row is an item. Of several columns the cells are joined by a space; lists, as of categories,
    likewise. A missing cell says nothing, and an item of whom nothing is said has the text "".
    Items are named as `read_histories` names them: 3.0 is 3 where all are whole numbers.

    Args:
        path: of the file, plain or gzip; or a binary file that is open.
        item: the column of items; None for a usual name, as item_id.
        text: the column of texts, or several; None for `text` if there is one, else all but the
            items'.

    Returns:
        Texts by the items' names.

    Raises:
        FormatError: a malformed file, columns that it lacks, a row without an item, an item that
            comes twice; the message has the path and the line.
        ValueError: an empty list of columns.
        ImportError: Parquet without pyarrow.
        TypeError: what is no file.
        OSError: the file can't be read.

    Example:
        >>> import io
        >>> read_item_texts(io.BytesIO(b"item,title,genres\\n7,Toy Story,animated\\n9,Heat,\\n"))
        {'7': 'Toy Story animated', '9': 'Heat'}
    """
    check_file(path, "give texts by name to recommend.fit as they are")
    (source,) = open_sources(path)
    if not source.content.strip():
        raise FormatError(source.name, "line 1: the file is empty; give one with an item")
    kind = _kind_of(source)
    columns = columns_of(source, kind)
    items = _item_column(source.name, list(columns), item)
    said = [text] if isinstance(text, str) else text
    texts = _text_columns(source.name, list(columns), items, said)
    found: dict[str, str] = {}
    names = [name_of(cell) for cell in columns[items]]
    for row, name in enumerate(without_point_zero(names) if kind in ("csv", "tsv") else names):
        try:
            if not name:
                raise ValueError(
                    f"item {_shown(columns[items][row])}: must have a name or number; drop the "
                    "row, or mend it"
                )
            if name in found:
                raise ValueError(f"item {name!r:.40} comes twice: must be once; drop a row")
            parts = [_text(columns[column][row]) for column in texts]
        except ValueError as error:
            raise FormatError(source.name, f"{_place(source, kind, row)}: {error}") from None
        found[name] = " ".join(part for part in parts if part)
    if not any(found.values()):
        raise FormatError(
            source.name,
            f"columns {', '.join(texts)} hold no text: must have some; name others: text=NAME "
            "(--text NAME)",
        )
    notes = missing_names("rows", "item", names)
    for note in notes + missing_names("items", "text", list(found.values())):
        warnings.warn(f"{source.name}: {note}", stacklevel=2)
    return found


def _kind_of(source: Source) -> str:
    if source.content.startswith(b"PAR1"):
        return "parquet"
    _, first = next(iter(rows_of(source)))
    if first.lstrip().startswith(("{", "[")):
        return "jsonl"
    return "tsv" if "\t" in first else "csv"


def _item_column(path: str, names: Sequence[str], said: str | None) -> str:
    usual = [name for name in names if name.lower() in USUAL["item"]]
    if said is None and len(usual) == 1:
        return usual[0]
    if said in names:
        return str(said)
    shown = ", ".join(names[:20])
    must = "one column of items" if said is None else repr(said)
    raise FormatError(
        path, f"line 1: columns = {shown}: must have {must}; say item=NAME (--item-column NAME)"
    )


def _text_columns(
    path: str, names: Sequence[str], items: str, said: Sequence[str] | None
) -> list[str]:
    shown = ", ".join(names[:20])
    if said is not None:
        if not said:
            raise ValueError("text = no columns: must be some; name them, or leave it out")
        missing = next((name for name in said if name not in names), None)
        if missing is not None:
            raise FormatError(
                path,
                f"line 1: columns = {shown}: must have {missing!r}; name the columns of texts: "
                "text=NAME (--text NAME)",
            )
        return list(said)
    found = [_TEXT] if _TEXT in names else [name for name in names if name != items]
    if not found:
        raise FormatError(path, f"line 1: columns = {shown}: must have one of texts, too; add it")
    return found


def _shown(cell: Any) -> str:
    none = is_missing(cell) or isinstance(cell, str)
    return "is missing" if none else f"= {cell!r:.40}"


def _text(cell: Any) -> str:
    if isinstance(cell, list):
        return " ".join(part for part in map(_text, cell) if part)
    return as_text(cell).strip()


def _place(source: Source, kind: str, row: int) -> str:
    """What a row, from 0, is called in messages."""
    if kind == "parquet":
        return f"row {row}"
    lines = [number for number, _ in rows_of(source)]
    return f"line {lines[min(row + (kind != 'jsonl'), len(lines) - 1)]}"
