"""Filters of the page: which metadata there is to choose from, and what a choice asks for.

A choice is a parameter of the address, named after its field: `is.KEY`, a value as JSON; `eq.KEY`,
a text; `from.KEY` and `to.KEY`, numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from sparse_jax import search
from sparse_jax.commands.search.query import conditions
from sparse_jax.search.listing import Field

__all__ = ["Offer", "chosen", "fieldset", "wanted"]

_MAX_FIELDS = 8
_MAX_CHOICES = 30  # values of a list; of more, a text is typed or a range given
_OPERATORS = {"is": "=", "eq": "in", "from": ">=", "to": "<="}


class Offer:
    """The fields of an index, looked up again when its documents have changed."""

    def __init__(self, index: search.Index) -> None:
        self._index = index
        self._seen: tuple[Any, int] = (None, -1)
        self._fields: list[Field] = []

    def fields(self) -> list[Field]:
        """Those worth offering: more documents first."""
        state = self._index._state.documents
        if self._seen[0] is not state.digests or self._seen[1] != len(state):
            self._seen = state.digests, len(state)
            found = search.list_fields(self._index, max_values=100)
            self._fields = sorted(found, key=lambda f: (_is_typed(f), -f.documents))[:_MAX_FIELDS]
        return self._fields


def chosen(params: Mapping[str, str]) -> dict[str, str]:
    """What of an address or a form is a choice, without those left empty."""
    parts = {name: name.partition(".") for name in params}
    return {
        name: params[name].strip()
        for name, (how, _, key) in parts.items()
        if how in _OPERATORS and key and params[name].strip()
    }


def wanted(where: str, choices: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Conditions for `Index.search`.

    Args:
      where: conditions with & between, as `search query --where` takes them.
      choices: of `chosen`.

    Raises:
      ValueError: if one is not of its form, or a range has two limits on one side.

    Example:
      >>> wanted("year>2005", {"is.kind": '"note"', "to.year": "2010"})
      {'year': {'>': 2005, '<=': 2010}, 'kind': {'=': 'note'}}
    """
    found = conditions([part.strip() for part in where.split("&") if part.strip()])
    for name, text in choices.items():
        how, _, key = name.partition(".")
        operator = _OPERATORS[how]
        condition = found.setdefault(key, {})
        if operator in condition:
            raise ValueError(f"{key}{operator}{text}: {condition[operator]} is asked for as well")
        condition[operator] = [text, *_parsed(text)] if how == "eq" else _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = []
    if isinstance(found, list | dict):
        raise ValueError(f"{name.partition('.')[2]} = {text[:40]!r}: must be a number or a value")
    return found


def _parsed(text: str) -> list[Any]:
    try:
        return [x for x in [json.loads(text)] if isinstance(x, int | float | bool | None)]
    except (ValueError, RecursionError):
        return []


def _is_typed(field: Field) -> bool:
    """Whether there are too many values for a list."""
    return len(field.values) > _MAX_CHOICES


def fieldset(fields: list[Field], choices: Mapping[str, str]) -> str:
    """Controls for the fields, with what is chosen in them."""
    return "".join(_control(number, field, choices) for number, field in enumerate(fields))


def _control(number: int, field: Field, choices: Mapping[str, str]) -> str:
    name, key = escape(field.name), f"f{number}"
    numbers = [v for v, _ in field.values if isinstance(v, int | float) and v is not True]
    if _is_typed(field) and len(numbers) == len(field.values):
        return "".join(
            f'<label for="{key}{how}">{name} {how}<input id="{key}{how}" name="{how}.{name}" '
            f'inputmode="decimal" placeholder="{limit}" '
            f'value="{escape(choices.get(f"{how}.{field.name}", ""))}"></label>'
            for how, limit in (("from", min(numbers)), ("to", max(numbers)))
        )
    if _is_typed(field):
        options = "".join(f'<option value="{escape(str(value))}">' for value, _ in field.values)
        given = escape(choices.get(f"eq.{field.name}", ""))
        return (
            f'<label for="{key}">{name}<input id="{key}" name="eq.{name}" list="{key}list" '
            f'value="{given}"></label><datalist id="{key}list">{options}</datalist>'
        )
    given = choices.get(f"is.{field.name}", "")
    options = "".join(_option(value, count, given) for value, count in field.values)
    return (
        f'<label for="{key}">{name}<select id="{key}" name="is.{name}">'
        f'<option value="">any</option>{options}</select></label>'
    )


def _option(value: Any, count: int, given: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    shown = {None: "none", True: "yes", False: "no"}.get(value) if _is_constant(value) else value
    mark = " selected" if text == given else ""
    return f'<option value="{escape(text)}"{mark}>{escape(str(shown))[:80]} ({count:,})</option>'


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, bool)
