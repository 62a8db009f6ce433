"""TF-IDF weighting of sparse count features."""

from __future__ import annotations

import numpy as np

from sparse_jax.data.xmc import XmcData, with_values


def fit_idf(data: XmcData) -> np.ndarray:
    """Smoothed inverse document frequency of each feature.

    `idf[j] = log((1 + n) / (1 + df[j])) + 1`, as if one more point held every feature; `df[j]`
    counts the points in which feature `j` isn't zero. Finite for features that never occur.

    Args:
        data: training points.

    Returns:
        float32 [num_features].

    Example:
        >>> data = XmcData(
        ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 0, 0]), np.array([], np.int32), num_features=3, num_labels=1)
        >>> fit_idf(data).round(3).tolist()
        [1.0, 1.4049999713897705, 2.0989999771118164]

    References:
        Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988.
    """
    frequency = np.bincount(data.feature_ids[data.feature_values != 0], minlength=data.num_features)
    return (np.log((1 + data.num_points) / (1 + frequency)) + 1).astype(np.float32)


def apply_tfidf(data: XmcData, idf: np.ndarray) -> XmcData:
    """Replace counts by `log(1 + count) * idf`, then scale each row to unit length.

    Rows without features, or with nothing but zeros, stay as they are. Use the `idf` of the
    training points for test points too.

    Args:
        data: points whose values are counts, at least 0.
        idf: float32 [num_features], from `fit_idf`.

    Returns:
        The same points with new `feature_values`.

    Raises:
        ValueError: a negative count, or an `idf` of another length.

    Example:
        >>> data = XmcData(
        ...     np.array([0, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32),
        ...     np.array([0, 0]), np.array([], np.int32), num_features=2, num_labels=1)
        >>> apply_tfidf(data, np.array([3, 4], np.float32)).feature_values.round(2).tolist()
        [0.6000000238418579, 0.800000011920929]

    References:
        Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988.
    """
    if idf.shape != (data.num_features,):
        raise ValueError(
            f"idf.shape = {idf.shape}: must be ({data.num_features},), one weight for each feature "
            "of data; fit it on training points of the same num_features"
        )
    check_counts(data)
    weights = np.log1p(data.feature_values.astype(np.float64)) * idf[data.feature_ids]
    return with_values(data, to_unit_length(data, weights))


def check_counts(data: XmcData) -> None:
    """Refuses negative values, which TF-IDF isn't for."""
    if data.feature_values.size and data.feature_values.min() < 0:
        raise ValueError(
            f"feature_values = {data.feature_values.min()}: must be counts, at least 0, for "
            "TF-IDF; leave such features as they are: weighting none"
        )


def to_unit_length(data: XmcData, values: np.ndarray) -> np.ndarray:
    """Values scaled so that those of each point have the length 1; points of zeros stay.

    Args:
        data: whose entries the values are.
        values: float64 [feature_offsets[-1]], finite.

    Returns:
        float32 [feature_offsets[-1]].

    Example:
        >>> data = XmcData(
        ...     np.array([0, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32),
        ...     np.array([0, 0]), np.array([], np.int32), num_features=2, num_labels=1)
        >>> to_unit_length(data, np.array([-3.0, 4.0])).tolist()
        [-0.6000000238418579, 0.800000011920929]
    """
    rows = np.repeat(np.arange(data.num_points), np.diff(data.feature_offsets))
    norms = np.sqrt(np.bincount(rows, values * values, minlength=data.num_points))
    scale = np.divide(1.0, norms, out=np.ones_like(norms), where=norms > 0)
    return (values * scale[rows]).astype(np.float32)
