"""Tables: a column to predict from the others, by classes or as a number.

    model = tabular.fit_table(table, "item")
    found = tabular.predict_table(model, other_table, k=3)

Features of every column (`data.features`) are kept with the classifier, so that a prediction takes
a table as training did.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data import XmcData, features
from sparse_jax.data.features import table as columns_room
from sparse_jax.data.xmc import offsets_of
from sparse_jax.runtime import saved
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc import files, inference
from sparse_jax.xmc.evaluation import evaluate
from sparse_jax.xmc.fit import fit
from sparse_jax.xmc.model import Model
from sparse_jax.xmc.progress import Progress, silent
from sparse_jax.xmc.regression import Bins, NumberModel, fit_number, predict_number

KIND = "table"
TASKS = ("classes", "number")
_MAX_CLASSES = 50  # different numbers that are classes if nothing is said


class TableModel(NamedTuple):
    """A trained predictor of one column of a table."""

    target: str
    separator: str | None  # between several labels in one cell
    features: features.Features
    classifier: Model | None  # of classes
    number: NumberModel | None


class TablePredictions(NamedTuple):
    """What `predict_table` found: classes with their chances, or numbers."""

    labels: np.ndarray | None  # int32 [n, k]
    scores: np.ndarray | None  # float32 [n, k]
    numbers: np.ndarray | None  # float64 [n]


def task_of(values: np.ndarray) -> str:
    """What a target's values look like: "number" where most are different numbers."""
    known = [value for value in values.tolist() if not columns_room.is_missing(value)]
    try:
        found = {float(value) for value in known}
    except (TypeError, ValueError):
        return "classes"
    if any(isinstance(value, bool) for value in known):
        return "classes"
    whole = all(value.is_integer() for value in found)
    return "classes" if whole and len(found) <= _MAX_CLASSES else "number"


def fit_table(
    table: Any,
    target: str,
    *,
    task: str | None = None,
    separator: str | None = None,
    schema: features.Schema | None = None,
    preset: str = "fast",
    seed: int = 0,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
) -> TableModel:
    """Trains on a table.

    Args:
      table: a dict of columns of equal length, or a frame of pandas or polars.
      target: the column to predict; rows without a value are left out.
      task: "classes" or "number"; None looks at the values: numbers are classes if they are whole
        and at most 50 different ones.
      separator: parts several classes in one cell.
      schema: what the other columns are; None guesses it.
      preset: as for `fit`.
      seed: as for `fit`.
      interrupt: as for `fit`; of classes.
      progress: as for `fit`; of classes.

    Returns:
      A `TableModel`.

    Raises:
      ValueError: no such column, nothing to learn from, or what `fit` and `features.fit` refuse.

    Example:
      >>> table = {"shop": ["a", "b"] * 60, "price": [1.0, 9.0] * 60, "item": ["egg", "car"] * 60}
      >>> model = fit_table(table, "item")
      >>> found = predict_table(model, {"shop": ["b"], "price": [9.0]}, k=1)
      >>> model.classifier.about.label_names[found.labels[0, 0]]
      'car'
    """
    columns = columns_room.read_columns(table)
    values = columns_room.column_of(columns, target)
    known = np.array([not columns_room.is_missing(value) for value in values.tolist()], bool)
    if not known.any():
        raise ValueError(f"target = {target!r}: has no value in any row; name another column")
    task = task or task_of(values)
    if task not in TASKS:
        raise ValueError(f"task = {task!r}: must be one of {', '.join(TASKS)}")
    if separator is not None and task == "number":
        raise ValueError(f"separator = {separator!r}: has no effect on numbers; leave it out")
    if schema is None:
        schema = features.guess(columns, target=target)
    fitted = features.fit(columns, schema)
    points = features.transform(fitted, columns).take(np.flatnonzero(known))
    values = values[known]
    if task == "number":
        numbers = columns_room.numbers(target, values)
        number = fit_number(points, numbers, preset=preset, seed=seed)
        return TableModel(target, None, fitted, None, number)
    names, points = _with_classes(points, columns_room.strings(values), separator, None)
    classifier = fit(
        points,
        preset=preset,
        seed=seed,
        weighting="none",
        label_names=names,
        interrupt=interrupt,
        progress=progress,
    )
    return TableModel(target, separator, fitted, classifier, None)


def predict_table(model: TableModel, table: Any, *, k: int = 5) -> TablePredictions:
    """The target of each row of a table.

    Args:
      model: of `fit_table`.
      table: with the columns of training; that of the target isn't looked at, but where the
        schema has histories of it.
      k: classes for each row, best first; of no effect on numbers.

    Returns:
      `TablePredictions`; ids of labels are those of `classifier.about.label_names`.
    """
    columns = columns_room.read_columns(table)
    points = features.transform(model.features, columns)
    if model.number is not None:
        return TablePredictions(None, None, predict_number(model.number, points))
    assert model.classifier is not None
    found = inference.predict(model.classifier, points, k=k)
    return TablePredictions(found.labels, found.scores, None)


def evaluate_table(model: TableModel, table: Any) -> dict[str, float]:
    """Figures on a table with the target's values.

    Args:
      model: of `fit_table`.
      table: rows without a value are left out.

    Returns:
      Of classes those of `evaluate`. Of numbers "rmse" and "mae", the root of the mean squared and
      the mean absolute error, and beside them those of the training mean, "mean_rmse", "mean_mae".

    Raises:
      ValueError: no such column, or no value in it.
    """
    columns = columns_room.read_columns(table)
    values = columns_room.column_of(columns, model.target)
    known = np.flatnonzero([not columns_room.is_missing(value) for value in values.tolist()])
    if not known.size:
        raise ValueError(f"target = {model.target!r}: has no value in any row: nothing to judge by")
    points = features.transform(model.features, columns).take(known)
    if model.number is not None:
        truth = columns_room.numbers(model.target, values[known])
        found = predict_number(model.number, points)
        usual = float(model.number.mean)
        return {
            "rmse": float(np.sqrt(np.mean((found - truth) ** 2))),
            "mae": float(np.mean(np.abs(found - truth))),
            "mean_rmse": float(np.sqrt(np.mean((usual - truth) ** 2))),
            "mean_mae": float(np.mean(np.abs(usual - truth))),
        }
    assert model.classifier is not None
    about = model.classifier.about
    texts = columns_room.strings(values[known])
    _, points = _with_classes(points, texts, model.separator, about.label_names)
    best = inference.predict(model.classifier, points, k=min(5, about.num_labels))
    return evaluate(best, points)


def _with_classes(
    points: XmcData,
    texts: list[str | None],
    separator: str | None,
    names: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], XmcData]:
    """(names of classes, points labelled by them); classes that are not named come behind."""
    rows = [
        tuple(dict.fromkeys(part.strip() for part in (text or "").split(separator) if part.strip()))
        if separator
        else (text or "",)
        for text in texts
    ]
    given = sorted({name for row in rows for name in row})
    known = tuple(given) if names is None else (*names, *(n for n in given if n not in {*names}))
    places = {name: place for place, name in enumerate(known)}
    labelled = dataclasses.replace(
        points,
        label_offsets=offsets_of(np.array([len(row) for row in rows], np.int64)),
        label_ids=np.array([places[name] for row in rows for name in row], np.int32),
        num_labels=len(known),
    )
    return known, labelled


def save_table(model: TableModel, path: str | os.PathLike[str]) -> None:
    """Writes a model into a directory, in the place of the one that may be there.

    Args:
      model: of `fit_table`.
      path: the directory, made if missing.

    Raises:
      OSError: if it can't be written.
    """
    trained = model.classifier if model.number is None else model.number.model
    assert trained is not None
    config, arrays = files.to_saved(trained)
    of_features, more = features.to_saved(model.features)
    arrays |= {f"features.{name}": array for name, array in more.items()}
    config = {"target": model.target, "separator": model.separator, "model": config}
    config["features"] = of_features
    if model.number is not None:
        config["mean"] = float(model.number.mean)
        arrays |= {f"number.{n}": x for n, x in model.number.bins._asdict().items()}
        arrays |= {"number.curve": model.number.curve, "number.line": model.number.line}
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def load_table(path: str | os.PathLike[str]) -> TableModel:
    """Reads what `save_table` wrote; nothing is unpickled.

    Args:
      path: the directory.

    Raises:
      ValueError: if there is no model, it is of another kind, or it is damaged.
    """
    with saved.fitting(path):
        return _from_saved(*saved.load(path, kind=KIND))


def _from_saved(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> TableModel:
    """The model of what was written."""
    trained = files.from_saved(config["model"], arrays)
    start = "features."
    own = {name[len(start) :]: x for name, x in arrays.items() if name.startswith(start)}
    fitted = features.from_saved(config["features"], own)
    number = None
    if "mean" in config:
        bins = Bins(arrays["number.cuts"], arrays["number.means"])
        number = NumberModel(
            trained, bins, arrays["number.curve"], arrays["number.line"], config["mean"]
        )
    classifier = trained if number is None else None
    return TableModel(config["target"], config["separator"], fitted, classifier, number)
