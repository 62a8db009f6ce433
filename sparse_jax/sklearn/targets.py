"""Targets in the four forms that scikit-learn's users have them in, and predictions in the same.

"single": one class for each point, 1-D. "lists": a list of labels for each point. "sparse" and
"dense": an indicator matrix, a row for each point and a column for each class.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import assert_all_finite, column_or_1d

from sparse_jax.data.csr import from_csr
from sparse_jax.data.xmc import offsets_of

FORMS = ("single", "lists", "sparse", "dense")
_SEQUENCES = (list, tuple, set, frozenset, np.ndarray)


class Targets(NamedTuple):
    """The labels of n points, in compressed rows."""

    form: str  # one of FORMS
    offsets: np.ndarray  # int64 [n + 1]
    labels: np.ndarray  # [offsets[-1]], classes; of an indicator matrix its columns
    classes: np.ndarray  # sorted, distinct: those there are; all columns of an indicator matrix
    dtype: np.dtype[Any]  # of what was given


def read(y: Any, form: str | None = None) -> Targets:
    """Targets of any form.

    Args:
      y: the targets.
      form: which they must have; None for whichever they have, and "sparse" and "dense" stand for
        each other.

    Returns:
      `Targets`.

    Raises:
      TypeError: labels of a list that are neither strings nor integers, or some of both.
      ValueError: no targets, continuous ones, several classes for each point that are no indicator
        matrix, or another form than asked for.

    Example:
      >>> read([["red", "blue"], [], ["red"]]).labels.tolist()
      ['red', 'blue', 'red']
      >>> read([3, 5, 3]).classes.tolist()
      [3, 5]
    """
    if y is None:
        raise ValueError(
            "This SparseClassifier estimator requires y to be passed, but the target y is None."
        )
    if scipy.sparse.issparse(y):
        found = _read_indicator(y, "sparse")
    else:
        rows = _rows(y)
        if rows is not None and not (form == "lists" or (form is None and not _is_matrix(rows))):
            y, rows = np.asarray(y), None
        found = _read_lists(rows) if rows is not None else _read_array(y)
    indicators = {"sparse", "dense"}
    if form not in (None, found.form) and not indicators >= {form, found.form}:
        raise ValueError(
            f"y is of the form {found.form!r}: must be {form!r}, as in the first call of fit; "
            "convert it, or fit another classifier"
        )
    return found


def single(classes: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Predictions of the form "single": the first column's class of each point."""
    return np.take(classes, columns[:, 0])


def lists(classes: np.ndarray, columns: np.ndarray, kept: np.ndarray) -> list[list[Any]]:
    """Predictions of the form "lists", in the order of the columns.

    Args:
      classes: [N].
      columns: int [n, k], places in `classes`.
      kept: bool [n, k], which of them to return.
    """
    names = classes.tolist()
    return [
        [names[column] for column in row[keep]] for row, keep in zip(columns, kept, strict=True)
    ]


def matrix(
    num_classes: int, columns: np.ndarray, kept: np.ndarray, values: np.ndarray
) -> scipy.sparse.csr_array:
    """`values` [n, k] where `kept`, in a sparse matrix [n, num_classes]."""
    offsets = offsets_of(kept.sum(axis=1))
    shape = (columns.shape[0], num_classes)
    found = scipy.sparse.csr_array((values[kept], columns[kept], offsets), shape=shape)
    found.sort_indices()
    return found


def chances(columns: np.ndarray, scores: np.ndarray, *, over_sum: bool) -> np.ndarray:
    """Chances of all classes, in a dense array in the order of the classes.

    Args:
      columns: int [n, N], the classes of each point, best first.
      scores: float32 [n, N], their chances.
      over_sum: whether a point's are divided by their sum.

    Returns:
      float64 [n, N]; the best class has the largest.
    """
    found = np.empty(columns.shape)
    # float32 rounds chances near 0 and 1 to these, which no label's chance is.
    inside = np.clip(scores, np.finfo(np.float32).tiny, 1 - 2.0**-24)
    np.put_along_axis(found, columns, inside.astype(np.float64), axis=1)
    if not over_sum:
        return found
    # Rounded chances may tie: the class that `predict` gives still has the largest.
    best = columns[:, :1]
    most = found.max(axis=1, keepdims=True)
    tied = np.argmax(found, axis=1)[:, None] != best
    np.put_along_axis(found, best, np.where(tied, most * (1 + 1e-15), most), axis=1)
    return found / found.sum(axis=1, keepdims=True)


def classes_of(true: Targets, classes: Any) -> np.ndarray:
    """Sorted distinct classes: of the targets, or the given ones, which must hold those."""
    if classes is None:
        return true.classes
    given = np.unique(np.asarray(classes, object if true.classes.dtype == object else None))
    outside = sorted(set(true.classes.tolist()) - set(given.tolist()))
    if outside or (true.form in ("sparse", "dense") and given.size != true.classes.size):
        what = f"y has the label {outside[0]!r}" if outside else "classes has further entries"
        raise ValueError(
            f"{what}: classes must hold all labels of y, and be the columns of an indicator matrix"
        )
    return given


def places(true: Targets, classes: np.ndarray) -> np.ndarray:
    """Where each target stands in `classes`, int64; -1 for nowhere."""
    place = dict(zip(classes.tolist(), itertools.count()))
    found = (place.get(label, -1) for label in true.labels.tolist())
    return np.fromiter(found, np.int64, true.labels.size)


def names(by_id: np.ndarray, form: str) -> list[str] | None:
    """Label names for the model; columns of indicator matrices have none."""
    return [str(x) for x in by_id.tolist()] if form in ("single", "lists") else None


def _rows(y: Any) -> Sequence[Any] | None:
    """The rows of a sequence of sequences; None where `y` is something else."""
    if not isinstance(y, (list, tuple)):
        y = np.asarray(y)
        if y.dtype != object or y.ndim != 1:
            return None
    return y if len(y) and isinstance(y[0], _SEQUENCES) else None


def _is_matrix(rows: Sequence[Any]) -> bool:
    """Whether rows are an indicator matrix: two or more of 0 and 1 and nothing else in each.

    As lists of labels they would name labels twice, or the same ones for all points.
    """
    width = len(rows[0])
    if width < 2 or any(len(row) != width for row in rows):
        return False
    return all(isinstance(row, (list, tuple, np.ndarray)) for row in rows) and all(
        not isinstance(x, str) and (x == 0 or x == 1) for row in rows for x in row
    )


def _read_lists(rows: Sequence[Any]) -> Targets:
    for place, row in enumerate(rows):
        if not isinstance(row, _SEQUENCES):
            raise TypeError(f"y[{place}] = {row!r}: must be a list of labels, as y[0] is")
    flat = [
        x.item() if isinstance(x, np.generic) else x for row in rows for x in dict.fromkeys(row)
    ]
    kinds = {type(label) for label in flat}
    if len(kinds) > 1 or not kinds <= {str, int}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"y holds labels of type {names}: must be all strings or all integers")
    dtype = np.dtype(object if kinds == {str} else np.int64)
    offsets = offsets_of(np.array([len(set(row)) for row in rows], np.int64))
    classes = np.array(sorted(set(flat)), dtype)
    return Targets("lists", offsets, np.array(flat, dtype), classes, dtype)


def _read_array(given: Any) -> Targets:
    y = np.asarray(given)
    if y.dtype.kind in "OU":  # of which NumPy makes one kind, so that "nan" would be a class
        kinds = {isinstance(label, str) for label in (given if y.ndim == 1 else y.ravel())}
        if len(kinds) > 1:
            raise ValueError("y holds strings and other labels, such as NaN: must be of one kind")
    with warnings.catch_warnings():
        # Many classes are what this is for.
        warnings.filterwarnings("ignore", "The number of unique classes is greater")
        if y.ndim == 2 and y.shape[1] > 1:
            kind = type_of_target(y, input_name="y")
            if kind != "multilabel-indicator" or not np.isin(y, (0, 1)).all():
                check_classification_targets(y)
                raise ValueError(
                    "Unknown label type: several classes for each point must be an indicator "
                    "matrix of 0 and 1, or lists of labels"
                )
            return _read_indicator(scipy.sparse.csr_array(y), "dense")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
    return Targets("single", np.arange(y.size + 1), y, np.unique(y), y.dtype)


def _read_indicator(y: Any, form: str) -> Targets:
    found = from_csr(scipy.sparse.csr_array((y.shape[0], 0)), y)
    classes = np.arange(found.num_labels)
    return Targets(form, found.label_offsets, found.label_ids, classes, y.dtype)
