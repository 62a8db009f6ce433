"""Tables of any make as columns: strings, numbers or dates, with None, NaN or NaT where missing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_jax.data.kinds.columns import is_missing as is_no_cell

Columns = dict[str, np.ndarray]


def read_columns(table: Any) -> Columns:
    """The columns of a table, by name.

    Args:
      table: a dict of sequences, or what has `columns` and gives a column by name, as frames of
        pandas and polars do.

    Returns:
      Arrays of equal length, of whatever dtype they have.

    Raises:
      TypeError: something that is no table.
      ValueError: columns of different lengths, or none.
    """
    if isinstance(table, Mapping):
        given = {str(name): table[name] for name in table}
    elif hasattr(table, "columns") and hasattr(table, "__getitem__"):
        given = {str(name): table[name] for name in table.columns}
    else:
        raise TypeError(
            f"table = {type(table).__name__}: must be a dict of columns, or a frame of pandas or "
            "polars; give names to your columns"
        )
    columns = {name: _array(name, values) for name, values in given.items()}
    lengths = {name: column.size for name, column in columns.items()}
    if not lengths:
        raise ValueError("table = no columns: must have at least one")
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise ValueError(
                f"table[{name!r}] = {length} rows: must have as many as {first!r}, "
                f"{lengths[first]}; give each row a value, None where there is none"
            )
    return columns


def column_of(columns: Columns, name: str) -> np.ndarray:
    """A column of a table.

    Raises:
      ValueError: if there is none of that name.
    """
    if name not in columns:
        raise ValueError(
            f"column = {name!r}: must be one of the table, {', '.join(columns)}; mend the schema "
            "or the table"
        )
    return columns[name]


def is_missing(value: Any) -> bool:
    """Whether a value is none: None, NaN, NaT, pandas' NA, or an empty text.

    Example:
      >>> [is_missing(x) for x in (None, float("nan"), "", " ", 0, np.datetime64("NaT", "s"))]
      [True, True, True, True, False, True]
    """
    if isinstance(value, str):
        return not value.strip()
    return is_no_cell(value) or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


def strings(column: np.ndarray) -> list[str | None]:
    """Values as texts; 3 and 3.0 are one, as a missing value makes floats of integers."""
    if column.dtype.kind == "M":
        return [None if x is None else x.isoformat() for x in _datetimes(column)]
    return [None if is_missing(value) else _text(value) for value in column.tolist()]


def numbers(name: str, column: np.ndarray) -> np.ndarray:
    """Values as float64, NaN where missing or infinite.

    Raises:
      ValueError: at the first value that is no number.
    """
    if column.dtype.kind in "biuf":
        found = column.astype(np.float64)
    else:
        found = np.empty(column.size)
        for i, value in enumerate(column.tolist()):
            try:
                found[i] = np.nan if is_missing(value) else float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"table[{name!r}][{i}] = {value!r:.60}: must be a number or missing; mend it, "
                    "or make the column a category"
                ) from None
    return np.where(np.isfinite(found), found, np.nan)


def dates(name: str, column: np.ndarray) -> np.ndarray:
    """Values as datetime64[s] in UTC, NaT where missing.

    Raises:
      ValueError: at the first value that is no date.
    """
    if column.dtype.kind == "M":
        return column.astype("datetime64[s]")
    found = np.empty(column.size, "datetime64[s]")
    for i, value in enumerate(column.tolist()):
        try:
            found[i] = "NaT" if is_missing(value) else date_of(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"table[{name!r}][{i}] = {value!r:.60}: must be a date such as 2024-05-31 or "
                "2024-05-31T12:30:00, or missing; mend it, or make the column a category"
            ) from None
    return found


def date_of(value: Any) -> np.datetime64:
    """One date, of a text in ISO 8601 or a date of Python's.

    Raises:
      TypeError, ValueError: if it is none.
    """
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.strip())
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[s]")
    if not isinstance(value, datetime.date):
        raise TypeError("no date")
    return np.datetime64(value, "s")


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise TypeError(
            f"table[{name!r}] = {type(values).__name__}: must be a sequence of values, one for "
            "each row"
        )
    if hasattr(values, "to_numpy"):
        found = np.asarray(values.to_numpy())
    elif isinstance(values, np.ndarray):
        found = values
    else:
        # One by one: of strings and numbers in one list NumPy would make strings.
        found = np.empty(len(values), object)
        found[:] = list(values)
        kinds = {type(value) for value in values}
        if kinds and kinds <= {int, float, bool}:
            found = np.asarray(values, bool if kinds == {bool} else np.float64)
    if found.ndim != 1:
        raise ValueError(f"table[{name!r}].ndim = {found.ndim}: must be 1, a value for each row")
    return found


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _datetimes(column: np.ndarray) -> list[Any]:
    return column.astype("datetime64[s]").astype(object).tolist()
