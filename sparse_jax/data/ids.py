"""Names of users and items as tables hold them: the same in files of events and of items."""

from __future__ import annotations

import decimal
import numbers
import os
import re
from collections.abc import Sequence
from typing import Any

from sparse_jax.data.errors import FormatError
from sparse_jax.data.event_kinds import plain
from sparse_jax.data.kinds import cells
from sparse_jax.data.kinds.base import Source
from sparse_jax.data.kinds.columns import as_name, is_missing

_MISSING = ("nan", "NaN", "<NA>", "null", "NULL", "None", "none")  # what programs write for none


def check_file(path: Any, cure: str) -> None:
    """Refuses what is neither a path nor an open file.

    Args:
        path: what was given.
        cure: for the message.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(path, str | os.PathLike) and not hasattr(path, "read"):
        raise TypeError(f"path is a {type(path).__name__}: must be a file; {cure}")


def columns_of(source: Source, kind: str) -> dict[str, Any]:
    """The columns of a table by name, without RecBole's types behind the names.

    Args:
        source: of the file.
        kind: one of `cells.TABLES`.

    Raises:
        FormatError: a malformed file, or two columns of one name.
    """
    found: dict[str, Any] = {}
    for written, values in cells.read_cells(source, kind).items():
        name = plain(written)
        if name in found:
            raise FormatError(source.name, f"line 1: two columns are named {name!r}; rename one")
        found[name] = values
    return found


def name_of(cell: Any) -> str:
    """The name in a cell; "" if it holds none, or something else.

    Example:
        >>> name_of(" tea "), name_of(7.0), name_of(decimal.Decimal(7)), name_of(None)
        ('tea', '7', '7', '')
    """
    if isinstance(cell, decimal.Decimal) and cell == cell.to_integral_value():
        cell = int(cell)  # as databases give ids
    if isinstance(cell, numbers.Real) and not is_missing(cell):
        return as_name(cell)
    return cell.strip() if isinstance(cell, str) else ""


def without_point_zero(names: list[str]) -> list[str]:
    """Ids as whole numbers where all are: "3.0" is what a column with gaps makes of 3.

    Example:
        >>> without_point_zero(["3.0", "4"]), without_point_zero(["3.0", "x"])
        (['3', '4'], ['3.0', 'x'])
    """
    number = re.compile(r"\d+(\.0)?")
    if not any(name.endswith(".0") for name in names) or not all(map(number.fullmatch, names)):
        return names
    return [name.removesuffix(".0") for name in names]


def missing_names(rows: str, role: str, names: Sequence[str]) -> list[str]:
    """A note of each name that programs write where there is none.

    Args:
        rows: what has them, as "events".
        role: what they are, as "item".
        names: of each row.
    """
    counts = {name: names.count(name) for name in sorted(set(_MISSING) & set(names))}
    return [
        f"{count:,} {rows} have the {role} {name!r}, which is taken for a "
        f"{'text' if role == 'text' else 'name'}; drop them if it stands for none"
        for name, count in counts.items()
    ]
