"""A share of a points file: what one of many processes reads of it, by byte ranges.

The bytes behind the header are cut into equal ranges; a line belongs to the range that its first
byte lies in. So every line is in one share, whatever their lengths; a share may be empty.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from sparse_jax.data.encoding import read_bytes, without_mark
from sparse_jax.data.errors import FormatError
from sparse_jax.data.xmc import XmcData, from_bytes

_GZIP = b"\x1f\x8b"
_LINE = 1 << 20  # bytes looked at once for the end of a line
_HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s+(\d+)\s*")


class Share(NamedTuple):
    """Points of a share, and what the header promises of the whole; `read_share` makes it."""

    points: XmcData
    num_points: int  # of the whole file, as its header says: the sum over all shares


def read_share(path: str | os.PathLike[str], index: int, count: int) -> Share:
    """Reads one of `count` shares of a file in the Extreme Classification Repository's format.

    A plain file is read from its range alone. A gzip-compressed one has to be decompressed whole.

    Args:
      path: the file.
      index: which share, from 0.
      count: how many there are.

    Returns:
      `Share`. Points keep the order of the file: the shares one after the other are all of it.

    Raises:
      FormatError: as `read_xmc`, with the line of the whole file; but for more or fewer rows than
        the header promises, which no share can see: compare the sum over all with `num_points`.
      ValueError: if index is out of range.
      OSError: if the file can't be read.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "three.txt")
      >>> _ = path.write_text("3 10 4\\n1,3 0:1 7:2.5\\n 9:1\\n2 8:1\\n")
      >>> [read_share(path, i, 2).points.num_points for i in (0, 1)]
      [1, 2]
    """
    if not 0 <= index < count:
        raise ValueError(f"index = {index}: must be from 0 to {count - 1}")
    name = os.fspath(path)
    with open(name, "rb") as file:
        if file.read(2) == _GZIP:
            return _of_whole(name, index, count)
        file.seek(0)
        first = file.readline(_LINE)
        sizes = _sizes(first, name)
        end = file.seek(0, os.SEEK_END)
        start, stop = (_line_at(file, len(first), end, part, count) for part in (index, index + 1))
        file.seek(start)
        content = file.read(stop - start)
        return _parse(content, sizes, name, lambda: _lines_before(file, start))


def _of_whole(name: str, index: int, count: int) -> Share:
    try:
        content = read_bytes(name)
    except ValueError as error:
        raise FormatError(name, str(error)) from None
    header = content.find(b"\n") + 1 or len(content)
    sizes = _sizes(content[:header], name)

    def line_at(part: int) -> int:
        at = header + (len(content) - header) * part // count
        return content.find(b"\n", at - 1) + 1 or len(content)

    start, stop = line_at(index), line_at(index + 1)
    return _parse(content[start:stop], sizes, name, lambda: content.count(b"\n", 0, start))


def _sizes(first: bytes, name: str) -> tuple[int, int, int]:
    """What a header says; the reader of whole files tells what is wrong with it."""
    try:
        header = without_mark(first)
    except ValueError as error:
        raise FormatError(name, f"line 1: {error}") from None
    found = _HEADER.fullmatch(header)
    if found is None:
        from_bytes(header, name)  # says what is wrong with it
        raise FormatError(name, "line 1: must be `points features labels`; write it there")
    rows, features, labels = (int(x) for x in found.groups())
    from_bytes(b"0 %d %d\n" % (features, labels), name)  # refuses sizes out of range
    return rows, features, labels


def _line_at(file: BinaryIO, header: int, end: int, part: int, count: int) -> int:
    """Where the first line begins that is of range `part` or behind it."""
    at = header + (end - header) * part // count
    if at >= end:
        return end
    file.seek(at - 1)  # a line that begins exactly here is behind a newline
    while piece := file.read(_LINE):
        found = piece.find(b"\n")
        if found >= 0:
            return min(file.tell() - len(piece) + found + 1, end)
    return end


def _lines_before(file: BinaryIO, start: int) -> int:
    file.seek(0)
    found = 0
    while file.tell() < start:
        found += file.read(min(_LINE, start - file.tell())).count(b"\n")
    return found


def _parse(
    content: bytes, sizes: tuple[int, int, int], name: str, before: Callable[[], int]
) -> Share:
    rows = content.count(b"\n") + (bool(content) and not content.endswith(b"\n"))
    text = b"%d %d %d\n%b" % (rows, *sizes[1:], content)
    try:
        return Share(from_bytes(text, name), sizes[0])
    except FormatError as error:
        # The parser counts from this share's own header, which stands in place of the real lines.
        shift = before() - 1
        moved = re.sub(r"^line (\d+)", lambda m: f"line {int(m[1]) + shift}", error.message)
        raise FormatError(name, moved) from None
