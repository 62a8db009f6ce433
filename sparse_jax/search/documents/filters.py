"""Filters by metadata: a value, one of several, or a range.

{"kind": "fruit"}                 is that
{"kind": ["fruit", "tree"]}       is one of these
{"year": {">": 2005, "<=": 2010}} lies in a range: all of it must hold
{"kind": {"not in": ["tree"]}}    is none of these
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

__all__ = ["OPERATORS", "Condition", "parse"]

_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = ("=", "!=", "in", "not in", *_RANGES)


class Condition(NamedTuple):
    """What one key of the metadata must be."""

    key: str
    wanted: list[Set[tuple[bool, Any]]]  # it must be in each
    unwanted: list[Set[tuple[bool, Any]]]  # and in none of these
    ranges: list[tuple[str, Any]]  # operator, operand

    def allows(self, value: Any) -> bool:
        """Whether a value meets it.

        Example:
          >>> condition = parse({"year": {">": 2005, "!=": 2008}})["year"]
          >>> [condition.allows(year) for year in (2005, 2006, 2008, "2009")]
          [False, True, False, False]
        """
        one = _typed(value)
        return (
            all(one in values for values in self.wanted)
            and not any(one in values for values in self.unwanted)
            and all(
                _order(value) == _order(operand) and _RANGES[name](value, operand)
                for name, operand in self.ranges
            )
        )

    def check_ranges(self, values: Iterable[Any]) -> None:
        """Refuses a range that no value can lie in, as it is of another type.

        Raises:
          TypeError: if there are values, and none of the type of an operand.
        """
        if not self.ranges:
            return
        have = {_order(value) for value in values} - {None}
        for name, operand in self.ranges:
            if have and _order(operand) not in have:
                raise TypeError(
                    f"where[{self.key!r}] = {{{name!r}: {operand!r}}}: must be a "
                    f"{' or a '.join(sorted(map(str, have)))}, as the documents have there; a "
                    f"{_order(operand)} is neither above nor below it"
                )


def parse(where: Mapping[str, Any]) -> dict[str, Condition]:
    """Reads a filter.

    Args:
      where: for each key a value; a list, tuple or set of values, of which it must be one; or a
        mapping of operators, `OPERATORS`, to values, all of which must hold. Values are equal as in
        JSON: 1 is 1.0, but neither True nor "1"; None is null. Ranges compare numbers with numbers,
        and strings with strings, by code points.

    Returns:
      The conditions by key.

    Raises:
      TypeError: if it is no mapping, or a value is of no type of metadata. ValueError: if an
        operator is unknown.

    Example:
      >>> parse({"year": {"in": [2005, 2006]}})["year"].allows(2005.0)
      True
    """
    if not isinstance(where, Mapping):
        raise TypeError(f"where = {where!r:.40}: must be a mapping; give {{field: value}}")
    return {key: _condition(key, value) for key, value in where.items()}


def _condition(key: str, value: Any) -> Condition:
    condition = Condition(key, [], [], [])
    if not isinstance(value, Mapping):
        condition.wanted.append(_values(f"where[{key!r}]", value))
        return condition
    if not value:
        raise ValueError(f"where[{key!r}] = {{}}: must have an operator: {', '.join(OPERATORS)}")
    for name, operand in value.items():
        told = f"where[{key!r}][{name!r}]"
        if name not in OPERATORS:
            raise ValueError(
                f"where[{key!r}] = {dict(value)!r}: {name!r} is no operator; known are "
                f"{', '.join(OPERATORS)}"
            )
        if name in _RANGES:
            condition.ranges.append((name, _operand(told, operand)))
            continue
        if (name in ("in", "not in")) != _is_several(operand):
            must = "a list of values" if "in" in name else 'one value; use "in" for several'
            raise TypeError(f"{told} = {operand!r}: must be {must}")
        side = condition.wanted if name in ("=", "in") else condition.unwanted
        side.append(_values(told, operand))
    return condition


def _typed(value: Any) -> tuple[bool, Any]:
    """What two values must have equal to be one: Python's True is 1 as well, JSON's is not."""
    return isinstance(value, bool), value


def _order(value: Any) -> str | None:
    """The type within which values are above or below each other; None for those that aren't."""
    if isinstance(value, str):
        return "string"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else None


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset)


def _values(name: str, value: Any) -> set[tuple[bool, Any]]:
    """Values of which a document must have one."""
    values = [_plain(v) for v in (value if _is_several(value) else [value])]
    for one in values:
        if not isinstance(one, str | int | float | bool | None):
            raise TypeError(
                f"{name} = {one!r}: must be a string, a number, a boolean or None, or a list of "
                f"these; metadata holds nothing else"
            )
    return {_typed(one) for one in values}


def _operand(name: str, value: Any) -> Any:
    value = _plain(value)
    if _order(value) is None or (isinstance(value, float) and math.isnan(value)):
        raise TypeError(f"{name} = {value!r}: must be a number or a string, which have an order")
    return value


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
