"""The Extreme Classification Repository's own text files: points in one file, or in two."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

import numpy as np

from sparse_jax.data.encoding import without_mark
from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import Head, Kind, Options, Source
from sparse_jax.data.numbers import format_values
from sparse_jax.data.tables import Table, weighted
from sparse_jax.data.xmc import check_finite, from_bytes, to_bytes, unchecked
from sparse_jax.ops.xmc_parser import parse_xmc

_PAIR = re.compile(r"\s*\d+:\S")


def _fits_xmc(head: Head) -> bool:
    return bool(head.lines and re.fullmatch(r"\s*\d+\s+\d+\s+\d+\s*", head.lines[0]))


def _read_xmc(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    return Table(from_bytes(source.content, source.name), "xmc")


def _write_xmc(table: Table, files: int, options: Options) -> list[bytes]:
    return [to_bytes(table.points)]


def _fits_xy(head: Head) -> bool:
    lines = head.lines
    return bool(
        lines
        and re.fullmatch(r"\s*\d+\s+\d+\s*", lines[0])
        and (len(lines) == 1 or any(_PAIR.match(line) for line in lines[1:]))
    )


class _Side(NamedTuple):
    """A sparse matrix [n, width]."""

    offsets: np.ndarray  # int64 [n + 1]
    ids: np.ndarray  # int32 [offsets[-1]]
    values: np.ndarray  # float32 [offsets[-1]]
    width: int


def _read_side(source: Source, what: str) -> _Side:
    """A header `rows columns`, then a row a line, `id:value id:value`."""
    try:
        try:
            content = without_mark(source.content)
        except ValueError as error:
            raise ValueError(f"line 1: {error}") from None
        first, _, rest = content.partition(b"\n")
        if not re.fullmatch(rb"\s*\d+\s+\d+\s*", first):
            shown = first[:40].decode("utf-8", "replace").strip()
            blank = "delete the empty lines before it" if not shown else "write it there"
            raise ValueError(
                f"line 1: the header must be two whole numbers, rows columns, not {shown!r}; "
                f"{blank}"
            )
        # A space first: what stands before it would be labels.
        body = b" " + rest.removesuffix(b"\n").replace(b"\n", b"\n ") if rest else b""
        arrays = parse_xmc(b" ".join(first.split()) + b" 0\n" + body)
    except ValueError as error:
        message = str(error).replace("three whole numbers", "two whole numbers")
        raise FormatError(source.name, _said(message, what)) from None
    return _Side(*arrays[:3], width=arrays[6])


def _said(message: str, what: str) -> str:
    """The parser's message in the words of one side, with what helps."""
    message = message.replace("feature", what)
    for sign, cure in (
        ("is out of range", "mend the header's second number"),
        ("ends after", "mend the header's first number, or complete the file"),
        ("more rows follow", "mend the header's first number"),
        ("more than once", "join its entries"),
        (f"{what} value", "mend or drop this entry"),
        ("expected", "write each entry as id:value"),
        ("id '", "write whole numbers from 0"),
    ):
        if sign in message:
            return f"{message}; {cure}"
    return message


def _read_xy(sources: tuple[Source, ...], options: Options) -> Table:
    x = _read_side(sources[0], "feature")
    if len(sources) == 1:
        none = np.zeros_like(x.offsets), np.zeros(0, np.int32)
        return Table(unchecked(*x[:3], *none, x.width, 0), "xy")
    y = _read_side(sources[1], "label")
    if y.offsets.size != x.offsets.size:
        raise FormatError(
            sources[1].name,
            f"line 1: has {y.offsets.size - 1} rows: must have {x.offsets.size - 1}, a row for "
            f"each of {sources[0].name}; give the two files of one set",
        )
    if y.values.size and y.values.min() < 0:
        row = int(np.searchsorted(y.offsets, int(np.argmin(y.values)), side="right")) - 1
        raise FormatError(
            sources[1].name,
            f"line {row + 2}: label weight {y.values.min():g}: must be at least 0; leave out what "
            "is no label",
        )
    return weighted(Table(unchecked(*x[:3], *y[:2], x.width, y.width), "xy"), y.values)


def _write_xy(table: Table, files: int, options: Options) -> list[bytes]:
    points = table.points
    check_finite(points)
    weights = table.label_weights
    if weights is None:
        weights = np.ones(points.label_ids.size, np.float32)
    sides = (
        _Side(
            points.feature_offsets, points.feature_ids, points.feature_values, points.num_features
        ),
        _Side(points.label_offsets, points.label_ids, weights, points.num_labels),
    )
    return [_side_bytes(side) for side in sides[:files]]


def _side_bytes(side: _Side) -> bytes:
    pairs = [f"{i}:{v}" for i, v in zip(side.ids.tolist(), format_values(side.values), strict=True)]
    offsets = side.offsets.tolist()
    lines = [f"{len(offsets) - 1} {side.width}"]
    lines += [" ".join(pairs[a:b]) for a, b in itertools.pairwise(offsets)]
    return ("\n".join(lines) + "\n").encode("ascii")


KINDS = (
    Kind(
        name="xmc",
        about="points of the Extreme Classification Repository, in one text file",
        sign="a first line of three whole numbers: points features labels",
        fits=_fits_xmc,
        read=_read_xmc,
        write=_write_xmc,
        texts=False,
        sized=True,
    ),
    Kind(
        name="xy",
        about="features and labels in two text files, as trn_X_Xf.txt,trn_X_Y.txt",
        sign="a first line of two whole numbers, rows columns, then id:value pairs",
        fits=_fits_xy,
        read=_read_xy,
        write=_write_xy,
        files=2,
        texts=False,
        sized=True,
    ),
)
