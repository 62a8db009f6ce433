"""Reading JSONL files, whose bad lines are named."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_jax.data.encoding import without_mark


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line of a JSONL file in UTF-8, gzipped or not.

    A byte order mark before the first line is no part of it; empty lines are left out.

    Args:
        path: the file; gzip if its name ends in `.gz`.

    Raises:
        ValueError: at a line that is no JSON object, or no UTF-8; it names the line.
        OSError: if the file can't be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "two.jsonl")
        >>> _ = path.write_text('{"a": 1}\\n\\n{"a": 2}\\n')
        >>> list(read_jsonl(path))
        [(1, {'a': 1}), (3, {'a': 2})]
    """
    path = Path(path)
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    with opened as file:
        number = 0
        while True:
            try:
                line = file.readline()
            except (EOFError, OSError, zlib.error) as error:
                raise ValueError(f"{path}, after line {number}: {error}") from error
            if not line:
                return
            number += 1
            if number == 1:
                try:
                    line = without_mark(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line 1: {error}") from None
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start} is no UTF-8: convert the file "
                    f"(iconv -t utf-8)"
                ) from None
            except (
                ValueError,
                RecursionError,
            ) as error:  # of numbers with thousands of digits, too
                raise ValueError(f"{path}, line {number}: is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number}: must be an object, got {type(row).__name__}"
                )
            yield number, row
