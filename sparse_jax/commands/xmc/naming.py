"""What a table's words and labels are by the ids of a model, or of training points."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from sparse_jax import data
from sparse_jax.data import tables
from sparse_jax.xmc import Model

NO_WORDS = (
    "{} holds texts, but the model doesn't know the words of its features: give points in the XMC "
    "text format (a header `points features labels` first), or train on texts, or with "
    "--vocabulary NAMES"
)
_MIXED = (
    "TRAIN and TEST must hold the same, points by id or texts, with labels by id or by name; "
    "convert one of them: sparse-jax convert"
)


def for_model(name: str, table: data.Table, model: Model) -> data.Table:
    """A table in a model's words and label ids; labels that the model lacks come behind its own.

    Args:
      name: of the file.
      table: as it was read.
      model: whose ids are meant.

    Raises:
      ValueError: texts, or labels by name, for a model that knows ids alone.
    """
    about = model.about
    _check_known(name, table, about)
    found = tables.like(table, about)
    if found.label_names is not None and len(found.label_names) > model.num_labels:
        more = len(found.label_names) - model.num_labels
        print(
            f"warning: {name} has {more:,} labels that the model doesn't know: they count as "
            "missed; update the model with points of them first",
            file=sys.stderr,
        )
    if table.texts is None and table.label_names is None:
        warn_of_sizes(name, found.points.num_features, found.points.num_labels, model)
    return found


def _check_known(name: str, table: data.Table, about: Any) -> None:
    if table.texts is not None and about.feature_names is None:
        raise ValueError(NO_WORDS.format(name))
    if table.label_names is not None and about.label_names is None:
        raise ValueError(
            f"{name} names its labels, but the model knows ids alone: give points whose labels are "
            "ids, or train with names of labels"
        )


def for_update(
    name: str, table: data.Table, model: Model, labels: str | None, words: str | None
) -> data.Table:
    """A table to update a model with: new words and new labels come behind the model's.

    Args:
      name: of the file.
      table: as it was read.
      model: to be updated.
      labels: a file with all names of labels, for a table without.
      words: a file with all names of features, for a table without texts.

    Raises:
      ValueError: what the model doesn't know, or a file of names that has no effect.
    """
    about = model.about
    refuse_labels(table, labels if table.label_names is not None else None)
    if table.texts is not None and words is not None:
        raise ValueError(f"--vocabulary: no effect on {name}, whose texts bring their words")
    _check_known(name, table, about)
    if table.texts is not None:
        known = tables.more_words(table.texts, about.feature_names or ())
        table = tables.count_words(table, known)
    table = tables.renumber_labels(table, about.label_names)
    points = table.points
    label_names, feature_names = table.label_names, table.feature_names
    if labels is not None and table.label_names is None:
        label_names = data.read_names(labels, count=max(points.num_labels, model.num_labels))
    if words is not None:
        feature_names = data.read_names(words, count=max(points.num_features, model.num_features))
    return dataclasses.replace(table, label_names=label_names, feature_names=feature_names)


def refuse_labels(table: data.Table, labels: str | None) -> None:
    """Refuses --labels where it names no column.

    Raises:
      ValueError: it has no effect.
    """
    if labels is not None and not table.columns:
        raise ValueError(
            f"--labels: no effect on files of kind {table.kind}, which have no columns; leave it "
            "out"
        )


def with_names(
    table: data.Table, labels: str | None, words: str | None, model: str | None
) -> data.Table:
    """A table to train on, with names of files where it has none of its own.

    Args:
      table: as it was read.
      labels: of a table without columns, a file with the names of its labels.
      words: a file with the names of its features; of texts, the words to count.
      model: where the model is kept.

    Raises:
      ValueError: files of names without effect, or of another length.
    """
    counted = tables.count_words(table, None if words is None else data.read_names(words))
    label_names, feature_names = counted.label_names, counted.feature_names
    if labels is not None and not table.columns:
        if table.label_names is not None:
            refuse_labels(table, labels)
        if not model:
            raise ValueError("--labels has no effect without --model DIR")
        label_names = data.read_names(labels, count=table.points.num_labels)
    if words is not None and table.texts is None:
        if not model:
            raise ValueError("--vocabulary has no effect without --model DIR")
        feature_names = data.read_names(words, count=table.points.num_features)
    return dataclasses.replace(counted, label_names=label_names, feature_names=feature_names)


def check_labels(name: str, table: data.Table) -> None:
    """Refuses a file without points or labels, before long work.

    Raises:
      ValueError: it names the file, and what helps.
    """
    if not table.points.num_points:
        raise ValueError(f"{name} has no points: must have at least one; check its header")
    if table.points.label_ids.size:
        return
    cure = {
        "xmc": "labels come first on each line",
        "xy": "give the file of labels, too, as X,Y",
        "npz": "give the file of labels, too, as X,Y",
        "text": "it was read as a text a line; if it is of another kind, say --kind",
        "fasttext": "labels are words that begin with __label__",
    }.get(table.kind, "check its labels")
    if table.columns:
        cure = f"name the column of labels by --labels; columns = {', '.join(table.columns)}"
    raise ValueError(f"{name} has no labels: {cure}")


def as_test(train_name: str, name: str, train: data.Table, test: data.Table) -> data.Table:
    """Test points in the ids of the training points.

    Args:
      train_name: of the training file.
      name: of the test file.
      train: with features and names.
      test: as it was read.

    Returns:
      The test points; labels that training lacks come behind its own, to be missed.

    Raises:
      ValueError: the two don't fit together.
    """
    by_name = test.label_names is not None
    if (test.texts is None) != (train.texts is None) or (by_name and train.label_names is None):
        raise ValueError(f"{name} is of kind {test.kind}, {train_name} of {train.kind}: {_MIXED}")
    found = tables.like(test, train)
    sizes = [(t.points.num_features, t.points.num_labels) for t in (train, found)]
    kinds = {kind.name: kind for kind in data.kinds()}
    if all(kinds[t.kind].sized for t in (train, test)) and sizes[0] != sizes[1]:
        raise ValueError(
            f"{name} has {sizes[1][0]} features and {sizes[1][1]} labels, "
            f"{train_name} {sizes[0][0]} and {sizes[0][1]}: they must be equal"
        )
    largest = [max(pair) for pair in zip(*sizes, strict=True)]
    return dataclasses.replace(found, points=data.with_sizes(found.points, *largest))


def warn_of_sizes(name: str, features: int, labels: int, model: Model) -> None:
    """Says if a file's ids may mean something else than the model's."""
    if (features, labels) != (model.num_features, model.num_labels):
        print(
            f"warning: {name} is of {features:,} features and {labels:,} labels, the model of "
            f"{model.num_features:,} and {model.num_labels:,}: ids must mean the same in both; "
            "features that the model lacks are left out",
            file=sys.stderr,
        )
