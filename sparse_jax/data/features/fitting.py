"""Fits the specs of a schema to a table, and turns tables into points."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data.features import history, schema, single
from sparse_jax.data.features.encoder import Block, Codes, Encoder, Kind
from sparse_jax.data.features.guessing import guess
from sparse_jax.data.features.schema import Cross, Schema, name_of
from sparse_jax.data.features.table import Columns, read_columns
from sparse_jax.data.xmc import MAX_SIZE, XmcData, check_size, offsets_of, unchecked

KINDS: dict[str, Kind] = {**single.KINDS, **history.KINDS}
"""How each kind of spec is learned; a new one is an entry here and one in `schema.KINDS`."""


class Features(NamedTuple):
    """What `fit` learned of a table."""

    encoders: tuple[Encoder, ...]

    @property
    def schema(self) -> Schema:
        """The specs; `print` shows a line for each."""
        return Schema(tuple(encoder.spec for encoder in self.encoders))

    @property
    def num_features(self) -> int:
        """Features of all specs."""
        return sum(encoder.width for encoder in self.encoders)


def fit(table: Any, schema: Schema | None = None, *, target: str | Sequence[str] = ()) -> Features:
    """Learns the features of a table's columns.

    Args:
      table: a dict of columns of equal length, or a frame of pandas or polars. Values that are
        None, NaN, NaT or an empty text are missing, which is a value as any other.
      schema: what the columns are; None guesses it, see `guess`.
      target: columns that are to be predicted, which a guess leaves out.

    Returns:
      `Features`; `transform` gives the points, `.schema` what was guessed.

    Raises:
      TypeError: no table.
      ValueError: columns of unequal lengths or of no rows, a schema that doesn't fit the table or
        that a target is given to, values that aren't what the schema says.

    Example:
      >>> fitted = fit({"shop": ["a", "b", "a", None], "price": [1.0, 2.5, 3.0, 4.0]})
      >>> print(fitted.schema)
      shop: category
      price: number
      shop x price: cross
      >>> transform(fitted, {"shop": ["a"], "price": [1.0]}).feature_values.tolist()
      [1.0, 1.0]
    """
    columns = read_columns(table)
    if not next(iter(columns.values())).size:
        raise ValueError("table = no rows: must have some to learn from")
    if schema is None:
        schema = guess(columns, target=target)
    elif target:
        raise ValueError(
            f"target = {target!r}: must be left out with a schema, which says what is used"
        )
    schema = _checked(schema)
    encoders: dict[str, Encoder] = {}
    codes: dict[str, Codes] = {}
    for spec in _sides_first(schema):
        encoders[name_of(spec)] = KINDS[spec.kind].fit(
            spec, columns, _sides(spec, encoders, columns, codes)
        )
    found = Features(tuple(encoders[name_of(spec)] for spec in schema.specs))
    check_size("num_features", found.num_features)
    return found


def transform(fitted: Features, table: Any) -> XmcData:
    """The features of a table's rows as points without labels.

    Values are weights between 0 and 1: give `weighting="none"` to `xmc.fit`. What `fit` has not
    seen is the feature "another value" of its column; a history sees earlier rows of the table
    itself, too.

    Args:
      fitted: of `fit`.
      table: as for `fit`; columns that no spec names are not looked at.

    Returns:
      `XmcData` of as many points as rows; ids ascend in each point.

    Raises:
      As `fit`.

    Example:
      >>> fitted = fit({"shop": ["a", "b", "a", "b"]})
      >>> transform(fitted, {"shop": ["b", "new", None]}).feature_ids.tolist()
      [1, 2, 3]
    """
    columns = read_columns(table)
    rows = next(iter(columns.values())).size
    encoders = {name_of(encoder.spec): encoder for encoder in fitted.encoders}
    codes: dict[str, Codes] = {}
    blocks, start = [Block(*(np.zeros(0, t) for t in (np.int64, np.int64, np.float32)))], 0
    for encoder in fitted.encoders:
        sides = _sides(encoder.spec, encoders, columns, codes)
        block = KINDS[encoder.spec.kind].apply(encoder, columns, sides)
        blocks.append(block._replace(ids=block.ids + start))
        start += encoder.width
    row, ids, values = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.lexsort((ids, row))
    offsets = offsets_of(np.bincount(row, minlength=rows))
    return unchecked(
        offsets,
        ids[order].astype(np.int32),
        values[order].astype(np.float32),
        np.zeros_like(offsets),
        np.zeros(0, np.int32),
        fitted.num_features,
        0,
    )


def with_labels(points: XmcData, labels: Any, num_labels: int | None = None) -> XmcData:
    """The same points with one label each.

    Args:
      points: n of them.
      labels: int [n].
      num_labels: labels that exist; None for as many as there are ids.

    Returns:
      The points, whose features are shared.

    Raises:
      ValueError: another number of labels, or one out of range.

    Example:
      >>> fitted = fit({"shop": ["a", "b", "a", "b"]})
      >>> with_labels(transform(fitted, {"shop": ["a", "b"]}), [2, 0]).num_labels
      3
    """
    ids = np.asarray(labels)
    if ids.shape != (points.num_points,) or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(
            f"labels = {ids.dtype} {ids.shape}: must be int ({points.num_points},), one for each "
            "point"
        )
    size = int(ids.max(initial=-1)) + 1 if num_labels is None else num_labels
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(f"labels = {ids.min()} to {ids.max()}: must be from 0 to {size - 1}")
    if size > MAX_SIZE:
        raise ValueError(f"num_labels = {size}: must be at most {MAX_SIZE}")
    return dataclasses.replace(
        points,
        label_offsets=np.arange(ids.size + 1),
        label_ids=ids.astype(np.int32),
        num_labels=size,
    )


def to_saved(fitted: Features) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fitted features as JSON and arrays, for `runtime.saved` or a model that keeps them.

    Args:
      fitted: of `fit`.

    Returns:
      (config, arrays by name).

    Example:
      >>> fitted = fit({"shop": ["a", "b", "a", "b"]})
      >>> config, arrays = to_saved(fitted)
      >>> from_saved(config, arrays).encoders[0].names
      ('a', 'b')
    """
    config: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    specs = schema.to_json(fitted.schema)
    for i, (spec, encoder) in enumerate(zip(specs, fitted.encoders, strict=True)):
        entry = {"spec": spec, "width": encoder.width, "names": list(encoder.names)}
        config.append(entry | {"config": encoder.config, "arrays": sorted(encoder.arrays)})
        arrays |= {f"{i}_{name}": array for name, array in encoder.arrays.items()}
    return {"encoders": config}, arrays


def from_saved(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Features:
    """The features that `to_saved` was given.

    Args:
      config: of `to_saved`.
      arrays: likewise; others among them are not looked at.

    Returns:
      The features.

    Raises:
      ValueError: if they are not of this version, or an array is missing.
    """
    entries = config["encoders"]
    specs = schema.from_json([entry["spec"] for entry in entries]).specs
    wanted = [f"{i}_{name}" for i, entry in enumerate(entries) for name in entry["arrays"]]
    missing = sorted(set(wanted) - set(arrays))
    if missing:
        raise ValueError(f"arrays = no {missing[0]!r}: must be what was saved; save the model anew")
    return Features(
        tuple(
            Encoder(
                spec,
                int(entry["width"]),
                tuple(entry["names"]),
                {name: arrays[f"{i}_{name}"] for name in entry["arrays"]},
                entry["config"],
            )
            for i, (spec, entry) in enumerate(zip(specs, entries, strict=True))
        )
    )


def _checked(found: Any) -> Schema:
    if not isinstance(found, Schema):
        found = Schema(tuple(found))
    if not found.specs:
        raise ValueError("schema = no specs: must have at least one")
    return schema.check(found)


def _sides_first(found: Schema) -> list[schema.Spec]:
    return sorted(found.specs, key=lambda spec: isinstance(spec, Cross))


def _sides(
    spec: schema.Spec,
    encoders: dict[str, Encoder],
    columns: Columns,
    codes: dict[str, Codes],
) -> tuple[Codes, ...]:
    """The codes of a cross's sides, computed once for a table."""
    if not isinstance(spec, Cross):
        return ()
    for side in (spec.first, spec.second):
        if side not in codes:
            of_kind = KINDS[encoders[side].spec.kind].codes
            assert of_kind is not None
            codes[side] = of_kind(encoders[side], columns)
    return codes[spec.first], codes[spec.second]
