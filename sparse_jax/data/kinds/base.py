"""What a kind of file is, and what the modules of this folder share."""

from __future__ import annotations

import codecs
import importlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sparse_jax.data.encoding import decode, refuse_documents
from sparse_jax.data.errors import FormatError
from sparse_jax.data.tables import Table

HEAD_BYTES = 1 << 16
HEAD_LINES = 20

TEXT = "text"  # the column of texts where none is named
LABELS = ("labels", "label")  # those of labels, the first that is there


class Source(NamedTuple):
    """A file that was read."""

    name: str  # for messages
    content: bytes  # decompressed


class Options(NamedTuple):
    """What a user may say of a file; None for what was not said."""

    text: tuple[str, ...] | None = None  # columns, joined by a space
    labels: str | None = None  # a column
    separator: str | None = None  # of labels in one cell
    base: int | None = None  # the first feature's id
    label_base: int | None = None  # the first label's id

    def given(self) -> set[str]:
        """Names of those that were said."""
        return {name for name, value in self._asdict().items() if value is not None}


class Head(NamedTuple):
    """The beginning of a file: all that its kind is recognised by, beside options."""

    content: bytes  # as much as HEAD_BYTES
    lines: tuple[str, ...]  # the first that aren't blank, as much as HEAD_LINES, without ends
    options: Options


class Kind(NamedTuple):
    """A kind of file, or of objects in memory, which describes itself."""

    name: str
    about: str  # what it is, in a line
    sign: str  # what it is recognised by, in a line
    fits: Callable[[Any], bool]  # of a `Head`; of the object where `memory` is set
    read: Callable[[tuple[Any, ...], Options], Table]  # of `Source`s; of the object
    # The content of each file for a table; None for kinds that live in memory.
    write: Callable[[Table, int, Options], list[bytes]] | None = None
    options: frozenset[str] = frozenset()  # fields of `Options` that have an effect
    files: int = 1  # at most; the second holds labels, or their names
    suffixes: tuple[str, ...] = ()  # of files that are written without a kind
    needs: str | None = None  # the extra to install
    texts: bool = True  # whether points are texts, not features by id
    sized: bool = False  # whether a file says how many features and labels there are
    memory: bool = False


def look(content: bytes, options: Options) -> Head:
    """The head of a file.

    Args:
        content: the beginning of it, or all.
        options: what the user said.
    """
    head = content[:HEAD_BYTES]
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # UTF-32's begins so, too
    encoding = "utf-8-sig"
    if wide:
        encoding = "utf-32" if head.startswith(codecs.BOM_UTF32_LE) else "utf-16"
    lines = head.decode(encoding, errors="replace").split("\n")
    if len(head) < len(content) and len(lines) > 1:
        lines.pop()  # it may go on
    found = [line.removesuffix("\r") for line in lines if line.strip()]
    return Head(head, tuple(found[:HEAD_LINES]), options)


def text_of(source: Source) -> str:
    """The text of a file.

    Raises:
        FormatError: bytes that are no text.
    """
    try:
        refuse_documents(source.content)
        text = decode(source.content)
    except ValueError as error:
        raise FormatError(source.name, str(error)) from None
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise FormatError(
            source.name,
            f"line {line}: a NUL character: must be text in UTF-8; if it is UTF-16 without a byte "
            "order mark, convert it: iconv -f UTF-16LE -t UTF-8 FILE > NEW",
        )
    return text


def rows_of(source: Source) -> Iterator[tuple[int, str]]:
    """(number, line) of each line that isn't blank, without its end.

    Raises:
        FormatError: bytes that are no text.
    """
    for number, line in enumerate(text_of(source).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def need(module: str, kind: str) -> Any:
    """A library that only some kinds need.

    Raises:
        ImportError: it is missing; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"kind {kind} needs {module.partition('.')[0]}: pip install 'sparse_jax[tables]'"
        ) from error


def label_rows(table: Table, kind: str, *, forbidden: str = "") -> list[list[str]]:
    """The labels of each point by name, or by id where there are no names.

    Args:
        table: to write.
        kind: for messages.
        forbidden: a regular expression that no name may match.

    Raises:
        ValueError: names that couldn't be read back.
    """
    points, names = table.points, table.label_names
    ids = points.label_ids.tolist()
    if names is not None:
        for name in {names[i]: None for i in ids}:
            if not name or name != name.strip() or (forbidden and re.search(forbidden, name)):
                raise ValueError(
                    f"label_names = {name!r}: can't be written in kind {kind}; rename the label, "
                    "or write jsonl"
                )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"label_names = {twice!r} twice: must be distinct to be written by name; rename one"
            )
    shown = [str(i) if names is None else names[i] for i in ids]
    offsets = points.label_offsets.tolist()
    return [shown[a:b] for a, b in itertools.pairwise(offsets)]


def texts_of(table: Table, kind: str) -> Sequence[str]:
    """The texts of a table.

    Raises:
        ValueError: it has none.
    """
    if table.texts is None:
        raise ValueError(
            f"kind = {kind!r}: must be one of features by id, since these points have no texts; "
            "write xmc, xy, svmlight or npz"
        )
    return table.texts
