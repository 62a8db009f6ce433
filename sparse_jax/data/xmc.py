"""Reader and writer of the Extreme Classification Repository text format."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import zlib
from typing import Any

import numpy as np

from sparse_jax.ops.xmc_parser import parse_xmc
from sparse_jax.runtime.files import write_atomically


class XmcFormatError(ValueError):
    """A file that isn't in the format; `path` and `line` (from 1) say where."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        found = re.match(r"line (\d+):", message)
        self.line = int(found[1]) if found else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.message)


@dataclasses.dataclass(frozen=True, eq=False)
class XmcData:
    """Points with sparse features and sets of labels, in compressed sparse rows.

    Row `i` owns entries `feature_offsets[i]:feature_offsets[i + 1]` of `feature_ids` and
    `feature_values`, and likewise for labels. Ids keep the order of the file and are distinct
    within a row.

    Args:
        feature_offsets: int64 [num_points + 1], from 0, nondecreasing.
        feature_ids: int32 [feature_offsets[-1]], each in [0, num_features).
        feature_values: float32, one for each feature id.
        label_offsets: int64 [num_points + 1], from 0, nondecreasing.
        label_ids: int32 [label_offsets[-1]], each in [0, num_labels).
        num_features: number of columns of the feature matrix.
        num_labels: number of labels that exist, present in this file or not.

    Raises:
        ValueError: if the arrays don't fit together.

    Example:
        >>> data = XmcData(
        ...     np.array([0, 1, 3]), np.array([4, 0, 2], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 2, 2]), np.array([1, 0], np.int32), num_features=5, num_labels=2)
        >>> data.num_points, data.take([1]).feature_ids.tolist()
        (2, [0, 2])
    """

    feature_offsets: np.ndarray
    feature_ids: np.ndarray
    feature_values: np.ndarray
    label_offsets: np.ndarray
    label_ids: np.ndarray
    num_features: int
    num_labels: int

    def __post_init__(self) -> None:
        dtypes = dict(
            feature_offsets=np.int64,
            feature_ids=np.int32,
            feature_values=np.float32,
            label_offsets=np.int64,
            label_ids=np.int32,
        )
        for name, dtype in dtypes.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
                got = f"{getattr(value, 'dtype', type(value))} {getattr(value, 'shape', '')}"
                raise ValueError(
                    f"{name} must be a one-dimensional {np.dtype(dtype)} NumPy array, got {got}"
                )
        if self.feature_offsets.shape != self.label_offsets.shape:
            raise ValueError(
                "feature_offsets and label_offsets must have equal lengths, got "
                f"{self.feature_offsets.size} and {self.label_offsets.size}"
            )
        if self.feature_values.shape != self.feature_ids.shape:
            raise ValueError(
                "feature_values and feature_ids must have equal lengths, got "
                f"{self.feature_values.size} and {self.feature_ids.size}"
            )
        for kind, count in (("feature", self.num_features), ("label", self.num_labels)):
            offsets = getattr(self, f"{kind}_offsets")
            ids = getattr(self, f"{kind}_ids")
            ends_right = offsets.size > 0 and offsets[0] == 0 and offsets[-1] == ids.size
            if not ends_right or np.any(offsets[1:] < offsets[:-1]):
                raise ValueError(
                    f"{kind}_offsets must rise from 0 to the {ids.size} entries of {kind}_ids"
                )
            if ids.size and not (0 <= ids.min() and ids.max() < count):
                raise ValueError(
                    f"{kind}_ids must be in [0, {count}), found {ids.min()} to {ids.max()}"
                )

    @property
    def num_points(self) -> int:
        return self.feature_offsets.size - 1

    def take(self, rows: Any) -> XmcData:
        """The points at `rows` (any one-dimensional NumPy index: integers, mask, slice)."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)  # an empty list is an array of float
        rows = np.arange(self.num_points)[index]
        feature_index, feature_counts = gather_index(self.feature_offsets, rows)
        label_index, label_counts = gather_index(self.label_offsets, rows)
        return dataclasses.replace(
            self,
            feature_offsets=offsets_of(feature_counts),
            feature_ids=self.feature_ids[feature_index],
            feature_values=self.feature_values[feature_index],
            label_offsets=offsets_of(label_counts),
            label_ids=self.label_ids[label_index],
        )


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """CSR offsets int64 [n + 1] of row lengths [n]."""
    offsets = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def gather_index(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the entries of `rows`, one row after the other, and each row's length."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum()), counts


def read_xmc(path: str | os.PathLike[str]) -> XmcData:
    """Read a file of the Extreme Classification Repository, plain or gzip-compressed.

    The first line is `points features labels`; each further line is one point,
    `label,label feature:value feature:value`. A point without labels begins with a space or
    directly with a feature; one without features is its labels alone; an empty line has
    neither. Compression is recognised by content, not by name. Ids start at 0. An id that comes
    twice in one row is an error, since summing, overwriting and ignoring are equally plausible.

    Args:
        path: the file.

    Returns:
        The data, in the order of the file.

    Raises:
        XmcFormatError: a malformed row, an id out of range, a value that isn't a finite float32,
            a repeated id, more or fewer rows than the header promises, bytes that aren't text, a
            damaged gzip stream, an empty file. The message begins with the path and the line.
        OSError: the file can't be read.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "two.txt")
        >>> _ = path.write_text("2 10 4\\n1,3 0:1 7:2.5\\n 9:1\\n")
        >>> read_xmc(path).label_ids.tolist()
        [1, 3]

    References:
        Bhatia et al., The Extreme Classification Repository, 2016 (section on the data format).
    """
    name = os.fspath(path)
    content = _read_bytes(name)
    try:
        arrays = parse_xmc(content)
    except ValueError as error:
        raise XmcFormatError(name, str(error)) from None
    return XmcData(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


def write_xmc(path: str | os.PathLike[str], data: XmcData) -> None:
    """Write `data` so that `read_xmc` gives it back bit for bit; gzip if the name ends in `.gz`.

    The file appears under its name only once it is complete, and equal data give equal bytes.

    Args:
        path: the file to create or replace.
        data: what to write; its values must be finite and ids distinct within a row.

    Raises:
        ValueError: a value that isn't finite.

    Example:
        >>> import pathlib, tempfile
        >>> one = XmcData(
        ...     np.array([0, 1]), np.array([4], np.int32), np.ones(1, np.float32),
        ...     np.array([0, 0]), np.array([], np.int32), num_features=5, num_labels=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_xmc(f"{folder}/one.txt", one)
        ...     pathlib.Path(folder, "one.txt").read_text()
        '1 5 2\\n 4:1\\n'
    """
    if not np.isfinite(data.feature_values).all():
        where = int(np.flatnonzero(~np.isfinite(data.feature_values))[0])
        point = int(np.searchsorted(data.feature_offsets, where, side="right")) - 1
        raise ValueError(f"feature_values of point {point} hold {data.feature_values[where]}")
    # Few distinct values occur; bit patterns keep -0.0 apart from 0.0.
    bits, inverse = np.unique(data.feature_values.view(np.uint32), return_inverse=True)
    texts = [_format_float32(value) for value in bits.view(np.float32)]
    features = [
        f"{i}:{texts[v]}" for i, v in zip(data.feature_ids.tolist(), inverse.tolist(), strict=True)
    ]
    labels = [str(i) for i in data.label_ids.tolist()]
    lines = [f"{data.num_points} {data.num_features} {data.num_labels}"]
    f_off, l_off = data.feature_offsets.tolist(), data.label_offsets.tolist()
    for i in range(data.num_points):
        row = [",".join(labels[l_off[i] : l_off[i + 1]]), *features[f_off[i] : f_off[i + 1]]]
        lines.append(" ".join(row))
    content = ("\n".join(lines) + "\n").encode("ascii")
    name = os.fspath(path)
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    write_atomically(name, content)


def _format_float32(value: np.float32) -> str:
    text = str(value).removesuffix(".0")
    # The shortest decimal is read back through a double; keep it only if that rounds the same.
    return text if np.float32(float(text)) == value else f"{float(value):.17g}"


def _read_bytes(name: str) -> bytes:
    with open(name, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not compressed:
            return file.read()
        chunks: list[bytes] = []
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                while chunk := stream.read(1 << 20):
                    chunks.append(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            line = 1 + sum(chunk.count(b"\n") for chunk in chunks)
            raise XmcFormatError(
                name, f"line {line}: the gzip stream is damaged here or later ({error})"
            ) from None
        return b"".join(chunks)
