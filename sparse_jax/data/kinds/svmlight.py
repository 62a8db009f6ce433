"""Files of LIBSVM and svmlight, with any number of labels a point."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from sparse_jax.data.encoding import without_mark
from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import Head, Kind, Options, Source
from sparse_jax.data.numbers import format_values
from sparse_jax.data.tables import Table
from sparse_jax.data.xmc import MAX_SIZE, XmcData, check_finite, offsets_of, unchecked
from sparse_jax.ops.xmc_parser import parse_xmc

_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_LABELS = rf"{_NUMBER}(?:,{_NUMBER})*"
_ROW = re.compile(r"(?:[-+\d.,eE]+(?:\s+|$))?(?:qid:\d+\s+)?(?:\d+:\S+(?:\s+|$))*")
_HEADER = re.compile(rb"\s*\d+\s+\d+\s+\d+\s*")
_QUERY = re.compile(rb"(?:^|\s)qid:\d+")
_CURES = (
    ("is out of range", "number the ids anew"),
    ("more than once", "join its entries"),
    ("expected", "join labels by commas alone, and write features as id:value"),
    ("value", "mend or drop this entry"),
    ("id '", "write ids as whole numbers, labels joined by commas"),
)


class _Lines(NamedTuple):
    """Rows without comments, blank ones left out."""

    name: str  # of the file
    numbers: list[int]  # in the file, from 1
    rows: list[bytes]

    def without_first(self) -> _Lines:
        return _Lines(self.name, self.numbers[1:], self.rows[1:])

    def error(self, row: int, message: str) -> FormatError:
        return FormatError(self.name, f"line {self.numbers[row]}: {message}")


def _fits(head: Head) -> bool:
    rows = [row for row in (line.split("#")[0].strip() for line in head.lines) if row]
    based = {"base", "label_base"} & head.options.given()
    if rows and based and _HEADER.fullmatch(rows[0].encode()):
        rows = rows[1:]  # else it is of kind xmc
    # A malformed row in the head is for the reader to name.
    matching = [row for row in rows if _ROW.fullmatch(row)]
    half = 2 * len(matching) >= len(rows) and rows[:1] == matching[:1]
    return half and any(":" in row for row in matching)


def _lines(source: Source) -> _Lines:
    try:
        content = without_mark(source.content)
    except ValueError as error:
        raise FormatError(source.name, f"line 1: {error}") from None
    found = _Lines(source.name, [], [])
    for number, line in enumerate(content.split(b"\n"), 1):
        if b"#" in line:
            line = line[: line.index(b"#")]
        if b"qid:" in line:
            line = _QUERY.sub(b"", line, count=1)
        line = line.strip()
        if line:
            found.numbers.append(number)
            found.rows.append(line)
    return found


def _read(sources: tuple[Source, ...], options: Options) -> Table:
    (source,) = sources
    lines = _lines(source)
    promised: list[int] | None = None
    if lines.rows and _HEADER.fullmatch(lines.rows[0]):
        promised = [int(x) for x in lines.rows[0].split()]
        lines = lines.without_first()
        if promised[0] != len(lines.rows):
            raise FormatError(
                source.name,
                f"line 1: the header promises {promised[0]} points, but {len(lines.rows)} rows "
                "follow; mend or delete it",
            )
    names, rows = _take_names(lines)
    raw = _parse(lines, rows)
    _, num_features, num_labels = promised or (0, None, None)
    features = _Side.of("feature", raw.feature_offsets, raw.feature_ids)
    features = features.shifted(lines, options.base, num_features)
    if names is None:
        labels = _Side.of("label", raw.label_offsets, raw.label_ids)
        labels = labels.shifted(lines, options.label_base, num_labels)
        label_names = None
    else:
        label_names = tuple(sorted({name for row in names for name in row}))
        places = {name: place for place, name in enumerate(label_names)}
        distinct = [[places[name] for name in dict.fromkeys(row)] for row in names]
        ids = np.array([i for row in distinct for i in row], np.int32)
        counts = np.array([len(row) for row in distinct], np.int64)
        labels = _Side("label", offsets_of(counts), ids, len(label_names))
    points = unchecked(
        features.offsets,
        features.ids,
        raw.feature_values,
        labels.offsets,
        labels.ids,
        features.size,
        labels.size,
    )
    notes = tuple(side.note for side in (features, labels) if side.note)
    return Table(points, "svmlight", label_names=label_names, notes=notes)


def _take_names(lines: _Lines) -> tuple[list[list[str]] | None, list[bytes]]:
    """(labels by name, rows without them) where labels are no ids, such as +1, -1 and 2.5."""
    firsts = [row.split(None, 1)[0] for row in lines.rows]
    firsts = [b"" if b":" in first else first for first in firsts]
    if all(first.replace(b",", b"").isdigit() for first in firsts if first):
        return None, lines.rows
    names = []
    for row, first in enumerate(firsts):
        if first and not re.fullmatch(_LABELS, first.decode("utf-8", "replace")):
            shown = first[:40].decode("utf-8", "replace")
            raise lines.error(
                row, f"label {shown!r} is not a number: must be one; number the labels"
            )
        names.append(first.decode().split(",") if first else [])
    rows = [b" " + row[len(first) :] for row, first in zip(lines.rows, firsts, strict=True)]
    return names, rows


def _parse(lines: _Lines, rows: list[bytes]) -> XmcData:
    """Points of ids as they are written, of as many features and labels as there could be."""
    header = b"%d %d %d\n" % (len(rows), MAX_SIZE, MAX_SIZE)
    try:
        arrays = parse_xmc(header + b"\n".join(rows) + b"\n")
    except ValueError as error:
        found = re.match(r"line (\d+): (.*)", str(error), re.S)
        assert found is not None
        cure = next((cure for sign, cure in _CURES if sign in found[2]), "give a text file")
        raise lines.error(int(found[1]) - 2, f"{found[2]}; {cure}") from None
    return unchecked(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


class _Side(NamedTuple):
    """Features, or labels."""

    what: str
    offsets: np.ndarray  # int64 [n + 1]
    ids: np.ndarray  # int32 [offsets[-1]]
    size: int
    note: str = ""

    @classmethod
    def of(cls, what: str, offsets: np.ndarray, ids: np.ndarray) -> _Side:
        return cls(what, offsets, ids, int(ids.max(initial=-1)) + 1)

    def shifted(self, lines: _Lines, base: int | None, size: int | None) -> _Side:
        """With ids from 0, and the size that a header promises."""
        option = "base" if self.what == "feature" else "label_base"
        first = base or 0
        if self.ids.size and self.ids.min() < first:
            raise lines.error(
                self._row(self.ids < first),
                f"{self.what} id 0: must be at least 1, since {option} is 1; leave it out",
            )
        ids = self.ids - np.int32(first)
        needed = max(self.size - first, 0)
        if size is not None and needed > size:
            largest = self.ids == self.size - 1
            raise lines.error(
                self._row(largest),
                f"{self.what} id {self.size - 1} is out of range: the header promises {size} "
                f"{self.what}s; mend the header, or say {option}=1 if ids start at 1",
            )
        note = ""
        if base is None and self.size > 2 and ids.min() == 1:
            note = (
                f"the smallest {self.what} id is 1: if ids start at 1 in this file, say "
                f"{option}=1 (--{option.replace('_', '-')} 1), else {option}=0"
            )
        return self._replace(ids=ids, size=needed if size is None else size, note=note)

    def _row(self, wrong: np.ndarray) -> int:
        return int(np.searchsorted(self.offsets, int(np.argmax(wrong)), side="right")) - 1


def _write(table: Table, files: int, options: Options) -> list[bytes]:
    points = table.points
    check_finite(points)
    first, first_label = options.base or 0, options.label_base or 0
    names = table.label_names
    numbers = names is not None and all(re.fullmatch(_NUMBER, name) for name in names)
    ids = points.label_ids.tolist()
    labels = [names[i] if numbers and names else str(i + first_label) for i in ids]
    values = format_values(points.feature_values)
    pairs = zip((points.feature_ids + np.int32(first)).tolist(), values, strict=True)
    features = [f"{i}:{v}" for i, v in pairs]
    f_off, l_off = points.feature_offsets.tolist(), points.label_offsets.tolist()
    rows = []
    for i in range(points.num_points):
        row = [",".join(labels[l_off[i] : l_off[i + 1]]), *features[f_off[i] : f_off[i + 1]]]
        if row == [""]:
            raise ValueError(
                f"point {i} has neither labels nor features: can't be written in kind svmlight, "
                "where blank lines are none; write xmc"
            )
        rows.append(" ".join(row) + "\n")
    return ["".join(rows).encode("ascii")]


KINDS = (
    Kind(
        name="svmlight",
        about="points of LIBSVM and svmlight, label,label id:value id:value",
        sign="lines of numbers joined by commas, then id:value pairs, without a header",
        fits=_fits,
        read=_read,
        write=_write,
        options=frozenset({"base", "label_base"}),
        suffixes=(".svm", ".svmlight", ".libsvm"),
        texts=False,
    ),
)
