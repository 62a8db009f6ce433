"""Reading JSONL files, whose bad lines are named."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line of a JSONL file in UTF-8, gzipped or not.

    Raises:
      ValueError: at a line that is no JSON object, or no UTF-8; it names the line.
      OSError: if the file can't be read.
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
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start} is no UTF-8: convert the file "
                    f"(iconv -t utf-8)"
                ) from None
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number}: must be an object, got {type(row).__name__}"
                )
            yield number, row
