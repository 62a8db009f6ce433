"""Guesses what the columns of a table are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_jax.data.features import table as tables
from sparse_jax.data.features.schema import (
    Categories,
    Category,
    Cross,
    Date,
    Number,
    Schema,
    Spec,
    Text,
    name_of,
)

MAX_CROSSES = 28
"""All pairs of 8 columns; of more columns those with the fewest values are crossed."""
_LOOKED_AT = 2000  # rows
_SEPARATORS = "|;,"
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")


def guess(table: Any, *, target: str | Sequence[str] = ()) -> Schema:
    """What the columns of a table look like, from its first 2,000 rows.

    Dates and numbers are known by their dtype or, as texts, by what all of them look like; a text
    with a separator whose parts come again is several categories; one of many words is a text; any
    other is a category. Columns of one value, and texts that never come twice and are single words,
    say nothing and are left out. Histories can't be guessed. Pairs of categories, numbers and dates
    are crossed.

    Args:
      table: as for `fit`.
      target: columns to leave out.

    Returns:
      A `Schema` to print, change and give to `fit`.

    Raises:
      ValueError: if a target is no column, or no column is left.

    Example:
      >>> table = {"when": ["2024-05-31", "2024-06-01"] * 5, "tags": ["a|b", "b|a"] * 5}
      >>> print(guess(table))
      when: date
      tags: categories, separator = |
    """
    columns = tables.read_columns(table)
    targets = (target,) if isinstance(target, str) else tuple(target)
    for name in targets:
        tables.column_of(columns, name)
    specs: list[Spec] = []
    sizes: dict[str, int] = {}
    for name, column in columns.items():
        if name in targets:
            continue
        spec, distinct = _guess(name, column[:_LOOKED_AT])
        if spec is not None:
            specs.append(spec)
            if isinstance(spec, Category | Number | Date):
                sizes[name_of(spec)] = distinct
    if not specs:
        raise ValueError("table = no column that changes: must have one beside the target")
    pairs = sorted(
        itertools.combinations(sizes, 2), key=lambda pair: sizes[pair[0]] * sizes[pair[1]]
    )
    chosen = set(pairs[:MAX_CROSSES])
    specs += [Cross(*pair) for pair in itertools.combinations(sizes, 2) if pair in chosen]
    return Schema(tuple(specs))


def _guess(name: str, column: np.ndarray) -> tuple[Spec | None, int]:
    """(the spec of a column or None, how many codes crosses would have)."""
    if column.dtype.kind == "M":
        return Date(name), 57
    if column.dtype.kind == "b":
        return Category(name), 2
    known = [value for value in column.tolist() if not tables.is_missing(value)]
    if len(set(map(str, known))) < 2 and len(known) == column.size:
        return None, 0
    if column.dtype.kind in "iuf" or (known and all(_is_number(value) for value in known)):
        return Number(name), 10
    if known and all(_is_date(value) for value in known):
        return Date(name), 57
    return _guess_text(name, [str(value) for value in known])


def _guess_text(name: str, values: list[str]) -> tuple[Spec | None, int]:
    distinct = len(set(values))
    for separator in _SEPARATORS:
        parts = [part.strip() for value in values for part in value.split(separator)]
        several = sum(separator in value for value in values)
        words = np.mean([len(part.split()) for part in parts]) if parts else 0
        # Parts that come again and again; a sentence with commas has long ones that don't.
        if several > 0.2 * len(values) and len(set(parts)) <= 0.3 * len(parts) and words <= 2:
            return Categories(name, separator), 0
    words = np.mean([len(value.split()) for value in values]) if values else 0
    if words >= 3 and distinct > 0.2 * len(values):
        return Text(name), 0
    if distinct == len(values) and distinct > 10:
        return (Text(name), 0) if words >= 2 else (None, 0)
    return Category(name), distinct + 2


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_date(value: Any) -> bool:
    if isinstance(value, str):
        if not _DATE.fullmatch(value.strip()):
            return False
    try:
        tables.date_of(value)
    except (TypeError, ValueError):
        return False
    return True
