"""Checks of arguments that functions of every room make."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["check_kind", "check_whole"]


def check_whole(name: str, value: Any, *, least: int = 1) -> int:
    """Refuses what is no whole number, or too small a one.

    Args:
      name: of the argument.
      value: what was given; integers of NumPy and JAX are whole numbers, too.
      least: the smallest that may be.

    Returns:
      It, as Python's.

    Raises:
      TypeError: if it is no whole number. ValueError: if it is below `least`.

    Example:
      >>> check_whole("k", 3)
      3
      >>> check_whole("k", "3")
      Traceback (most recent call last):
      TypeError: k = '3': must be a whole number; convert it by int(k)
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} = {value!r:.40}: must be a whole number; convert it by int({name})"
        ) from None
    if number < least:
        raise ValueError(f"{name} = {number}: must be at least {least}")
    return number


def check_kind(name: str, value: Any, kind: type, cure: str) -> None:
    """Refuses what is not of a class.

    Args:
      name: of the argument.
      value: what was given.
      kind: what it must be an instance of.
      cure: what to do, for the message.

    Raises:
      TypeError: if it is of another class.

    Example:
      >>> check_kind("where", "kind", dict, "give {field: value}")
      Traceback (most recent call last):
      TypeError: where = 'kind': must be a dict; give {field: value}
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} = {value!r:.40}: must be a {kind.__name__}; {cure}")
