"""Requests in JSON: what is read of them, and how one is refused.

A refusal says which argument, with which value, what it must be, and what to do; never how the
server is made.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_POINTS = 1024
"""Points, or queries, of one request."""
MAX_TOP_K = 1000
"""Labels, or documents, for each."""
MAX_ANSWERS = 100_000
"""Labels of one answer, over all its points."""
MAX_SHOWN = 60
"""Characters of a wrong value that an answer repeats."""


class Refusal(ValueError):
    """A request that is not answered: `argument = value: must be …; cure`."""

    def __init__(
        self, argument: str, value: Any, must: str, cure: str, *, status: int = 422
    ) -> None:
        super().__init__(f"{argument} = {brief(value)}: must {must}; {cure}")
        self.status = status
        self.record = {
            "error": str(self),
            "argument": argument,
            "value": value if _is_short(value) else brief(value),
            "cure": cure,
        }


def brief(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    if isinstance(value, list | dict | str) and len(value) > MAX_SHOWN:
        if isinstance(value, str):
            return json.dumps(value[:MAX_SHOWN]) + f"… ({len(value):,} characters)"
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    if isinstance(value, list | dict) and any(isinstance(x, list | dict) for x in value):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length():,} bits"
    try:
        shown = json.dumps(value)
    except (ValueError, RecursionError):
        return "a value that is too large"
    return shown if len(shown) <= 2 * MAX_SHOWN else shown[: 2 * MAX_SHOWN] + "…"


def _is_short(value: Any) -> bool:
    """Whether an answer can repeat a value as it is: JSON has no infinities."""
    if isinstance(value, str):
        return len(value) <= MAX_SHOWN
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and value.bit_length() <= 63)


def encode(record: Any) -> bytes:
    """JSON in ASCII, in which half a surrogate pair can be sent, too.

    Raises:
      ValueError: if there is NaN or an infinity, which JSON has not.
    """
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii")


def decode(body: bytes) -> dict[str, Any]:
    """The object that a request holds.

    Raises:
      Refusal: with status 400 if it is no JSON, 422 if it is JSON of another type.

    Example:
      >>> decode(b'{"top_k": 3}')
      {'top_k': 3}
    """
    cure = 'send an object, such as {"texts": ["red apples"]}'
    try:
        found = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct
        )
    except Refusal:
        raise
    except RecursionError:
        raise Refusal("body", "deeply nested", "be a flat object", cure, status=400) from None
    except UnicodeDecodeError as error:
        what = f"byte {body[error.start]} at {error.start}"
        raise Refusal("body", what, "be UTF-8", "encode it so", status=400) from None
    except ValueError as error:  # of numbers with thousands of digits, too
        text = body[:MAX_SHOWN].decode("utf-8", "replace")
        raise Refusal("body", text, f"be JSON ({error})", cure, status=400) from None
    if not isinstance(found, dict):
        raise Refusal("body", found, "be an object", cure)
    return found


def _no_constant(name: str) -> float:
    cure = "JSON has no such number: mend it or leave it out"
    raise Refusal("body", name, "hold finite numbers only", cure, status=400)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Refusal("body", twice, "name each field once", "drop one of them", status=400)
    return found


def check_fields(body: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuses fields that would be ignored."""
    for name in body:
        if name not in known:
            must = f"be left out: the fields here are {', '.join(known)}"
            raise Refusal(name[:MAX_SHOWN], body[name], must, "check its spelling")


def whole_number(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number from low to high."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        must = f"be a whole number from {low} to {high:,}"
        raise Refusal(name, value, must, f"leave it out for {default}")
    return value


def fraction(body: dict[str, Any], name: str, default: float) -> float:
    """A number from 0 to 1."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Refusal(name, value, "be a number from 0 to 1", f"leave it out for {default:g}")
    return float(value)


def several(body: dict[str, Any], name: str, most: int) -> list[Any]:
    """A list of at most so many entries."""
    value = body[name]
    if not isinstance(value, list):
        raise Refusal(name, value, "be a list", "put a single one into [ ]")
    if len(value) > most:
        must = f"have at most {most:,} entries"
        raise Refusal(name, value, must, "send the rest in further requests")
    return value


def one_of(body: dict[str, Any], first: str, second: str) -> str:
    """Which of two fields a request has: it must be one."""
    given = [name for name in (first, second) if name in body]
    if len(given) != 1:
        value = " and ".join(given) or f"neither {first} nor {second}"
        raise Refusal("body", value, f"hold either {first} or {second}", "send one of the two")
    return given[0]


def answers_each(
    body: dict[str, Any], default: int, count: int, *, answers: str, points: str
) -> int:
    """The field top_k: answers for each of so many points, not too many over all of them."""
    top_k = whole_number(body, "top_k", default, 1, MAX_TOP_K)
    if count * top_k > MAX_ANSWERS:
        must = f"be at most {MAX_ANSWERS // count} for {count:,} {points}"
        raise Refusal("top_k", top_k, must, f"ask for fewer {answers}, or send fewer {points}")
    return top_k


def check_strings(name: str, values: list[Any]) -> list[str]:
    """Refuses entries that are no text."""
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise Refusal(f"{name}[{i}]", value, "be a string", "quote it")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            must = "be Unicode without halves of surrogate pairs"
            raise Refusal(f"{name}[{i}]", value, must, "decode the text by its own encoding")
    return values
