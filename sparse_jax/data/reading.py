"""One reader, and one writer, for every kind of points; a file's content tells its kind."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import warnings
from collections.abc import Sequence
from typing import IO, Any

from sparse_jax.data.encoding import refuse_documents, unpack
from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds import delimited, frames, lines, matrices, raw, repository, svmlight
from sparse_jax.data.kinds.base import TEXT, Head, Kind, Options, Source, look
from sparse_jax.data.kinds.columns import names_columns
from sparse_jax.data.tables import Named, Table
from sparse_jax.data.tables import like as in_words_of
from sparse_jax.data.xmc import XmcData
from sparse_jax.runtime.files import write_atomically

_KINDS = {
    kind.name: kind
    for module in (repository, raw, svmlight, matrices, lines, delimited, frames)
    for kind in module.KINDS
}
_PACKED = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Path = str | os.PathLike[str]


def kinds() -> tuple[Kind, ...]:
    """All kinds of points, each with what it is and how it is recognised.

    Returns:
        They are tuples with `name`, `about`, `sign`, `options`, `suffixes` and `needs`.

    Example:
        >>> [kind.name for kind in kinds() if kind.memory]
        ['csr', 'frame']
    """
    return tuple(_KINDS.values())


def read(
    source: Any,
    kind: str | None = None,
    *,
    like: Named | None = None,
    text: str | Sequence[str] | None = None,
    labels: str | None = None,
    separator: str | None = None,
    base: int | None = None,
    label_base: int | None = None,
) -> Table:
    """Points of a file of any kind, or of a table or matrix in memory.

    Words of texts become features, each counted; labels by name are sorted, and numbered so. Hence
    the same rows give the same points, whatever kind of file holds them.

    Args:
        source: a path, plain or gzip; two paths, `(X, Y)`, where features and labels, or texts and
            names of labels, are two files; a binary file that is open; a SciPy matrix, `(X, Y)`
            of them; a table of pandas, polars, Arrow or `datasets`, or a dict of columns.
        kind: a name in `kinds()`; None to look at the content.
        like: a `Table` or a model's `about`, to have its words as features and its labels' ids;
            labels that it lacks come behind. None for the words and labels of the source.
        text: the column of texts, or several, joined by a space; "text" if None.
        labels: the column of labels; "labels" or "label", where there is one, if None.
        separator: what parts several labels in one cell; None for one label a cell, in kind
            libmultilabel for spaces.
        base: the id of the first feature in a file of kind svmlight, 0 or 1; 0 if None.
        label_base: the id of its first label, 0 or 1; 0 if None.

    Returns:
        A `Table`: its `points` and names are what `xmc.fit` takes.

    Raises:
        FormatError: a malformed file; the message has the path, the line and what helps. Also a
            file that fits two kinds, or none.
        ValueError: an unknown kind, an option that has no effect, or is out of range.
        TypeError: a source that is nothing of these.
        ImportError: a library of the extra `tables` is missing.
        OSError: a file that can't be read.

    Example:
        >>> table = read({"text": ["red apple", "fast car"], "labels": [["food"], ["thing"]]})
        >>> table.label_names, table.points.label_ids.tolist(), table.points.num_features
        (('food', 'thing'), [0, 1], 4)
        >>> read({"text": ["a fast apple"]}, like=table).points.feature_ids.tolist()
        [0, 2]
    """
    columns = (text,) if isinstance(text, str) else text
    options = Options(
        None if columns is None else tuple(columns), labels, separator, base, label_base
    )
    table = in_words_of(load(source, kind, options), like)
    for note in table.notes:
        warnings.warn(note, stacklevel=2)
    return table


def load(source: Any, kind: str | None, options: Options) -> Table:
    """What `read` reads, before words are counted; its notes are told by the caller."""
    if _is_file(source):
        sources = open_sources(source)
        return read_sources(sources, find(sources, kind, options), options)
    found = _find_object(source, kind)
    check_options(found, options)
    return found.read((source,), options)


def read_sources(sources: Sequence[Source], kind: Kind, options: Options) -> Table:
    """What files of a kind hold, before words are counted.

    Raises:
        FormatError: a malformed file, or a second one where the kind has one.
        ValueError: an option without effect, or out of range.
    """
    check_options(kind, options)
    if len(sources) > kind.files:
        raise FormatError(
            sources[1].name,
            f"is a second file: kind {kind.name} is read from one; leave this one out",
        )
    table = kind.read(tuple(sources), options)
    is_whole = kind.sized or kind.name == "text" or bool(table.columns)  # and may be of no rows
    if not table.points.num_points and not is_whole:
        raise FormatError(
            sources[0].name,
            "line 1: no line holds a point, only comments or nothing; give the file that holds the "
            "points",
        )
    return table


def check_options(kind: Kind, options: Options) -> None:
    """Refuses options that have no effect, and values out of range.

    Raises:
        ValueError: it names the option.
    """
    useless = sorted(options.given() - kind.options)
    if useless:
        takes = ", ".join(sorted(kind.options)) or "none"
        raise ValueError(
            f"{useless[0]} = {getattr(options, useless[0])!r}: no effect on kind {kind.name}, "
            f"whose options are: {takes}; leave it out, or say another kind"
        )
    for name in ("base", "label_base"):
        if getattr(options, name) not in (None, 0, 1):
            raise ValueError(f"{name} = {getattr(options, name)}: must be 0 or 1")
    for name in ("text", "labels", "separator"):
        if getattr(options, name) in ((), ""):
            raise ValueError(f"{name} = {getattr(options, name)!r}: must not be empty")


def _is_file(source: Any) -> bool:
    if isinstance(source, tuple | list):
        return bool(source) and all(isinstance(item, str | os.PathLike) for item in source)
    return isinstance(source, str | os.PathLike) or hasattr(source, "read")


def open_sources(source: Path | Sequence[Path] | IO[bytes]) -> list[Source]:
    """The files of a source, read and decompressed.

    Raises:
        FormatError: a damaged file, or one that is compressed otherwise.
        ValueError: more than two.
        OSError: a file can't be read.
    """
    if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        return [_open(source)]
    if len(source) > 2:
        raise ValueError(f"source = {len(source)} files: must be one or two; read them apart")
    return [_open(path) for path in source]


def _open(source: Any) -> Source:
    if hasattr(source, "read"):
        name, content = str(getattr(source, "name", "<file>")), source.read()
        name = "standard input" if name in ("<stdin>", "0") else name
    else:
        name = os.fspath(source)
        with open(name, "rb") as file:
            content = file.read()
    try:
        content = unpack(content)
    except ValueError as error:
        raise FormatError(name, f"{error}; copy it again") from None
    packed = next((said for sign, said in _PACKED.items() if content.startswith(sign)), None)
    if packed is not None:
        raise FormatError(name, f"is compressed by {packed}: must be plain or gzip; decompress it")
    return Source(name, content)


def find(sources: Sequence[Source], kind: str | None, options: Options) -> Kind:
    """The kind of files.

    Raises:
        ValueError: an unknown kind.
        FormatError: a file that fits two, or is empty.
    """
    first = sources[0]
    try:
        refuse_documents(first.content)
    except ValueError as error:
        raise FormatError(first.name, str(error)) from None
    if kind is not None:
        found = _named(kind)
        if found.memory:
            raise ValueError(f"kind = {kind!r}: must be one of files, since {first.name} is one")
    else:
        found = recognise(first, options, files=len(sources))
    if not first.content.removeprefix(codecs.BOM_UTF8).strip() and kind != "text":
        raise FormatError(
            first.name, "line 1: the file is empty; give the file that holds the points"
        )
    return found


def recognise(source: Source, options: Options, *, files: int = 1) -> Kind:
    """The kind that a file's content tells.

    Args:
        source: the beginning of it, or all.
        options: where several kinds fit, those that take the options given.
        files: that are read together.

    Raises:
        FormatError: two kinds fit.
    """
    head = look(source.content, options)
    possible = (kind for kind in _KINDS.values() if not kind.memory and kind.files >= files)
    fitting = [kind for kind in possible if kind.fits(head)]
    taking = [kind for kind in fitting if options.given() <= kind.options]
    if len(fitting) > 1 and taking:
        fitting = taking
    if len(fitting) > 1:
        names = [kind.name for kind in fitting]
        raise FormatError(
            source.name,
            f"line 1: fits {' and '.join(names)}: must be read as one of them; say which: "
            + " or ".join(f"kind={name!r} (--kind {name})" for name in names),
        )
    if fitting:
        return fitting[0]
    if files > 1:
        pairs = ", ".join(kind.name for kind in _KINDS.values() if kind.files > 1)
        raise FormatError(
            source.name, f"fits no kind of two files: must be one of {pairs}; say kind="
        )
    odd = _no_lines_of_text(head)
    if odd:
        raise FormatError(
            source.name, f"line 1: {odd}, or say kind='text' (--kind text) for a text a line"
        )
    return _KINDS["text"]


def _no_lines_of_text(head: Head) -> str:
    """What is wrong with a file that fits no kind, and yet is no text a line; empty if it is."""
    first = head.lines[0] if head.lines else ""
    if first.strip().strip('"') == TEXT and len(head.lines) > 1:
        return (
            f"is {TEXT!r}, which may name a column: fits csv and text: must be read as one of "
            "them; say kind='csv' (--kind csv)"
        )
    if first.strip() == "{":
        return "is JSON over several lines: must be an object a line; write it so (jq -c .)"
    if re.fullmatch(r"sep=.", first.strip()):
        return f"{first.strip()!r} is Excel's: must be the names of columns; delete the line"
    if "\r" in first and len(head.lines) == 1:
        return "lines end with carriage returns alone: must end as Unix' or Windows' do; convert it"
    cells = first.split("|")
    if len(cells) > 1 and names_columns(cells, head.options):
        return "columns are parted by '|': must be by commas, semicolons or tabs; convert it"
    return ""


def _named(kind: str) -> Kind:
    if kind not in _KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(_KINDS)}")
    return _KINDS[kind]


def _find_object(source: Any, kind: str | None) -> Kind:
    found = [k for k in _KINDS.values() if k.memory and k.fits(source)]
    if not found or (kind is not None and found[0].name != kind):
        wanted = "" if kind is None else f" of kind {kind!r}"
        raise TypeError(
            f"source = {type(source).__name__}{wanted}: must be a path or two, an open file, SciPy "
            "matrices, or a table with named columns"
        )
    return found[0]


def write(
    points: Table | XmcData,
    path: Path | Sequence[Path],
    kind: str | None = None,
    *,
    text: str | None = None,
    labels: str | None = None,
    separator: str | None = None,
    base: int | None = None,
    label_base: int | None = None,
) -> None:
    """Writes points so that `read` gives them back; gzip where a name ends in `.gz`.

    A file appears under its name only once it is complete; equal points give equal bytes. Files
    of texts hold those labels that occur, by name, or by id where they have none. fastText's hold
    words between single spaces.

    Args:
        points: a `Table`, or points by id alone.
        path: the file to create or replace; two, `(X, Y)`, for kinds of two files.
        kind: a name in `kinds()`; None for what the path ends in.
        text: the name of the column of texts; "text" if None.
        labels: the name of the column of labels; "labels" if None.
        separator: what parts labels of a cell in CSV, TSV and libmultilabel.
        base: the id of the first feature in svmlight, 0 or 1; 0 if None.
        label_base: the id of its first label, 0 or 1; 0 if None.

    Raises:
        ValueError: an unknown kind, texts in a kind of features or features in one of texts,
            values or names that couldn't be read back, an option without effect.
        ImportError: a library of the extra `tables` is missing.
        OSError: a file can't be written.

    Example:
        >>> import pathlib, tempfile
        >>> table = read({"text": ["red apple"], "labels": ["food"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(table, f"{folder}/one.csv")
        ...     pathlib.Path(folder, "one.csv").read_text()
        'text,labels\\nred apple,food\\n'
    """
    single = isinstance(path, str | os.PathLike)
    paths = [os.fspath(path)] if single else [os.fspath(item) for item in path]  # type: ignore
    found = written_kind(paths[0], kind)
    options = Options(None if text is None else (text,), labels, separator, base, label_base)
    check_options(found, options)
    table = Table(points, "xmc") if isinstance(points, XmcData) else points
    if len(paths) > found.files:
        raise ValueError(f"path = {len(paths)} files: must be at most {found.files} of this kind")
    if not found.texts and table.texts is not None and table.feature_names is None:
        raise ValueError(
            f"kind = {found.name!r}: must be one of texts, since their words aren't counted; read "
            "them by data.read"
        )
    assert found.write is not None
    for target, content in zip(paths, found.write(table, len(paths), options), strict=True):
        packed = gzip.compress(content, mtime=0) if target.endswith(".gz") else content
        write_atomically(target, packed)


def written_kind(path: str, kind: str | None) -> Kind:
    """The kind to write a file in.

    Raises:
        ValueError: one that files don't have, or a name that doesn't tell.
    """
    writable = {name: k for name, k in _KINDS.items() if k.write is not None}
    if kind is not None:
        if kind not in writable:
            raise ValueError(f"kind = {kind!r}: must be one of {', '.join(writable)} to write")
        return writable[kind]
    stem = path.removesuffix(".gz")
    for found in writable.values():
        if stem.endswith(found.suffixes or "\0"):
            return found
    known = ", ".join(suffix for found in writable.values() for suffix in found.suffixes)
    raise ValueError(
        f"path = {path}: must end in one of {known} where no kind is said; say it (--to), one of "
        f"{', '.join(writable)}"
    )
