"""What the columns of a table are: specs that can be printed, kept as JSON, and given."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple


@dataclasses.dataclass(frozen=True)
class Text:
    """Words of a text, TF-IDF weighted to unit length.

    Args:
      column: of the table.
      pairs: whether each two neighbouring words are a feature.
      grams: (fewest, most) characters of n-grams of words; None for none.
      min_count: rows that must hold a feature.
      max_features: the most frequent ones; None for all.
    """

    kind: ClassVar[str] = "text"
    column: str
    pairs: bool = False
    grams: tuple[int, int] | None = None
    min_count: int = 2
    max_features: int | None = None


@dataclasses.dataclass(frozen=True)
class Category:
    """One of some values; those of fewer than `min_count` rows, and new ones, are one together."""

    kind: ClassVar[str] = "category"
    column: str
    min_count: int = 2


@dataclasses.dataclass(frozen=True)
class Categories:
    """Several values in one text, with a separator between."""

    kind: ClassVar[str] = "categories"
    column: str
    separator: str = ","
    min_count: int = 2


@dataclasses.dataclass(frozen=True)
class Number:
    """A number by quantiles: it lies between two of them, and has a share in each.

    A linear model over these is a curve of straight pieces. `coarse` bins are what crosses take.
    """

    kind: ClassVar[str] = "number"
    column: str
    bins: int = 16
    coarse: int = 8


@dataclasses.dataclass(frozen=True)
class Date:
    """A date by its parts: year, month, day of the month, weekday, hour; and as a number."""

    kind: ClassVar[str] = "date"
    column: str
    bins: int = 16


@dataclasses.dataclass(frozen=True)
class History:
    """The latest values that rows with the same key had before a row's date, and their ages.

    Args:
      key: column of whose history it is, such as a user.
      date: column of dates, or of numbers that rise with time.
      column: whose values are remembered; the target itself may be.
      count: how many.
      min_count: rows that must hold a value, for it to be a feature.
    """

    kind: ClassVar[str] = "history"
    key: str
    date: str
    column: str
    count: int = 3
    min_count: int = 2


@dataclasses.dataclass(frozen=True)
class Cross:
    """Pairs of the values of two other specs, by name; pairs of few rows are left out.

    A spec's name is its column, for a history `history of COLUMN`; that takes its latest value.
    """

    kind: ClassVar[str] = "cross"
    first: str
    second: str
    min_count: int = 3


Spec = Text | Category | Categories | Number | Date | History | Cross
KINDS: dict[str, Any] = {
    spec.kind: spec for spec in (Text, Category, Categories, Number, Date, History, Cross)
}


def name_of(spec: Spec) -> str:
    """How crosses name a spec."""
    if isinstance(spec, Cross):
        return f"{spec.first} x {spec.second}"
    return f"history of {spec.column}" if isinstance(spec, History) else spec.column


class Schema(NamedTuple):
    """The specs of a table, in the order of their features."""

    specs: tuple[Spec, ...]

    def __str__(self) -> str:
        """A line for each spec, with what differs from its defaults."""
        lines = []
        for spec in self.specs:
            more = [
                f"{field.name} = {getattr(spec, field.name)}"
                for field in dataclasses.fields(spec)
                if field.name not in ("column", "first", "second")
                and getattr(spec, field.name) != field.default
            ]
            lines.append(f"{name_of(spec)}: {spec.kind}{', ' if more else ''}{', '.join(more)}")
        return "\n".join(lines)


def to_json(schema: Schema) -> list[dict[str, Any]]:
    """A schema as JSON.

    Example:
      >>> to_json(Schema((Category("shop"),)))
      [{'kind': 'category', 'column': 'shop', 'min_count': 2}]
    """
    return [{"kind": spec.kind, **dataclasses.asdict(spec)} for spec in schema.specs]


def from_json(specs: list[dict[str, Any]]) -> Schema:
    """The schema that `to_json` was given.

    Raises:
      ValueError: an unknown kind or field, naming the entry.
    """
    found = []
    for i, spec in enumerate(specs):
        options = dict(spec)
        kind = options.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"schema[{i}].kind = {kind!r}: must be one of {', '.join(KINDS)}")
        known = {field.name for field in dataclasses.fields(KINDS[kind])}
        if not options.keys() <= known:
            wrong = sorted(options.keys() - known)[0]
            raise ValueError(f"schema[{i}].{wrong}: must be one of {', '.join(sorted(known))}")
        if options.get("grams") is not None:
            options["grams"] = tuple(options["grams"])
        try:
            found.append(KINDS[kind](**options))
        except TypeError as error:
            raise ValueError(f"schema[{i}] = {kind}: {error}; name what it needs") from None
    return check(Schema(tuple(found)))


def check(schema: Schema) -> Schema:
    """The schema itself.

    Raises:
      ValueError: two specs of one name, a cross of what isn't there or can't be crossed, or a
        number out of range.
    """
    by_name: dict[str, Spec] = {}
    for spec in schema.specs:
        name = name_of(spec)
        if name in by_name:
            raise ValueError(f"schema = {name!r} twice: must name each once; drop one")
        by_name[name] = spec
        for field, least in (("bins", 2), ("coarse", 2), ("count", 1), ("min_count", 1)):
            value = getattr(spec, field, least)
            if value < least:
                raise ValueError(f"{name}.{field} = {value}: must be at least {least}")
    for spec in schema.specs:
        for side in (spec.first, spec.second) if isinstance(spec, Cross) else ():
            if isinstance(by_name.get(side), Cross | Text | Categories | None):
                able = [
                    n for n, s in by_name.items() if not isinstance(s, Cross | Text | Categories)
                ]
                raise ValueError(
                    f"cross of {side!r}: must be of specs with one value in each row, "
                    f"{', '.join(able)}"
                )
    return schema
