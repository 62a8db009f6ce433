"""Which weights features get before training: TF-IDF for counts, their own for all others."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from sparse_jax.data.tfidf import apply_tfidf, check_counts, fit_idf, to_unit_length
from sparse_jax.data.xmc import XmcData, check_finite, with_values

__all__ = [
    "NAMES",
    "Choice",
    "Weighting",
    "apply",
    "choose",
    "fit",
]

NAMES = ("auto", "tfidf", "none")
"""What `fit` takes."""

# Beyond it float32 holds whole numbers only, so that being one says nothing.
_LARGEST_COUNT = 2.0**24
# In a text, and in a set of tags, most features are absent.
_DENSE = 0.5


class Choice(NamedTuple):
    """What `choose` found."""

    name: str  # "tfidf" or "none"
    reason: str  # one sentence


@dataclasses.dataclass(frozen=True, eq=False)
class Weighting:
    """How to weigh the features of any points, as `fit` learns it from the training points.

    Args:
        idf: float32 [num_features] for TF-IDF; None leaves the values' proportions as they are.
    """

    idf: np.ndarray | None

    @property
    def name(self) -> str:
        """ "tfidf" or "none"."""
        return "none" if self.idf is None else "tfidf"


def choose(points: XmcData) -> Choice:
    """Whether features look like counts, which TF-IDF is for, or like weights.

    Counts are whole numbers from 0 on in data where most features of a point are absent: words of
    texts, tags, 0/1 features. Anything else was weighted, scaled or measured by somebody, and
    weighting it once more costs accuracy: numbers with fractions (TF-IDF already, rows of unit
    length, counts times .5), negative ones, more than half of all features present, and whole
    numbers beyond 2^24, where float32 has no others.

    Args:
        points: of the training set.

    Returns:
        The weighting's name, and in one sentence why.

    Raises:
        ValueError: a value that isn't finite.

    Example:
        >>> points = XmcData(
        ...     np.array([0, 1, 2]), np.array([0, 3], np.int32), np.array([1, 2.5], np.float32),
        ...     np.array([0, 0, 0]), np.array([], np.int32), num_features=4, num_labels=1)
        >>> choose(points).name
        'none'
    """
    check_finite(points)
    values = points.feature_values
    if not values.size:
        return Choice("none", "no weighting: there are no feature values to weigh")
    some = f"of the {values.size:,} feature values"
    negative = np.count_nonzero(values < 0)
    if negative:
        return Choice("none", f"no weighting: {negative:,} {some} are negative, so not counts")
    fractions = np.count_nonzero(values != np.floor(values))
    if fractions:
        return Choice(
            "none",
            f"no weighting: {fractions:,} {some} have fractions, so they are weights already",
        )
    largest = values.max()
    if largest > _LARGEST_COUNT:
        return Choice("none", f"no weighting: {largest:g} among the feature values is no count")
    share = np.count_nonzero(values) / (points.num_points * points.num_features)
    if share > _DENSE:
        return Choice(
            "none",
            f"no weighting: {share:.0%} of all features are present at a point on average, so they "
            "are measurements and not words",
        )
    kind = "0 or 1" if largest <= 1 else f"whole numbers up to {largest:g}"
    return Choice("tfidf", f"TF-IDF weighting: all feature values are {kind}, as counts of words")


def fit(points: XmcData, name: str = "auto") -> Weighting:
    """Learns the weighting from training points.

    Args:
        points: of the training set.
        name: "tfidf", "none", or "auto" for what `choose` says.

    Returns:
        The weighting, for `apply` to training points and to any others.

    Raises:
        ValueError: an unknown name, a value that isn't finite, a negative one for "tfidf".

    Example:
        >>> points = XmcData(
        ...     np.array([0, 1, 3]), np.array([0, 0, 1], np.int32), np.ones(3, np.float32),
        ...     np.array([0, 0, 0]), np.array([], np.int32), num_features=3, num_labels=1)
        >>> fit(points, "tfidf").idf.round(3).tolist()
        [1.0, 1.4049999713897705, 2.0989999771118164]
    """
    if name not in NAMES:
        raise ValueError(f"name = {name!r}: must be one of {', '.join(NAMES)}")
    check_finite(points)
    if name == "auto":
        name = choose(points).name
    if name == "none":
        return Weighting(None)
    check_counts(points)
    return Weighting(fit_idf(points))


def apply(weighting: Weighting, points: XmcData) -> XmcData:
    """Points with weighted features, each of unit length.

    TF-IDF replaces counts as `apply_tfidf` does. Without, values keep their signs and proportions
    within a point and are scaled to unit length all the same: our linear models prune weights by
    an absolute threshold and take steps of a size that fits rows of about that length. Points
    without features, or with zeros only, stay as they are.

    Args:
        weighting: from `fit`.
        points: any, of the same features.

    Returns:
        The same points with new `feature_values`.

    Raises:
        ValueError: a value that isn't finite; for TF-IDF also a negative one, or another number of
            features than in training.

    Example:
        >>> points = XmcData(
        ...     np.array([0, 2]), np.array([0, 1], np.int32), np.array([-30, 40], np.float32),
        ...     np.array([0, 0]), np.array([], np.int32), num_features=2, num_labels=1)
        >>> apply(Weighting(None), points).feature_values.round(2).tolist()
        [-0.6000000238418579, 0.800000011920929]
    """
    check_finite(points)
    if weighting.idf is not None:
        return apply_tfidf(points, weighting.idf)
    return with_values(points, to_unit_length(points, points.feature_values.astype(np.float64)))
