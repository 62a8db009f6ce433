"""Texts of a file some at a time, with the bytes that each stands in: for files larger than memory.

Kinds are told by the name of a file, else by its content: lines of text, CSV, TSV, JSONL, Parquet,
as `data.read` reads them.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any, BinaryIO, NamedTuple

from sparse_jax.data.encoding import without_mark
from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import columns, delimited
from sparse_jax.data.kinds.base import Options, Source, need
from sparse_jax.data.reading import recognise

__all__ = ["KINDS", "Part", "Writer", "kind_of", "read"]

KINDS = ("text", "csv", "tsv", "jsonl", "parquet")
AT_ONCE = 1 << 13
"""Texts of a part."""

_SUFFIXES = {".txt": "text", ".md": "text", ".rst": "text", ".ndjson": "jsonl"}
_SUFFIXES |= {f".{kind}": kind for kind in KINDS[1:]}
_HEAD = 1 << 16


class Part(NamedTuple):
    """Some texts of a file, in order."""

    texts: list[str]
    lines: list[int]  # that each begins in, from 1; of Parquet, its row, from 0
    header: bytes  # of a table with names of columns first; else empty
    rows: Any  # list of bytes as they stand in the file, or an Arrow batch
    position: int  # bytes of the file that are read, packed ones of a packed file


def kind_of(path: str, options: Options) -> str:
    """The kind of a file, one of `KINDS`, by its name, else by its content.

    Args:
      path: of the file.
      options: what the user said of it.

    Returns:
      The kind's name.

    Raises:
      FormatError: it is none of these.
      OSError: it can't be read.

    Example:
      >>> kind_of("a.jsonl.gz", Options()), kind_of("notes.txt", Options())
      ('jsonl', 'text')
    """
    suffix = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    with open(path, "rb") as file, _telling(path):
        head = _unpacked(file).read(_HEAD)
    found = recognise(Source(path, head), options).name
    if found not in KINDS:
        raise FormatError(
            path, f"is of kind {found}: must be one of {', '.join(KINDS)}; say which: --kind KIND"
        )
    return found


def read(path: str, kind: str, options: Options) -> Iterator[Part]:
    """The texts of a file, some at a time.

    Args:
      path: of the file, plain or gzip; "-" for standard input.
      kind: one of `KINDS`.
      options: its `text` names columns of a table, whose cells are joined by a space; else "text".

    Yields:
      `Part`s of as many as `AT_ONCE` texts; of a file without any, one without.

    Raises:
      FormatError: a malformed file; it names the line.
      ImportError: Parquet without pyarrow.
      OSError: the file can't be read.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "a.csv")
      >>> _ = path.write_text("id,text\\n1,red\\n2,blue\\n")
      >>> part = next(read(str(path), "csv", Options()))
      >>> part.texts, part.rows
      (['red', 'blue'], [b'1,red\\n', b'2,blue\\n'])
    """
    if kind == "parquet":
        yield from _parquet(path, options)
        return
    standard = path == "-"
    name = "standard input" if standard else path
    raw = sys.stdin.buffer if standard else open(path, "rb")
    try:
        with _telling(name):
            rows = _READERS[kind](name, _lines(name, _unpacked(raw)), options)
            header, any_rows = next(rows)[2], False
            while some := list(islice(rows, AT_ONCE)):
                texts, lines, content = map(list, zip(*some, strict=True))
                at, any_rows = 0 if standard else raw.tell(), True
                yield Part(texts, lines, header, content, at)  # type: ignore[arg-type]
            if not any_rows:  # whoever writes a table needs its header
                yield Part([], [], header, [], 0)  # type: ignore[arg-type]
    finally:
        if not standard:
            raw.close()


@contextlib.contextmanager
def _telling(path: str) -> Iterator[None]:
    """Says which gzip stream is damaged."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(path, f"the gzip stream is damaged ({error}); copy it again") from None


def _unpacked(raw: Any) -> Any:
    """A stream, decompressed if it is gzip."""
    start = raw.peek(2)[:2]
    return gzip.GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw


def _lines(name: str, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line with its end) of each; a byte order mark is no part of the first."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            try:
                line = without_mark(line)
            except ValueError as error:
                raise FormatError(name, f"line 1: {error}") from None
        yield number, line if line.endswith(b"\n") else line + b"\n"


Rows = Iterator[tuple[str, int, bytes]]  # text, line, bytes; the first is of the header


def _text_rows(name: str, lines: Iterator[tuple[int, bytes]], options: Options) -> Rows:
    yield "", 0, b""
    for number, line in lines:
        if b"\0" in line:
            raise FormatError(
                name, f"line {number}: a NUL character: must be text in UTF-8; convert the file"
            )
        yield line.decode(errors="replace"), number, line


def _decoded(name: str, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise FormatError(
            name,
            f"line {number}: byte {error.start} is no UTF-8; convert the file, for example: "
            "iconv -f LATIN1 -t UTF-8 FILE > NEW",
        ) from None


def _json_rows(name: str, lines: Iterator[tuple[int, bytes]], options: Options) -> Rows:
    yield "", 0, b""
    wanted = options.text or ("text",)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(_decoded(name, number, line))
        except FormatError:
            raise
        except (ValueError, RecursionError) as error:
            raise FormatError(
                name, f"line {number}: is no JSON ({error}); write one object a line"
            ) from None
        if not isinstance(row, dict):
            raise FormatError(name, f"line {number}: must be a JSON object; write one a line")
        missing = next((column for column in wanted if column not in row), None)
        if missing is not None:
            shown = ", ".join(list(row)[:20]) or "none"
            raise FormatError(
                name,
                f"line {number}: columns = {shown}: must have {missing!r}; name the column of "
                "texts: text=NAME (--text NAME)",
            )
        yield _joined(name, f"line {number}", [row[column] for column in wanted]), number, line


def _joined(name: str, where: str, cells: Sequence[Any]) -> str:
    try:
        parts = [columns.as_text(cell) for cell in cells]
    except ValueError as error:
        raise FormatError(name, f"{where}: {error}") from None
    return " ".join(part for part in parts if part)


def _table_rows(name: str, lines: Iterator[tuple[int, bytes]], options: Options, kind: str) -> Rows:
    empty = FormatError(name, "line 1: the file is empty; give one with names of columns first")
    first = next(lines, None)
    if first is None:
        raise empty
    sign = "\t" if kind == "tsv" else delimited.delimiter_of(_decoded(name, *first))
    taken: list[bytes] = []

    def decoded() -> Iterator[str]:
        for number, line in chain([first], lines):
            taken.append(line)
            yield _decoded(name, number, line)

    reader = csv.reader(decoded(), delimiter=sign, strict=True)
    names: list[str] = []
    at: list[int] = []
    number = 1
    while (cells := delimited.next_record(name, reader, number)) is not None:
        content, begun = b"".join(taken), number
        taken.clear()
        number = reader.line_num + 1
        if delimited.is_blank(cells):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            at = [names.index(column) for column in columns.chosen(name, names, options)[0]]
            yield "", 0, content
            continue
        delimited.check_width(name, begun, cells, names)
        yield " ".join(cells[i] for i in at if cells[i]), begun, content
    if not names:
        raise empty


_READERS: dict[str, Callable[[str, Iterator[tuple[int, bytes]], Options], Rows]] = {
    "text": _text_rows,
    "jsonl": _json_rows,
    "csv": lambda name, lines, options: _table_rows(name, lines, options, "csv"),
    "tsv": lambda name, lines, options: _table_rows(name, lines, options, "tsv"),
}


def _parquet(path: str, options: Options) -> Iterator[Part]:
    arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            wanted, _ = columns.chosen(path, list(file.schema_arrow.names), options)
            size, rows = os.path.getsize(path), max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(AT_ONCE):
                cells = [batch.column(column).to_pylist() for column in wanted]
                texts = [
                    _joined(path, f"row {row + i}", parts)
                    for i, parts in enumerate(zip(*cells, strict=True))
                ]
                lines = list(range(row, row + len(texts)))
                row += len(texts)
                yield Part(texts, lines, b"", batch, size * row // rows)
            if not row:
                empty = arrow.RecordBatch.from_pylist([], schema=file.schema_arrow)
                yield Part([], [], b"", empty, size)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FormatError(
            path, f"is no whole Parquet file ({error}); write or copy it again"
        ) from None


class Writer:
    """Writes some of what `read` gave, in the same kind, to an open file.

    Args:
      file: open for writing bytes.
      kind: one of `KINDS`.
      packed: by gzip.

    Example:
      >>> import io
      >>> file = io.BytesIO()
      >>> writer = Writer(file, "text")
      >>> writer.write(Part(["a", "b"], [1, 2], b"", [b"a\\n", b"b\\n"], 4), [False, True])
      >>> writer.close()
      >>> file.getvalue()
      b'b\\n'
    """

    def __init__(self, file: BinaryIO, kind: str, *, packed: bool = False) -> None:
        self.kind = kind
        self._file: Any = gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else file
        self._packed = packed
        self._header: bytes | None = None
        self._table: Any = None

    def write(self, part: Part, kept: Sequence[bool]) -> None:
        """Writes the rows that are kept, the header before the first.

        Raises:
          ValueError: the part has other columns than the one before it.
          OSError: it can't be written.
        """
        if self.kind == "parquet":
            self._write_batch(part, kept)
            return
        if self._header is None:
            self._header = part.header
            self._file.write(part.header)
        if self._header.rstrip() != part.header.rstrip():
            raise ValueError(
                f"columns = {part.header.decode().rstrip()}: must be those of the first file, "
                f"{self._header.decode().rstrip()}; give files of one layout"
            )
        self._file.write(b"".join(row for row, stays in zip(part.rows, kept, strict=True) if stays))

    def _write_batch(self, part: Part, kept: Sequence[bool]) -> None:
        arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
        if self._table is None:
            self._table = parquet.ParquetWriter(self._file, part.rows.schema)
        elif not self._table.schema.equals(part.rows.schema):
            raise ValueError(
                f"columns = {part.rows.schema.names}: must be those of the first file, "
                f"{self._table.schema.names}, and of their types; give files of one layout"
            )
        self._table.write_batch(part.rows.filter(arrow.array(kept, arrow.bool_())))

    def close(self) -> None:
        """Ends the stream; the file stays open."""
        if self._table is not None:
            self._table.close()
        if self._packed:
            self._file.close()
