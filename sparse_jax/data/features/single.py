"""Specs of one column: texts, categories, numbers, dates; and crosses of two."""

from __future__ import annotations

import numpy as np

from sparse_jax import text
from sparse_jax.data.features import schema, table
from sparse_jax.data.features.encoder import (
    Block,
    Codes,
    Encoder,
    Kind,
    between,
    hats,
    join,
    one_code,
    one_each,
    places_of,
    quantile_points,
    rank_values,
)
from sparse_jax.data.features.table import Columns
from sparse_jax.text import vectorizer

_DAY = 86_400
_PARTS = ("year", "month", "day", "weekday", "hour")


def _texts(spec: schema.Text, columns: Columns) -> list[str]:
    return [x or "" for x in table.strings(table.column_of(columns, spec.column))]


def _fit_text(spec: schema.Text, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    try:
        found = text.fit(
            _texts(spec, columns),
            pairs=spec.pairs,
            grams=spec.grams,
            min_count=spec.min_count,
            max_features=spec.max_features,
        )
    except ValueError as error:
        raise ValueError(f"{spec.column}: {error}, or leave the column out") from None
    config, arrays = vectorizer.to_saved(found)
    return Encoder(spec, found.num_features + 1, arrays=arrays, config=config)


def _apply_text(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    assert isinstance(encoder.spec, schema.Text)
    found = vectorizer.from_saved(encoder.config, encoder.arrays)
    texts = _texts(encoder.spec, columns)
    rows = text.transform(found, texts)
    empty = np.flatnonzero(np.array([not x for x in texts], bool))
    return join(
        [
            Block(
                np.repeat(np.arange(len(texts)), np.diff(rows.offsets)),
                rows.ids.astype(np.int64),
                rows.values,
            ),
            Block(empty, np.full(empty.size, found.num_features), np.ones(empty.size, np.float32)),
        ]
    )


def _fit_category(spec: schema.Category, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    values = table.strings(table.column_of(columns, spec.column))
    names = rank_values(values, spec.min_count)
    return Encoder(spec, len(names) + 2, names)


def _category_codes(encoder: Encoder, columns: Columns) -> Codes:
    assert isinstance(encoder.spec, schema.Category)
    values = table.strings(table.column_of(columns, encoder.spec.column))
    return one_code(places_of(values, encoder.names), encoder.width)


def _apply_category(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    return one_each(_category_codes(encoder, columns).values[:, 0])


def _parts(spec: schema.Categories, columns: Columns) -> tuple[np.ndarray, list[str | None]]:
    """(row of each part, the parts); a missing value is one part, None. Repeats count once."""
    rows: list[int] = []
    parts: list[str | None] = []
    for row, value in enumerate(table.strings(table.column_of(columns, spec.column))):
        split = [part.strip() for part in (value or "").split(spec.separator)]
        found: list[str | None] = list(dict.fromkeys(part for part in split if part))
        parts += found or [None]
        rows += [row] * max(len(found), 1)
    return np.array(rows, np.int64), parts


def _fit_categories(spec: schema.Categories, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    names = rank_values(_parts(spec, columns)[1], spec.min_count)
    return Encoder(spec, len(names) + 2, names)


def _apply_categories(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    assert isinstance(encoder.spec, schema.Categories)
    rows, parts = _parts(encoder.spec, columns)
    # Several unknown parts are one feature.
    keys = np.unique(rows << 32 | places_of(parts, encoder.names))
    rows, ids = keys >> 32, keys & 0xFFFFFFFF
    counts = np.bincount(rows, minlength=1)
    return Block(rows, ids, (1 / np.sqrt(counts[rows])).astype(np.float32))


def _values(spec: schema.Number, columns: Columns) -> np.ndarray:
    return table.numbers(spec.column, table.column_of(columns, spec.column))


def _fit_number(spec: schema.Number, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    values = _values(spec, columns)
    points = quantile_points(values, spec.bins)
    arrays = {"points": points, "coarse": quantile_points(values, spec.coarse)}
    return Encoder(spec, points.size + 1, arrays=arrays)


def _apply_number(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    assert isinstance(encoder.spec, schema.Number)
    return hats(_values(encoder.spec, columns), encoder.arrays["points"])


def _number_codes(encoder: Encoder, columns: Columns) -> Codes:
    assert isinstance(encoder.spec, schema.Number)
    return between(_values(encoder.spec, columns), encoder.arrays["coarse"])


def _date_parts(seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n, 5]: year, month, day, weekday, hour; which dates are there)."""
    there = ~np.isnat(seconds)
    known = np.where(there, seconds, np.datetime64(0, "s"))
    months = known.astype("datetime64[M]")
    days = known.astype("datetime64[D]")
    number = days.astype(np.int64)
    columns = (
        known.astype("datetime64[Y]").astype(np.int64) + 1970,
        months.astype(np.int64) % 12,
        (days - months.astype("datetime64[D]")).astype(np.int64),
        (number + 3) % 7,  # 1970 began on a Thursday; Monday is 0
        known.astype(np.int64) % _DAY // 3600,
    )
    return np.stack(columns, axis=1), there


def _dates(spec: schema.Date, columns: Columns) -> np.ndarray:
    return table.dates(spec.column, table.column_of(columns, spec.column))


def as_numbers(seconds: np.ndarray) -> np.ndarray:
    """Dates as float64 seconds, NaN where missing."""
    return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64).astype(np.float64))


def _fit_date(spec: schema.Date, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    seconds = _dates(spec, columns)
    parts, there = _date_parts(seconds)
    seen = parts[there] if there.any() else np.zeros((1, len(_PARTS)), np.int64)
    years = (int(seen[:, 0].min()), int(seen[:, 0].max()))
    points = quantile_points(as_numbers(seconds), spec.bins)
    # Parts that never change say nothing: dates without a time all have the hour 0.
    changing = (seen != seen[:1]).any(axis=0)
    sizes = [years[1] - years[0] + 1, 12, 31, 7, 24]
    width = points.size + 1 + sum(size for size, used in zip(sizes, changing, strict=True) if used)
    arrays = {"points": points, "changing": changing, "years": np.array(years, np.int64)}
    return Encoder(spec, width, arrays=arrays)


def _apply_date(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    assert isinstance(encoder.spec, schema.Date)
    seconds = _dates(encoder.spec, columns)
    parts, there = _date_parts(seconds)
    first, last = encoder.arrays["years"].tolist()
    parts[:, 0] = np.clip(parts[:, 0], first, last) - first
    blocks = [hats(as_numbers(seconds), encoder.arrays["points"])]
    start = encoder.arrays["points"].size + 1
    for part, size in enumerate((last - first + 1, 12, 31, 7, 24)):
        if encoder.arrays["changing"][part]:
            rows = np.flatnonzero(there)
            ids = start + parts[there, part]
            blocks.append(Block(rows, ids, np.ones(rows.size, np.float32)))
            start += size
    return join(blocks)


def _date_codes(encoder: Encoder, columns: Columns) -> Codes:
    """Weekdays, and eighths of the day where there are hours."""
    assert isinstance(encoder.spec, schema.Date)
    parts, there = _date_parts(_dates(encoder.spec, columns))
    eighth = parts[:, 4] // 3 if encoder.arrays["changing"][4] else 0
    return one_code(np.where(there, parts[:, 3] * 8 + eighth, 56), 57)


def _pairs(sides: tuple[Codes, ...]) -> Block:
    """Pairs of codes by row; weights multiply."""
    first, second = sides
    keys = first.values[:, :, None] * second.size + second.values[:, None, :]
    weights = first.weights[:, :, None] * second.weights[:, None, :]
    rows, i, j = np.nonzero(weights > 0)
    return Block(rows, keys[rows, i, j], weights[rows, i, j])


def _fit_cross(spec: schema.Cross, _: Columns, sides: tuple[Codes, ...]) -> Encoder:
    keys, counts = np.unique(_pairs(sides).ids, return_counts=True)
    kept = keys[counts >= spec.min_count]
    return Encoder(spec, kept.size, arrays={"keys": kept})


def _apply_cross(encoder: Encoder, _: Columns, sides: tuple[Codes, ...]) -> Block:
    keys, found = encoder.arrays["keys"], _pairs(sides)
    at = np.searchsorted(keys, found.ids)
    kept = np.append(keys, -1)[at] == found.ids
    return Block(found.rows[kept], at[kept], found.values[kept])


KINDS = {
    "text": Kind(_fit_text, _apply_text),
    "category": Kind(_fit_category, _apply_category, _category_codes),
    "categories": Kind(_fit_categories, _apply_categories),
    "number": Kind(_fit_number, _apply_number, _number_codes),
    "date": Kind(_fit_date, _apply_date, _date_codes),
    "cross": Kind(_fit_cross, _apply_cross),
}
