"""Points from SciPy's sparse matrices and back, and points joined."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from sparse_jax.data.xmc import MAX_SIZE, XmcData, check_size, offsets_of, unchecked


class Matrices(NamedTuple):
    """Points as SciPy's sparse arrays, ids ascending in each row."""

    features: scipy.sparse.csr_array  # float32 [n, num_features]
    labels: scipy.sparse.csr_array  # float32 [n, num_labels], ones or weights


def from_csr(X: Any, Y: Any = None) -> XmcData:
    """Points from a matrix of features and one of labels, as scikit-learn and PECOS take them.

    An entry stored in several parts is their sum, and a stored zero is none, as in SciPy's
    arithmetic. So a label is wherever `Y` is above 0. The matrices are left as they are.

    Args:
        X: [n, num_features], a SciPy sparse matrix or array of real numbers, of any format, with
            indices of any integer type.
        Y: [n, num_labels] likewise, or of booleans; None for points without labels.

    Returns:
        The points, with ids ascending in each.

    Raises:
        TypeError: no sparse matrix.
        ValueError: values that aren't finite in float32, a negative label value, indices that are
            out of range or too large for int32, unequal numbers of rows.

    Example:
        >>> X = scipy.sparse.csr_array(np.array([[0, 2.5], [1, 0]]))
        >>> Y = scipy.sparse.csr_array(np.array([[0, 1, 1], [0, 0, 0]]))
        >>> points = from_csr(X, Y)
        >>> points.feature_ids.tolist(), points.label_ids.tolist(), points.num_labels
        ([1, 0], [1, 2], 3)
    """
    return from_csr_weighted(X, Y).points


class Weighted(NamedTuple):
    """Points, and what the matrix of labels holds."""

    points: XmcData
    weights: np.ndarray  # float32 [labels], one for each label id, above 0


def from_csr_weighted(X: Any, Y: Any = None) -> Weighted:
    """What `from_csr` gives, with the values of `Y`.

    Args:
        X: as there.
        Y: as there.

    Returns:
        `Weighted(points, weights)`.

    Raises:
        TypeError: as there.
        ValueError: as there.

    Example:
        >>> X, Y = scipy.sparse.csr_array(np.eye(2)), scipy.sparse.csr_array([[0.5], [0]])
        >>> from_csr_weighted(X, Y).weights.tolist()
        [0.5]
    """
    feature_offsets, feature_ids, values, num_features = _read("X", X)
    rows = feature_offsets.size - 1
    if Y is None:
        label_offsets, label_ids = np.zeros(rows + 1, np.int64), np.zeros(0, np.int32)
        num_labels, present = 0, np.zeros(0, np.float32)
    else:
        label_offsets, label_ids, present, num_labels = _read("Y", Y)
        if label_offsets.size - 1 != rows:
            raise ValueError(
                f"Y.shape[0] = {label_offsets.size - 1}: must be that of X, {rows}; give one row "
                "for each point"
            )
        if present.size and present.min() < 0:
            where = int(np.argmin(present))
            raise ValueError(
                f"Y = {present[where]} at {_place(label_offsets, label_ids, where)}: must be at "
                "least 0; give labels as ones and leave out what isn't one"
            )
    points = unchecked(
        feature_offsets, feature_ids, values, label_offsets, label_ids, num_features, num_labels
    )
    return Weighted(points, present)


def to_csr(points: XmcData, label_weights: np.ndarray | None = None) -> Matrices:
    """Points as SciPy's sparse arrays.

    Args:
        points: any.
        label_weights: float32 [label_offsets[-1]], the values of labels; None for ones.

    Returns:
        `Matrices(features, labels)`; stored zeros among the features stay stored.

    Example:
        >>> points = from_csr(scipy.sparse.csr_array(np.array([[0, 2.5], [1, 0]])))
        >>> to_csr(points).features.toarray().tolist(), to_csr(points).labels.shape
        ([[0.0, 2.5], [1.0, 0.0]], (2, 0))
    """
    weights = label_weights
    if weights is None:
        weights = np.ones(points.label_ids.size, np.float32)
    sides = (
        (points.feature_values, points.feature_ids, points.feature_offsets, points.num_features),
        (weights, points.label_ids, points.label_offsets, points.num_labels),
    )
    arrays = []
    for values, ids, offsets, width in sides:
        # Copied: sorting is in place.
        array = scipy.sparse.csr_array(
            (values.copy(), ids.copy(), offsets.copy()), shape=(points.num_points, width)
        )
        array.sort_indices()
        arrays.append(array)
    return Matrices(*arrays)


def concatenate(*parts: XmcData) -> XmcData:
    """The points of several sets, one after the other.

    An id means the same feature, or label, in all of them; later sets may have new ones.

    Args:
        *parts: one set or more.

    Returns:
        All points, with the largest `num_features` and `num_labels`.

    Raises:
        ValueError: no sets.

    Example:
        >>> one = from_csr(scipy.sparse.csr_array(np.array([[1, 2]])))
        >>> more = from_csr(scipy.sparse.csr_array(np.array([[0, 0, 3]])))
        >>> both = concatenate(one, more)
        >>> both.num_points, both.num_features, both.feature_ids.tolist()
        (2, 3, [0, 1, 2])
    """
    if not parts:
        raise ValueError("parts = (): must be at least one set of points")
    return unchecked(
        offsets_of(np.concatenate([np.diff(part.feature_offsets) for part in parts])),
        np.concatenate([part.feature_ids for part in parts]),
        np.concatenate([part.feature_values for part in parts]),
        offsets_of(np.concatenate([np.diff(part.label_offsets) for part in parts])),
        np.concatenate([part.label_ids for part in parts]),
        max(part.num_features for part in parts),
        max(part.num_labels for part in parts),
    )


def with_sizes(
    points: XmcData, num_features: int | None = None, num_labels: int | None = None
) -> XmcData:
    """The same points among other numbers of features and labels.

    Args:
        points: any.
        num_features: of the result; None leaves it.
        num_labels: of the result; None leaves it.

    Returns:
        The points, whose arrays are shared with the given ones.

    Raises:
        ValueError: a number too small for the ids that occur, or too large for int32.

    Example:
        >>> points = from_csr(scipy.sparse.csr_array(np.array([[1, 2]])))
        >>> with_sizes(points, 10, 4).num_labels
        4
    """
    sizes = {
        "num_features": points.num_features if num_features is None else int(num_features),
        "num_labels": points.num_labels if num_labels is None else int(num_labels),
    }
    for (name, size), ids in zip(
        sizes.items(), (points.feature_ids, points.label_ids), strict=True
    ):
        check_size(name, size)
        needed = int(ids.max(initial=-1)) + 1
        if size < needed:
            raise ValueError(
                f"{name} = {size}: must be at least {needed}, since id {needed - 1} occurs"
            )
    return unchecked(
        points.feature_offsets,
        points.feature_ids,
        points.feature_values,
        points.label_offsets,
        points.label_ids,
        sizes["num_features"],
        sizes["num_labels"],
    )


def _read(name: str, matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Offsets int64, ids int32 ascending and distinct, values float32 not 0, and the width."""
    if not scipy.sparse.issparse(matrix):
        raise TypeError(
            f"{name} = {type(matrix).__name__}: must be a SciPy sparse matrix; "
            f"wrap it: scipy.sparse.csr_array({name})"
        )
    if matrix.ndim != 2:
        raise ValueError(f"{name}.ndim = {matrix.ndim}: must be 2; give one row for each point")
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"{name}.dtype = {matrix.dtype}: must be of real numbers")
    rows, width = matrix.shape
    if width > MAX_SIZE:
        raise ValueError(
            f"{name}.shape[1] = {width}: must be at most {MAX_SIZE}, ids are int32; hash or number "
            "the columns anew"
        )
    csr = matrix.tocsr()
    offsets, ids = np.asarray(csr.indptr), np.asarray(csr.indices)
    if offsets.size != rows + 1 or offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError(f"{name}.indptr = {offsets}: must rise from 0, with {rows + 1} entries")
    stored = int(offsets[-1])
    if min(ids.size, csr.data.size) < stored:
        raise ValueError(f"{name}.indptr = ... {stored}: must end at the {ids.size} stored entries")
    # SciPy lets arrays be longer than what indptr says of them.
    ids, values = ids[:stored], csr.data[:stored].astype(np.float64)
    if stored and not (0 <= ids.min() and ids.max() < width):
        raise ValueError(
            f"{name}.indices = {ids.min()} to {ids.max()}: must be in [0, {width}), the columns of "
            f"{name}"
        )
    offsets, ids = offsets.astype(np.int64), ids.astype(np.int64)
    keys = np.repeat(np.arange(rows) << 32, np.diff(offsets)) | ids
    if not np.all(keys[1:] > keys[:-1]):
        order = np.argsort(keys, kind="stable")
        keys, first = np.unique(keys[order], return_index=True)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.add.reduceat(values[order], first)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
        values = values.astype(np.float32)
    ids = (keys & 0xFFFFFFFF).astype(np.int32)
    kept = values != 0
    counts = np.bincount(keys[kept] >> 32, minlength=rows)
    offsets, ids, values = offsets_of(counts), ids[kept], values[kept]
    if not np.isfinite(values).all():
        where = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"{name} = {values[where]} at {_place(offsets, ids, where)}: must be finite in "
            "float32; mend or drop this entry"
        )
    return offsets, ids, values, int(width)


def _place(offsets: np.ndarray, ids: np.ndarray, where: int) -> str:
    point = int(np.searchsorted(offsets, where, side="right")) - 1
    return f"row {point}, column {ids[where]}"
