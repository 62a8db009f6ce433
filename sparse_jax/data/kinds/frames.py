"""JSONL and Parquet files, and tables in memory, whose columns may hold lists of labels."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import columns, raw
from sparse_jax.data.kinds.base import Head, Kind, Options, Source, need
from sparse_jax.data.tables import Table


def _fits_jsonl(head: Head) -> bool:
    if head.lines and re.match(r"\s*\[\s*(\{|$)", head.lines[0]):
        return True  # a list of objects, which is refused with what helps
    keys = raw.first_keys(head)
    if keys is None or raw.LABELS not in keys:
        return keys is not None
    return bool(head.options.given()) and columns.names_columns(list(keys), head.options)


def _read_jsonl(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    found = list(raw.objects(source))
    names = list(dict.fromkeys(name for _, row in found for name in row))
    texts, labels = columns.chosen(source.name, names, options)

    def rows() -> Iterator[tuple[str, list[Any], Any]]:
        for number, row in found:
            missing = next((text for text in texts if text not in row), None)
            if missing is not None:
                raise FormatError(
                    source.name,
                    f"line {number}: has no {missing!r}: must have it, or null; add it, or name "
                    "another column by text=",
                )
            yield f"line {number}", [row[text] for text in texts], labels and row.get(labels)

    return columns.table_of("jsonl", source.name, names, rows(), options)


def _write_jsonl(table: Table, files: int, options: Options) -> list[bytes]:
    found = columns.to_columns(table, options, joined=False, kind="jsonl")
    lines = [
        json.dumps(dict(zip(found, row, strict=True)), ensure_ascii=False) + "\n"
        for row in zip(*found.values(), strict=True)
    ]
    return ["".join(lines).encode()]


def _fits_parquet(head: Head) -> bool:
    return head.content.startswith(b"PAR1")


def _read_parquet(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    parquet = need("pyarrow.parquet", "parquet")
    arrow = need("pyarrow", "parquet")
    try:
        file = parquet.ParquetFile(io.BytesIO(source.content))
        names = list(file.schema_arrow.names)
        texts, labels = columns.chosen(source.name, names, options)
        frame = file.read(columns=list(dict.fromkeys([*texts, *([labels] if labels else [])])))
    except (arrow.ArrowException, OSError) as error:
        raise FormatError(
            source.name, f"is no whole Parquet file ({error}); write or copy it again"
        ) from None
    return _of_frame("parquet", source.name, frame, names, texts, labels, options)


def _write_parquet(table: Table, files: int, options: Options) -> list[bytes]:
    arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    text, labels = columns.to_columns(table, options, joined=False, kind="parquet").items()
    arrays = {
        text[0]: arrow.array(text[1], arrow.string()),
        labels[0]: arrow.array(labels[1], arrow.list_(arrow.string())),
    }
    file = io.BytesIO()
    parquet.write_table(arrow.table(arrays), file)
    return [file.getvalue()]


def _columns_of(frame: Any) -> list[str] | None:
    """Names of columns; None for what is no table."""
    if isinstance(frame, Mapping):
        return list(frame) if all(isinstance(name, str) for name in frame) else None
    for attribute in ("column_names", "columns"):  # Arrow and `datasets`; pandas and polars
        found = getattr(frame, attribute, None)
        # Several tables by name, such as the train and test of `datasets`, have a mapping.
        if found is not None and not isinstance(found, Mapping) and hasattr(found, "__iter__"):
            return [str(name) for name in found]
    return None


def _cells(frame: Any, name: str) -> list[Any]:
    """The cells of a column, as Python's own values."""
    column = frame[name]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    # `datasets` may give arrays of NumPy or Torch in place of lists.
    return [cell.tolist() if hasattr(cell, "tolist") else cell for cell in column]


def _label_names(frame: Any, name: str) -> Sequence[str] | None:
    """Names of labels by number, which `datasets` keeps beside the table."""
    feature = getattr(frame, "features", None)
    feature = feature.get(name) if isinstance(feature, Mapping) else None
    feature = getattr(feature, "feature", feature)  # of a list of labels
    return getattr(feature, "names", None)


def _fits_frame(given: Any) -> bool:
    return _columns_of(given) is not None


def _read_frame(given: tuple[Any, ...], options: Options) -> Table:
    (frame,) = given
    names = _columns_of(frame)
    if names is None:
        raise TypeError(f"source = {type(frame).__name__}: must be a table with named columns")
    if isinstance(frame, Mapping) and any(hasattr(x, "column_names") for x in frame.values()):
        raise ValueError(
            f"source = {type(frame).__name__} of {', '.join(names)}: must be one table; give one "
            f"of them, such as source[{names[0]!r}]"
        )
    texts, labels = columns.chosen(type(frame).__name__, names, options)
    return _of_frame("frame", type(frame).__name__, frame, names, texts, labels, options)


def _of_frame(
    kind: str,
    name: str,
    frame: Any,
    names: Sequence[str],
    texts: list[str],
    labels: str | None,
    options: Options,
) -> Table:
    parts = [_cells(frame, text) for text in texts]
    sizes = {text: len(part) for text, part in zip(texts, parts, strict=True)}
    label_cells: list[Any] = [None] * len(parts[0])
    if labels is not None:
        label_cells = _cells(frame, labels)
        sizes[labels] = len(label_cells)
        known = _label_names(frame, labels)
        if known is not None:
            label_cells = [_named(cell, known) for cell in label_cells]
    if len(set(sizes.values())) > 1:
        raise FormatError(name, f"lengths of columns = {sizes}: must be equal; give each row both")
    rows = zip(*parts, strict=True)
    return columns.table_of(
        kind,
        name,
        names,
        (
            (f"row {i}", cells, label)
            for i, (cells, label) in enumerate(zip(rows, label_cells, strict=True))
        ),
        options,
    )


def _named(cell: Any, names: Sequence[str]) -> Any:
    """Numbers of labels as their names; -1 is none, as `datasets` has it."""
    if isinstance(cell, int):
        if cell >= len(names):
            raise ValueError(f"label = {cell}: must be below {len(names)}, the names there are")
        return names[cell] if cell >= 0 else None
    return cell if cell is None else [_named(part, names) for part in cell]


KINDS = (
    Kind(
        name="jsonl",
        about="a JSON object a line; labels are a text, a number, or a list",
        sign="a first line that is a JSON object",
        fits=_fits_jsonl,
        read=_read_jsonl,
        write=_write_jsonl,
        options=columns.OPTIONS,
        suffixes=(".jsonl", ".ndjson"),
    ),
    Kind(
        name="parquet",
        about="a Parquet table; labels are a text, a number, or a list",
        sign="the signature PAR1",
        fits=_fits_parquet,
        read=_read_parquet,
        write=_write_parquet,
        options=columns.OPTIONS,
        suffixes=(".parquet",),
        needs="tables",
    ),
    Kind(
        name="frame",
        about="a table in memory: of pandas, polars, Arrow or `datasets`, or a dict of columns",
        sign="named columns",
        fits=_fits_frame,
        read=_read_frame,
        options=columns.OPTIONS,
        memory=True,
    ),
)
