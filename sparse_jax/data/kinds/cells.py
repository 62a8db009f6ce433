"""All columns of a table in a file, as they stand there: for features of every column."""

from __future__ import annotations

import io
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import delimited, raw
from sparse_jax.data.kinds.base import Source, need

TABLES = ("csv", "tsv", "jsonl", "parquet")
"""Kinds of files with columns."""


def read_cells(source: Source, kind: str) -> dict[str, Any]:
    """The columns of a file by name.

    Args:
        source: of the file.
        kind: one of `TABLES`.

    Returns:
        Lists, or Arrow's columns, of equal length; "" and None are missing.

    Raises:
        FormatError: a malformed file, or one without names of columns.
        ImportError: Parquet without pyarrow.
    """
    if kind == "parquet":
        arrow, parquet = need("pyarrow", kind), need("pyarrow.parquet", kind)
        try:
            frame = parquet.ParquetFile(io.BytesIO(source.content)).read()
        except (arrow.ArrowException, OSError) as error:
            raise FormatError(
                source.name, f"is no whole Parquet file ({error}); write or copy it again"
            ) from None
        _refuse_twice(source, frame.column_names)
        return {name: frame.column(name).to_pylist() for name in frame.column_names}
    if kind == "jsonl":
        objects = [row for _, row in raw.objects(source)]
        keys = list(dict.fromkeys(name for row in objects for name in row))
        return {name: [row.get(name) for row in objects] for name in keys}
    names, rows = delimited.records_of(kind, source)
    _refuse_twice(source, names)
    return {name: [cells[i] for _, cells in rows] for i, name in enumerate(names)}


def _refuse_twice(source: Source, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FormatError(source.name, f"line 1: two columns are named {twice!r}; rename one")
