"""Points of the xmc commands: files whose kind their content tells, read whole or in a stream."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import re
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from sparse_jax import data
from sparse_jax.commands import reading
from sparse_jax.commands.xmc import naming
from sparse_jax.data import reading as reading_room
from sparse_jax.data.errors import FormatError, with_cure
from sparse_jax.data.kinds.base import Kind, Options, Source
from sparse_jax.ops.xmc_parser import parse_xmc
from sparse_jax.xmc import Model

_HEADER = re.compile(rb"\s*\d+\s+\d+\s+\d+\s*")
NOTHING_SAID = Options()


def stream(
    path: str,
    model: Model,
    *,
    kind: str = "auto",
    options: Options = NOTHING_SAID,
    at_once: int = 1024,
) -> Iterator[data.XmcData]:
    """Points of a file, or of standard input for "-", some at a time.

    Points of kind xmc and texts of kind text come as they are read; of others the file is read
    whole before.

    Args:
      path: plain or gzip, of any kind; two files as X,Y.
      model: whose features they get; texts need its feature names.
      kind: a name in `data.kinds()`, or "auto" to look at the content.
      options: how the file is read.
      at_once: points.

    Raises:
      ValueError: at a malformed line, named; if a text is given to a model without feature names.
      ImportError: if a library for the kind is missing.
      OSError: if the file can't be read.
    """
    named = None if kind == "auto" else kind
    if isinstance(reading.source_of(path), tuple):
        sources = reading_room.open_sources(reading.source_of(path))
        known = reading.as_trained(options, model, labels=False)
        found = reading_room.find(sources, named, known)
        reading.refuse_useless(found, options)
        yield from _whole_file(sources, found, known, model, at_once)
        return
    name = "standard input" if path == reading.STDIN else path
    opened = sys.stdin.buffer if path == reading.STDIN else open(path, "rb")
    with opened as raw:
        batches = _batches(name, raw, at_once, live=path == reading.STDIN)
        first = next(batches, None)
        if first is None:
            return
        known = reading.as_trained(options, model, labels=False)
        found = _kind(Source(name, b"".join(first)), named, known)
        reading.refuse_useless(found, options)
        rest = itertools.chain([first], batches)
        if found.name == "xmc":
            hint = "; if its lines are texts, give --kind text" if named is None else ""
            yield from _xmc(name, rest, model, hint)
        elif found.name == "text":
            yield from _texts(name, rest, model)
        else:
            source = Source(name, b"".join(line for batch in rest for line in batch))
            yield from _whole_file([source], found, known, model, at_once)


def _kind(first: Source, named: str | None, options: Options) -> Kind:
    """The kind of a file by its first lines; blank ones are texts, asked one by one perhaps."""
    blank = named is None and not first.content.strip()
    return reading_room.find([first], "text" if blank else named, options)


def _whole_file(
    sources: list[Source], kind: Kind, options: Options, model: Model, at_once: int
) -> Iterator[data.XmcData]:
    table = reading_room.read_sources(sources, kind, reading.taken(kind, options))
    told = tuple(note for note in table.notes if not note.startswith("label"))
    table = dataclasses.replace(table, label_names=None, notes=told)  # labels aren't looked at
    reading.tell(sources[0].name, table)
    found = naming.for_model(sources[0].name, table, model).points
    for start in range(0, found.num_points, at_once):
        yield found.take(slice(start, start + at_once))


def _batches(name: str, raw: IO[bytes], at_once: int, *, live: bool) -> Iterator[list[bytes]]:
    """Lines, decompressed, without a byte order mark: so many together, or those there are."""
    buffered: Any = io.BufferedReader(raw) if isinstance(raw, io.RawIOBase) else raw
    head = buffered.peek(2)[:3] if hasattr(buffered, "peek") else b""
    packed = head[:2] == b"\x1f\x8b"
    source: Any = gzip.GzipFile(fileobj=buffered) if packed else buffered
    lines = _live(source) if live and not packed else _whole(source, at_once)
    mark = b"\xef\xbb\xbf"
    try:
        for batch in lines:
            batch[0] = batch[0].removeprefix(mark)
            mark = b""
            for start in range(0, len(batch), at_once):
                yield batch[start : start + at_once]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: the gzip stream is damaged ({error})") from None


def _whole(source: Any, at_once: int) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(source, at_once)):
        yield batch


def _live(source: Any) -> Iterator[list[bytes]]:
    """Lines as they come, so that a program that asks line by line is answered."""
    rest = b""
    while content := source.read1(1 << 16):
        *lines, rest = (rest + content).split(b"\n")
        if lines:
            yield [line + b"\n" for line in lines]
    if rest:
        yield [rest]


def _xmc(
    name: str, batches: Iterator[list[bytes]], model: Model, hint: str
) -> Iterator[data.XmcData]:
    first = next(batches)
    header = first[0].strip(b"\r\n")
    if not _HEADER.fullmatch(header):
        shown = header[:40].decode("utf-8", "replace")
        cure = "texts are read with --kind text" if shown.strip() else "delete the empty lines"
        raise FormatError(
            name,
            f"line 1: is {shown!r}: must be an XMC header, three whole numbers `points features "
            f"labels`; {cure}",
        )
    promised, features, labels = (int(x) for x in header.split())
    naming.warn_of_sizes(name, features, labels, model)
    done = 0
    for batch in itertools.chain([first[1:]], batches):
        rows, more = batch[: promised - done], batch[promised - done :]
        if any(row.strip() for row in more):
            raise FormatError(
                name, f"more rows follow than the {promised} that the header promises{hint}"
            )
        if rows:
            head = b"%d %d %d\n" % (len(rows), features, labels)
            yield _parse(head + b"".join(rows), name, done)
            done += len(rows)
    if done < promised:
        raise FormatError(name, f"ends after {done} rows, but the header promises {promised}{hint}")


def _parse(content: bytes, name: str, rows_before: int) -> data.XmcData:
    try:
        arrays = parse_xmc(content)
    except ValueError as error:
        message = re.sub(
            r"^line (\d+)", lambda found: f"line {int(found[1]) + rows_before}", str(error)
        )
        raise FormatError(name, with_cure(message)) from None
    return data.XmcData(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


def _texts(name: str, batches: Iterator[list[bytes]], model: Model) -> Iterator[data.XmcData]:
    names = model.about.feature_names
    if names is None:
        raise ValueError(naming.NO_WORDS.format(name))
    vocabulary, done = data.Vocabulary(names), 0
    for rows in batches:
        try:
            texts = [row.decode("utf-8").rstrip("\r\n") for row in rows]
        except UnicodeDecodeError as error:
            at = next(i for i, row in enumerate(rows) if row == error.object)
            raise FormatError(
                name,
                f"line {done + at + 1}: byte {error.start} of it is no UTF-8; convert the file, "
                "for example: iconv -f LATIN1 -t UTF-8 FILE > NEW",
            ) from None
        yield vocabulary.transform(texts)
        done += len(rows)


def names_of(model: Model, labels: np.ndarray) -> list[str]:
    """Labels by name where the model has names, else by id."""
    names = model.about.label_names
    return [names[i] if names is not None else str(i) for i in labels.tolist()]
