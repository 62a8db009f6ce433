"""What the readers of collections share: lines, grades, and which split is meant."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from sparse_jax.data.plain import read as read_text

__all__ = ["Qrels", "head", "one_split", "rows_of"]


class Qrels(dict[str, dict[str, float]]):
    """Grades by query and document. A pair that comes twice keeps its last grade."""

    def add(self, file: Path, line: int, query: str, document: str, grade: str) -> None:
        """Adds a row.

        Raises:
          ValueError: if the grade is no finite number; it names the line.
        """
        try:
            value = float(grade)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{file}, line {line}: grade = {grade!r}: must be a finite number")
        self.setdefault(query, {})[document] = value


def rows_of(file: Path, sign: str | None) -> Iterator[tuple[int, list[str]]]:
    """(number, cells) of the lines that aren't blank; a sign of None parts at any white space."""
    for number, line in enumerate(read_text(file).text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r").split(sign)


def head(file: Path, size: int = 1 << 16) -> list[str]:
    """Whole lines in the first bytes of a text file, decompressed; none if it is no text."""
    with open(file, "rb") as opened:
        is_gzip = opened.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if is_gzip else open)(file, "rb") as opened:
            content = opened.read(size)
    except (OSError, EOFError, zlib.error):
        return []
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    lines = text.splitlines() if "\0" not in text else []
    return lines[:-1] if len(content) == size and len(lines) > 1 else lines


def one_split(path: Path, files: Mapping[str, Path], split: str | None) -> Path:
    """The file of a split: the one named, the only one, or `test`.

    Raises:
      ValueError: if there is none, or it can't be said which.
    """
    known = ", ".join(files)
    if split is not None and split not in files:
        raise ValueError(f"{path}: split = {split!r}: must be one of {known or 'none is there'}")
    if not files:
        raise ValueError(f"{path}: holds no judgements (qrels): evaluate needs some")
    if split is None and len(files) > 1 and "test" not in files:
        raise ValueError(
            f"{path}: has judgements of {known}: say of which with split=NAME (--split NAME)"
        )
    return files[split or ("test" if "test" in files else next(iter(files)))]
