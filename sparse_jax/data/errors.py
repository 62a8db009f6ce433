"""The one error of malformed files of points."""

from __future__ import annotations

import re
from typing import Any


class FormatError(ValueError):
    """A file that isn't in its format; `path` and `line` (from 1) say where.

    Args:
        path: the file's name.
        message: what is wrong and what helps; begins with "line N: " where a line is at fault.

    Example:
        >>> error = FormatError("a.csv", "line 3: has 2 cells: must have 3")
        >>> error.line, str(error)
        (3, 'a.csv: line 3: has 2 cells: must have 3')
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        found = re.match(r"line (\d+):", message)
        self.line = int(found[1]) if found else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.message)


_CURES = (
    ("file is empty", "give the file that holds the points"),
    ("not ''", "delete the empty lines before it"),
    ("three whole numbers", "write it there, or read the file as another kind"),
    ("exceeds", "number the ids anew"),
    ("ends after", "complete the file, or mend the header"),
    ("more rows follow", "mend the header"),
    ("is out of range", "mend the header, or read ids from 1 as svmlight with base 1"),
    ("more than once", "join its entries"),
    ("feature value", "mend or drop this entry"),
    ("expected feature:value", "join labels by commas alone, and write features as id:value"),
    ("is negative", "number ids from 0"),
    ("is not a whole number", "write ids as whole numbers, labels joined by commas"),
    ("not ASCII", "give a text file; a name is no id"),
)


def with_cure(message: str) -> str:
    """What the parser of points says, with what helps.

    Args:
        message: of `ops.xmc_parser.parse_xmc`.

    Example:
        >>> with_cure("line 1: the file is empty")
        'line 1: the file is empty; give the file that holds the points'
    """
    cure = next((cure for sign, cure in _CURES if sign in message), None)
    return message if cure is None else f"{message}; {cure}"
