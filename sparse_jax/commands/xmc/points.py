"""Points of the xmc commands: files whose kind their content tells, read whole or in a stream."""

from __future__ import annotations

import gzip
import io
import itertools
import re
import sys
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
    opened = sys.stdin.buffer if path == "-" else open(path, "rb")
    with opened as raw:
        lines = _lines(raw)
        first = next(lines, None)
        if first is None:
            return
        name = "standard input" if path == "-" else path
        is_xmc = kind == "xmc" or (kind == "auto" and _HEADER.fullmatch(first.strip(b"\r\n")))
        if is_xmc:
            yield from _xmc(name, first, lines, at_once)
        else:
            yield from _texts(name, itertools.chain([first], lines), model, at_once)


def _lines(raw: IO[bytes]) -> Iterator[bytes]:
    """Lines as bytes, decompressed, without a byte order mark."""
    buffered = io.BufferedReader(raw) if isinstance(raw, io.RawIOBase) else raw
    head = buffered.peek(2)[:2] if hasattr(buffered, "peek") else b""
    packed = head == b"\x1f\x8b"
    source: Any = gzip.GzipFile(fileobj=buffered) if packed else buffered
    for number, line in enumerate(source):
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line


def _xmc(name: str, header: bytes, lines: Iterator[bytes], at_once: int) -> Iterator[data.XmcData]:
    promised, features, labels = (int(x) for x in header.split())
    done = 0
    while rows := list(itertools.islice(lines, min(at_once, promised - done) or 1)):
        if done == promised:
            if any(row.strip() for row in rows):
                raise ValueError(
                    f"{name}: more rows follow than the {promised} that the header promises"
                )
            continue
        head = b"%d %d %d\n" % (len(rows), features, labels)
        yield _parse(head + b"".join(rows), name, done)
        done += len(rows)
    if done < promised:
        raise ValueError(f"{name}: ends after {done} rows, but the header promises {promised}")


def _parse(content: bytes, name: str, rows_before: int) -> data.XmcData:
    try:
        arrays = parse_xmc(content)
    except ValueError as error:
        message = re.sub(
            r"^line (\d+)", lambda found: f"line {int(found[1]) + rows_before}", str(error)
        )
        raise data.XmcFormatError(name, message) from None
    return data.XmcData(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


def _texts(name: str, lines: Iterator[bytes], model: Model, at_once: int) -> Iterator[data.XmcData]:
    names = model.about.feature_names
    if names is None:
        raise ValueError(
            f"{name} holds texts, but the model doesn't know the words of its features: give "
            "points in the XMC text format (a header `points features labels` first), or train "
            "with --vocabulary NAMES"
        )
    vocabulary = data.Vocabulary(names)
    while rows := list(itertools.islice(lines, at_once)):
        try:
            texts = [row.decode("utf-8").rstrip("\r\n") for row in rows]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}: byte {error.start} of a line is no UTF-8: convert it"
            ) from None
        yield vocabulary.transform(texts)


def names_of(model: Model, labels: np.ndarray) -> list[str]:
    """Labels by name where the model has names, else by id."""
    names = model.about.label_names
    return [names[i] if names is not None else str(i) for i in labels.tolist()]
