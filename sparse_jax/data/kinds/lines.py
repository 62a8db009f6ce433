"""Texts, one a line, with their labels before them: fastText, LibMultiLabel, and without labels."""

from __future__ import annotations

import re

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import columns
from sparse_jax.data.kinds.base import (
    Head,
    Kind,
    Options,
    Source,
    label_rows,
    rows_of,
    text_of,
    texts_of,
)
from sparse_jax.data.tables import Table, of_texts

PREFIX = "__label__"
_SPACES = re.compile(r"[ \t\r\v\f]+")  # fastText's own: others are parts of words


def _fits_fasttext(head: Head) -> bool:
    return any(line.lstrip().startswith(PREFIX) for line in head.lines)


def _read_fasttext(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    texts, labels = [], []
    for number, line in rows_of(source):
        words = [word for word in _SPACES.split(line) if word]
        found = [word for word in words if word.startswith(PREFIX)]
        if PREFIX in found:
            raise FormatError(
                source.name,
                f"line {number}: {PREFIX} without a name: must be {PREFIX}NAME, without spaces; "
                "name the label",
            )
        labels.append([word.removeprefix(PREFIX) for word in found])
        texts.append(" ".join(word for word in words if not word.startswith(PREFIX)))
    return of_texts("fasttext", texts, labels)


def _write_fasttext(table: Table, files: int, options: Options) -> list[bytes]:
    lines = []
    names = label_rows(table, "fasttext", forbidden=r"[ \t\r\n\v\f]")
    for row, (text, labels) in enumerate(zip(texts_of(table, "fasttext"), names, strict=True)):
        words = [word for word in _SPACES.split(text.replace("\n", " ")) if word]
        if any(word.startswith(PREFIX) for word in words):
            raise ValueError(
                f"text {row} has a word that begins with {PREFIX}: would be read as a label; "
                "write jsonl"
            )
        if not labels and not text.strip():  # no-break spaces alone are a blank line, too
            raise _nothing(row, "fasttext")
        lines.append(" ".join([*(PREFIX + name for name in labels), *words]) + "\n")
    return ["".join(lines).encode()]


def _nothing(row: int, kind: str) -> ValueError:
    return ValueError(
        f"point {row} has neither text nor labels: can't be written in kind {kind}, where blank "
        "lines are none; write jsonl"
    )


def _fits_libmultilabel(head: Head) -> bool:
    if not head.lines or _fits_fasttext(head):
        return False
    cells = [line.split("\t") for line in head.lines]
    width = len(cells[0])
    return (
        width in (2, 3)
        and len(cells) > 1
        and all(len(row) == width for row in cells)
        and all(" " not in row[0].strip() for row in cells if width == 3)
        and not columns.names_columns(cells[0], head.options)
    )


def _read_libmultilabel(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    texts, labels, width = [], [], 0
    for number, line in rows_of(source):
        cells = line.split("\t")
        width = width or len(cells)
        if len(cells) != width or width not in (2, 3):
            raise FormatError(
                source.name,
                f"line {number}: has {len(cells)} columns: must have "
                f"{width if width in (2, 3) else '2 or 3'}, `labels <tab> text` or `id <tab> "
                "labels <tab> text` in all lines; put spaces for tabs in texts",
            )
        names = [name.strip() for name in cells[-2].split(options.separator)]
        labels.append([name for name in names if name])
        texts.append(cells[-1])
    note = (
        "labels have commas within: if commas part them, say separator=',' (--separator ,), else "
        "separator=' '"
    )
    commas = options.separator is None and any("," in name for row in labels for name in row)
    return of_texts("libmultilabel", texts, labels, notes=(note,) if commas else ())


def _write_libmultilabel(table: Table, files: int, options: Options) -> list[bytes]:
    separator = options.separator or " "
    forbidden = r"\s" if separator.isspace() else rf"[\t\n\r]|{re.escape(separator)}"
    names = label_rows(table, "libmultilabel", forbidden=forbidden)
    texts = [_one_line(text) for text in texts_of(table, "libmultilabel")]
    rows = enumerate(zip(names, texts, strict=True))
    lines = [f"{i}\t{separator.join(row)}\t{text}\n" for i, (row, text) in rows]
    return ["".join(lines).encode()]


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]", " ", text)


def _read_text(sources: tuple[Source, ...], options: Options) -> Table:
    """Blank lines are empty texts: what is predicted has a line for each."""
    (source,) = sources
    lines = text_of(source).split("\n")
    if not lines[-1]:
        lines.pop()
    texts = [line.removesuffix("\r") for line in lines]
    return of_texts("text", texts, [[]] * len(texts))


def _write_text(table: Table, files: int, options: Options) -> list[bytes]:
    return ["".join(f"{_one_line(text)}\n" for text in texts_of(table, "text")).encode()]


KINDS = (
    Kind(
        name="fasttext",
        about="a text a line with its labels among it, as fastText takes them",
        sign=f"lines that begin with {PREFIX}",
        fits=_fits_fasttext,
        read=_read_fasttext,
        write=_write_fasttext,
    ),
    Kind(
        name="libmultilabel",
        about="id, labels and text, or labels and text, parted by tabs; labels parted by spaces",
        sign="lines of two, or three, columns between tabs, none of them names of columns",
        fits=_fits_libmultilabel,
        read=_read_libmultilabel,
        write=_write_libmultilabel,
        options=frozenset({"separator"}),
    ),
    Kind(
        name="text",
        about="a text a line, without labels",
        sign="nothing: it is what no other kind fits",
        fits=lambda head: False,
        read=_read_text,
        write=_write_text,
    ),
)
