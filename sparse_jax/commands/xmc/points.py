"""Points of the xmc commands: files whose kind their content tells, read whole or in a stream."""

from __future__ import annotations

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
from sparse_jax.ops.xmc_parser import parse_xmc
from sparse_jax.xmc import Model

_HEADER = re.compile(rb"\s*\d+\s+\d+\s+\d+\s*")
KINDS = ("auto", "xmc", "text")


def stream(
    path: str, model: Model, *, kind: str = "auto", at_once: int = 1024
) -> Iterator[data.XmcData]:
    """Points of a file, or of standard input for "-", some at a time.

    Args:
      path: plain or gzip; points in the XMC text format, or a text a line.
      model: whose features they get; texts need its feature names.
      kind: "xmc", "text", or "auto": a first line of three whole numbers is an XMC header.
      at_once: points.

    Raises:
      ValueError: at a malformed line, named; if a text is given to a model without feature names.
      OSError: if the file can't be read.
    """
    name = "standard input" if path == "-" else path
    opened = sys.stdin.buffer if path == "-" else open(path, "rb")
    with opened as raw:
        batches = _batches(name, raw, at_once, live=path == "-")
        first = next(batches, None)
        if first is None:
            return
        header = first[0].strip(b"\r\n")
        is_header = _HEADER.fullmatch(header) is not None
        if kind == "xmc" and not is_header:
            shown = header[:40].decode("utf-8", "replace")
            raise ValueError(
                f"{name}: the first line is {shown!r}: must be an XMC header, three whole numbers "
                "`points features labels`; texts are read with --kind text"
            )
        if is_header and kind != "text":
            hint = "" if kind == "xmc" else "; if its lines are texts, give --kind text"
            _, features, labels = (int(x) for x in header.split())
            warn_of_sizes(name, features, labels, model)
            yield from _xmc(name, header, itertools.chain([first[1:]], batches), hint)
        else:
            yield from _texts(name, itertools.chain([first], batches), model)


def warn_of_sizes(name: str, features: int, labels: int, model: Model) -> None:
    """Says if a file's ids may mean something else than the model's."""
    if (features, labels) != (model.num_features, model.num_labels):
        print(
            f"warning: {name} is of {features:,} features and {labels:,} labels, the model of "
            f"{model.num_features:,} and {model.num_labels:,}: ids must mean the same in both; "
            "features that the model lacks are left out",
            file=sys.stderr,
        )


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
    name: str, header: bytes, batches: Iterator[list[bytes]], hint: str
) -> Iterator[data.XmcData]:
    promised, features, labels = (int(x) for x in header.split())
    done = 0
    for batch in batches:
        rows, more = batch[: promised - done], batch[promised - done :]
        if any(row.strip() for row in more):
            raise ValueError(
                f"{name}: more rows follow than the {promised} that the header promises{hint}"
            )
        if rows:
            head = b"%d %d %d\n" % (len(rows), features, labels)
            yield _parse(head + b"".join(rows), name, done)
            done += len(rows)
    if done < promised:
        raise ValueError(
            f"{name}: ends after {done} rows, but the header promises {promised}{hint}"
        )


def _parse(content: bytes, name: str, rows_before: int) -> data.XmcData:
    try:
        arrays = parse_xmc(content)
    except ValueError as error:
        message = re.sub(
            r"^line (\d+)", lambda found: f"line {int(found[1]) + rows_before}", str(error)
        )
        raise data.XmcFormatError(name, message) from None
    return data.XmcData(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


def _texts(name: str, batches: Iterator[list[bytes]], model: Model) -> Iterator[data.XmcData]:
    names = model.about.feature_names
    if names is None:
        raise ValueError(
            f"{name} holds texts, but the model doesn't know the words of its features: give "
            "points in the XMC text format (a header `points features labels` first), or train "
            "with --vocabulary NAMES"
        )
    vocabulary = data.Vocabulary(names)
    for rows in batches:
        try:
            texts = [row.decode("utf-8").rstrip("\r\n") for row in rows]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}: byte {error.start} of a line is no UTF-8: convert the file"
            ) from None
        yield vocabulary.transform(texts)


def names_of(model: Model, labels: np.ndarray) -> list[str]:
    """Labels by name where the model has names, else by id."""
    names = model.about.label_names
    return [names[i] if names is not None else str(i) for i in labels.tolist()]
