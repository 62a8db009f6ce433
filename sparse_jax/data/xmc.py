"""Reader and writer of the Extreme Classification Repository text format."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from typing import Any

import numpy as np

from sparse_jax.data.encoding import read_bytes, without_mark
from sparse_jax.data.errors import FormatError, with_cure
from sparse_jax.data.numbers import format_values
from sparse_jax.ops.xmc_parser import parse_xmc
from sparse_jax.runtime.files import write_atomically

MAX_SIZE = 2**31 - 1
"""The most features, or labels, that int32 ids can tell apart."""


XmcFormatError = FormatError


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
        ValueError: if the arrays don't fit together, or a point holds an id twice.

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
                    f"{name} = {got}: must be a one-dimensional {np.dtype(dtype)} NumPy array; "
                    f"convert it with np.asarray(..., np.{np.dtype(dtype)})"
                )
        if self.feature_offsets.shape != self.label_offsets.shape:
            raise ValueError(
                f"label_offsets.size = {self.label_offsets.size}: must be that of feature_offsets, "
                f"{self.feature_offsets.size}; give one more than there are points for each"
            )
        if self.feature_values.shape != self.feature_ids.shape:
            raise ValueError(
                f"feature_values.size = {self.feature_values.size}: must be that of feature_ids, "
                f"{self.feature_ids.size}; give one value for each id"
            )
        for kind, count in (("feature", self.num_features), ("label", self.num_labels)):
            check_size(f"num_{kind}s", count)
            offsets = getattr(self, f"{kind}_offsets")
            ids = getattr(self, f"{kind}_ids")
            ends_right = offsets.size > 0 and offsets[0] == 0 and offsets[-1] == ids.size
            if not ends_right or np.any(offsets[1:] < offsets[:-1]):
                raise ValueError(
                    f"{kind}_offsets = {_brief(offsets)}: must rise from 0 to the {ids.size} "
                    f"entries of {kind}_ids; see offsets_of"
                )
            if ids.size and not (0 <= ids.min() and ids.max() < count):
                raise ValueError(
                    f"{kind}_ids = {ids.min()} to {ids.max()}: must be in [0, {count}); ids start "
                    f"at 0, and num_{kind}s is one more than the largest may be"
                )
            twice = _find_repeated(offsets, ids)
            if twice is not None:
                point, repeated = twice
                raise ValueError(
                    f"{kind}_ids = {repeated} twice in point {point}: must be distinct within a "
                    "point; sum or drop the repeats, as data.from_csr does"
                )

    @property
    def num_points(self) -> int:
        return self.feature_offsets.size - 1

    def take(self, rows: Any) -> XmcData:
        """Some of the points.

        Args:
            rows: any one-dimensional NumPy index: integers, a mask, a slice.

        Returns:
            Points of the same features and labels.
        """
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)  # an empty list is an array of float
        rows = np.arange(self.num_points)[index]
        feature_index, feature_counts = gather_index(self.feature_offsets, rows)
        label_index, label_counts = gather_index(self.label_offsets, rows)
        return unchecked(
            offsets_of(feature_counts),
            self.feature_ids[feature_index],
            self.feature_values[feature_index],
            offsets_of(label_counts),
            self.label_ids[label_index],
            self.num_features,
            self.num_labels,
        )


def unchecked(
    feature_offsets: np.ndarray,
    feature_ids: np.ndarray,
    feature_values: np.ndarray,
    label_offsets: np.ndarray,
    label_ids: np.ndarray,
    num_features: int,
    num_labels: int,
) -> XmcData:
    """`XmcData` of arrays that are right by construction: for the readers and views of this room.

    Args:
        feature_offsets: as for `XmcData`, like all others.
        feature_ids: int32.
        feature_values: float32.
        label_offsets: int64.
        label_ids: int32.
        num_features: columns of the feature matrix.
        num_labels: labels that exist.

    Returns:
        The same as `XmcData(...)`, without its passes over all entries.
    """
    arrays = (feature_offsets, feature_ids, feature_values, label_offsets, label_ids)
    points = object.__new__(XmcData)
    values = (*arrays, num_features, num_labels)
    for field, value in zip(dataclasses.fields(XmcData), values, strict=True):
        object.__setattr__(points, field.name, value)
    return points


def fingerprint(points: XmcData) -> str:
    """A digest of points with all their features and labels: other data have another one.

    Args:
        points: any.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> one = XmcData(
        ...     np.array([0, 1]), np.array([4], np.int32), np.ones(1, np.float32),
        ...     np.array([0, 0]), np.array([], np.int32), num_features=5, num_labels=2)
        >>> fingerprint(one) == fingerprint(dataclasses.replace(one, num_labels=3))
        False
    """
    digest = hashlib.blake2b(f"{points.num_features} {points.num_labels}".encode(), digest_size=8)
    for field in dataclasses.fields(points):
        value = getattr(points, field.name)
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    return digest.hexdigest()


def with_values(points: XmcData, values: np.ndarray) -> XmcData:
    """The same points with other feature values: float32 [feature_offsets[-1]]."""
    return unchecked(
        points.feature_offsets,
        points.feature_ids,
        values,
        points.label_offsets,
        points.label_ids,
        points.num_features,
        points.num_labels,
    )


def check_size(name: str, size: int) -> None:
    """Refuses a number of features or labels that int32 ids can't have."""
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"{name} = {size}: must be from 0 to {MAX_SIZE}; ids are int32")


def check_finite(points: XmcData) -> None:
    """Refuses values that are not finite, by the name of the first one's point and feature."""
    wrong = ~np.isfinite(points.feature_values)
    if wrong.any():
        where = int(np.argmax(wrong))
        point = int(np.searchsorted(points.feature_offsets, where, side="right")) - 1
        raise ValueError(
            f"feature_values = {points.feature_values[where]} in point {point}, feature "
            f"{points.feature_ids[where]}: must be finite; mend or drop this entry"
        )


def _brief(values: np.ndarray) -> str:
    return np.array2string(values, threshold=8, edgeitems=3, separator=", ")


def _find_repeated(offsets: np.ndarray, ids: np.ndarray) -> tuple[int, int] | None:
    """The first point that holds an id twice, and that id."""
    ascends = ids[1:] > ids[:-1]
    starts = offsets[1:-1]
    ascends[starts[(starts > 0) & (starts < ids.size)] - 1] = True  # from one point to the next
    descents = np.flatnonzero(~ascends)
    if not descents.size:  # the usual case, at the cost of one comparison an entry
        return None
    unsorted = np.zeros(offsets.size - 1, np.bool_)
    unsorted[np.searchsorted(offsets, descents, side="right") - 1] = True
    rows = np.flatnonzero(unsorted)
    index, counts = gather_index(offsets, rows)
    keys = np.repeat(np.arange(rows.size) << 32, counts) | ids[index]
    keys.sort()
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if not twice.size:
        return None
    key = int(keys[twice[0]])
    return int(rows[key >> 32]), key & 0xFFFFFFFF


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
    neither. Compression is recognised by content, not by name; a byte order mark before the header
    is no part of it. Ids start at 0. An id that comes twice in one row is an error, since summing,
    overwriting and ignoring are equally plausible.

    Args:
        path: the file.

    Returns:
        The data, in the order of the file.

    Raises:
        XmcFormatError: a malformed row, an id out of range, a value that isn't a finite float32,
            a repeated id, more or fewer rows than the header promises, bytes that aren't text, a
            damaged gzip stream, an empty file, UTF-16. The message begins with the path and line.
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
    try:
        content = read_bytes(name)
    except ValueError as error:
        raise FormatError(name, str(error)) from None
    return from_bytes(content, name)


def from_bytes(content: bytes, name: str) -> XmcData:
    """What `read_xmc` reads, from the bytes of the file, decompressed; `name` is for messages."""
    try:
        content = without_mark(content)
    except ValueError as error:
        raise FormatError(name, f"line 1: {error}") from None
    try:
        arrays = parse_xmc(content)
    except ValueError as error:
        raise FormatError(name, with_cure(str(error))) from None
    return unchecked(*arrays[:5], num_features=arrays[6], num_labels=arrays[7])


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
    content = to_bytes(data)
    name = os.fspath(path)
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    write_atomically(name, content)


def to_bytes(data: XmcData) -> bytes:
    """What `write_xmc` writes, before compression."""
    check_finite(data)
    values = format_values(data.feature_values)
    features = [f"{i}:{v}" for i, v in zip(data.feature_ids.tolist(), values, strict=True)]
    labels = [str(i) for i in data.label_ids.tolist()]
    lines = [f"{data.num_points} {data.num_features} {data.num_labels}"]
    f_off, l_off = data.feature_offsets.tolist(), data.label_offsets.tolist()
    for i in range(data.num_points):
        row = [",".join(labels[l_off[i] : l_off[i + 1]]), *features[f_off[i] : f_off[i + 1]]]
        lines.append(" ".join(row))
    return ("\n".join(lines) + "\n").encode("ascii")
