"""Histories: the latest values of a key before a row's date, with their ages.

A row knows what came before it: in the table that `fit` saw, and in the one it stands in. So the
rows of the training table see what new ones will.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparse_jax.data.features import schema, table
from sparse_jax.data.features.encoder import (
    Block,
    Codes,
    Encoder,
    Kind,
    hats,
    join,
    one_code,
    places_of,
    quantile_points,
    rank_values,
    shifted,
)
from sparse_jax.data.features.single import as_numbers
from sparse_jax.data.features.table import Columns

_AGES = 12  # points of the ages' logarithms


class _Events(NamedTuple):
    """What happened: key numbers, times and values' places; by key and time."""

    keys: np.ndarray  # int64 [e]
    times: np.ndarray  # float64 [e]
    values: np.ndarray  # int64 [e]


class _Latest(NamedTuple):
    """The latest values before each row, the last one first."""

    values: np.ndarray  # int64 [n, count]; -1 where there is none
    ages: np.ndarray  # float64 [n, count]; NaN likewise


def _times(spec: schema.History, columns: Columns) -> np.ndarray:
    column = table.column_of(columns, spec.date)
    if column.dtype.kind in "iuf":
        return table.numbers(spec.date, column)
    return as_numbers(table.dates(spec.date, column))


def _rows(
    spec: schema.History, columns: Columns, keys: tuple[str, ...], names: tuple[str, ...]
) -> tuple[_Events, np.ndarray]:
    """(key, time and value of each row, -1 for a missing key or value; which rows are events)."""
    known: dict[str | None, int] = {key: i for i, key in enumerate(keys)}
    given = table.strings(table.column_of(columns, spec.key))
    numbers = [-1 if key is None else known.setdefault(key, len(known)) for key in given]
    # Whoever asks about new rows may not know what is to be remembered of them.
    if spec.column in columns:
        values = places_of(table.strings(columns[spec.column]), names)
        values[values > len(names)] = -1
    else:
        values = np.full(len(given), -1)
    rows = _Events(np.array(numbers, np.int64), _times(spec, columns), values)
    return rows, (rows.keys >= 0) & (rows.values >= 0) & ~np.isnan(rows.times)


def _sorted(events: _Events) -> _Events:
    order = np.lexsort((events.values, events.times, events.keys))
    return _Events(*(column[order] for column in events))


def _merge(kept: _Events, fresh: _Events) -> _Events:
    """Both, in order; one that was kept and comes again with its table is one."""
    triples = np.stack([*map(np.asarray, kept)], axis=1).astype(np.float64)
    again = {tuple(row) for row in np.stack([*fresh], axis=1).astype(np.float64).tolist()}
    new = np.array([tuple(row) not in again for row in triples.tolist()], bool)
    return _sorted(
        _Events(*(np.concatenate([a[new], b]) for a, b in zip(kept, fresh, strict=True)))
    )


def _latest(rows: _Events, events: _Events, count: int) -> _Latest:
    """What was before each row: of its key, at an earlier time."""
    times = np.unique(np.concatenate([events.times, rows.times[~np.isnan(rows.times)]]))
    size = times.size + 1
    at = events.keys * size + np.searchsorted(times, events.times)
    asked = np.searchsorted(times, np.where(np.isnan(rows.times), 0, rows.times))
    # Without a date of its own a row comes after everything.
    asked = np.where(np.isnan(rows.times), times.size, asked)
    stop = np.searchsorted(at, rows.keys * size + asked)
    start = np.searchsorted(at, rows.keys * size)
    place = stop[:, None] - 1 - np.arange(count)
    there = (place >= start[:, None]) & (rows.keys >= 0)[:, None]
    padded = np.maximum(place, 0)
    if not events.keys.size:
        nothing = np.full(place.shape, -1)
        return _Latest(nothing, np.full(place.shape, np.nan))
    ages = rows.times[:, None] - events.times[padded]
    return _Latest(np.where(there, events.values[padded], -1), np.where(there, ages, np.nan))


def _last_of_each(events: _Events, count: int) -> _Events:
    """The latest of each key: all that later rows can see."""
    behind = np.searchsorted(events.keys, events.keys, side="right") - np.arange(events.keys.size)
    return _Events(*(column[behind <= count] for column in events))


def _fit(spec: schema.History, columns: Columns, _: tuple[Codes, ...]) -> Encoder:
    names = rank_values(table.strings(table.column_of(columns, spec.column)), spec.min_count)
    keys = tuple(
        dict.fromkeys(
            key for key in table.strings(table.column_of(columns, spec.key)) if key is not None
        )
    )
    rows, happened = _rows(spec, columns, keys, names)
    events = _sorted(_Events(*(column[happened] for column in rows)))
    ages = np.log1p(np.maximum(_latest(rows, events, spec.count).ages, 0))
    kept = _last_of_each(events, spec.count)
    arrays = {
        "keys": kept.keys,
        "times": kept.times,
        "values": kept.values,
        "ages": quantile_points(ages.ravel(), _AGES),
    }
    # For each place in the history and for all of them together: a value, or another one; then how
    # many there are, and the ages of the first and the last.
    width = (spec.count + 1) * (len(names) + 1) + spec.count + 1 + 2 * (arrays["ages"].size + 1)
    return Encoder(spec, width, names, arrays, {"keys": list(keys)})


def _find(encoder: Encoder, columns: Columns) -> _Latest:
    spec = encoder.spec
    assert isinstance(spec, schema.History)
    rows, happened = _rows(spec, columns, tuple(encoder.config["keys"]), encoder.names)
    kept = _Events(*(encoder.arrays[name] for name in ("keys", "times", "values")))
    events = _merge(kept, _Events(*(column[happened] for column in rows)))
    return _latest(rows, events, spec.count)


def _apply(encoder: Encoder, columns: Columns, _: tuple[Codes, ...]) -> Block:
    assert isinstance(encoder.spec, schema.History)
    found, size = _find(encoder, columns), len(encoder.names) + 1
    n, count = found.values.shape
    row, place = np.nonzero(found.values >= 0)
    values = found.values[row, place]
    one = np.ones(row.size, np.float32)
    both, often = np.unique(row << 32 | values, return_counts=True)
    start = (count + 1) * size
    blocks = [
        Block(row, place * size + values, one),
        Block(
            both >> 32,
            count * size + (both & 0xFFFFFFFF),
            (often / np.sqrt(count)).astype(np.float32),
        ),
        Block(np.arange(n), start + (found.values >= 0).sum(axis=1), np.ones(n, np.float32)),
    ]
    points = encoder.arrays["ages"]
    ages = np.log1p(np.maximum(found.ages, 0))
    for side in (0, count - 1) if count > 1 else (0,):
        block = shifted(hats(ages[:, side], points), start + count + 1)
        blocks.append(shifted(block, 0 if side == 0 else points.size + 1))
    return join(blocks)


def _codes(encoder: Encoder, columns: Columns) -> Codes:
    size = len(encoder.names) + 2
    last = _find(encoder, columns).values[:, 0]
    return one_code(np.where(last < 0, size - 1, last), size)


KINDS = {"history": Kind(_fit, _apply, _codes)}
