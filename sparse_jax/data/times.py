"""Times as seconds: numbers, dates in ISO's form, and what tables have for them."""

from __future__ import annotations

import contextlib
import datetime
import math
import numbers
import re
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data.kinds.columns import is_missing

_UTC = re.compile(r" ?(UTC|GMT)$")  # as databases write it, which isn't ISO's form


class Moment(NamedTuple):
    """A cell of a column of times."""

    seconds: float  # of a date since 1970 in UTC; of a number, the number
    is_date: bool


def moment(value: Any) -> Moment:
    """Seconds of a number, a date or a text of either, and which of them it was.

    Raises:
        ValueError: something else.

    Example:
        >>> moment("2019-10-01 00:00:00 UTC")
        Moment(seconds=1569888000.0, is_date=True)
    """
    number = math.nan
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = float(value)
        with contextlib.suppress(ValueError):
            if math.isnan(number):
                value = datetime.datetime.fromisoformat(_UTC.sub("+00:00", value.strip()))
    is_date = False
    if isinstance(value, datetime.datetime) and not is_missing(value) and math.isnan(number):
        number, is_date = _seconds(value), True
    elif isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"= {value!r:.40}: must be a number or a date such as 2024-05-17; mend it, or drop "
            "the event"
        )
    return Moment(number, is_date)


def as_seconds(value: Any) -> float:
    """Seconds of a number, a date or a text of either.

    Raises:
        ValueError: something else.

    Example:
        >>> as_seconds("7"), as_seconds("1970-01-02")
        (7.0, 86400.0)
    """
    return moment(value).seconds


def seconds_of(name: str, values: Any) -> np.ndarray:
    """Times of a column in memory, whatever holds it.

    Args:
        name: of the argument, for messages.
        values: [E] numbers; or dates as NumPy, pandas, polars or Python have them, or texts.

    Returns:
        float64 [E], seconds; NaN where a time is missing.

    Raises:
        ValueError: something else, as a duration; numbers beside dates that are no Unix times.

    Example:
        >>> seconds_of("times", np.array(["1970-01-02", "NaT"], "M8[D]")).tolist()
        [86400.0, nan]
        >>> seconds_of("times", ["1970-01-01 00:01", "1970-01-02"]).tolist()
        [60.0, 86400.0]
    """
    array = np.asarray(values)
    if array.dtype.kind == "M":
        micro = array.astype("M8[us]")
        return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)
    if array.dtype.kind == "m":
        raise ValueError(f"{name} are durations: must be numbers or dates; add them to a date")
    if array.dtype.kind not in "OUST":
        return array.astype(np.float64)
    found, dates = np.full(array.shape, np.nan), np.zeros(array.shape, bool)
    for place, value in enumerate(array.ravel().tolist()):
        try:
            if not is_missing(value):
                found.flat[place], dates.flat[place] = moment(value)
        except ValueError as error:
            raise ValueError(f"{name}[{place}] {error}") from None
    odd = unclear(found, dates)
    if odd is not None:
        raise ValueError(f"{name}[{odd}] = {found.flat[odd]:.15g}: {MIXED}")
    return found


MIXED = "must be a Unix time in seconds, or a date, since others are dates; write all alike"


def unclear(seconds: np.ndarray, dates: np.ndarray) -> int | None:
    """The first number beside dates that is no Unix time: milliseconds, or 20240517 for a day.

    Args:
        seconds: float64 [E].
        dates: bool [E], which of them were dates.

    Returns:
        Its place; None where there are no such numbers, or no dates.

    Example:
        >>> unclear(np.array([20240517.0, 1.7e9]), np.array([False, True]))
        0
    """
    odd = ~dates & ((seconds >= 1e11) | ((seconds >= 19000101) & (seconds <= 20991231)))
    return int(np.argmax(odd)) if dates.any() and odd.any() else None


def _seconds(value: datetime.datetime) -> float:
    """Of a moment; one without a zone is taken for UTC's."""
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
