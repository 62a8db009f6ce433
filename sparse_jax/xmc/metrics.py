"""Ranking metrics of extreme classification, over a whole test set, in NumPy.

Predictions are label ids `[n, K]`, best first, -1 where there is none; true labels come in
compressed sparse rows (`offsets [n + 1]`, `ids`). As in the evaluation scripts of the Extreme
Classification Repository, a point without true labels counts: it adds zero to the sum and one to
the number of points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


def precision_at_k(pred: Any, offsets: Any, ids: Any, k: int) -> float:
    """Mean share of the first k predictions that are true labels.

    `P@k = mean_i |pred[i, :k] ∩ true_i| / k`; a missing prediction (-1) is a wrong one.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.
        k: from 1 to K.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: k out of range, shapes that don't fit, a label predicted twice for a point.

    Example:
        >>> precision_at_k(np.array([[3, 1], [0, 2]]), np.array([0, 1, 3]), np.array([3, 2, 1]), 2)
        0.5

    References:
        Prabhu and Varma, FastXML, 2014, section 5.
    """
    _check_k(pred, k)
    return _precision(_judge(pred, offsets, ids), k)


def recall_at_k(pred: Any, offsets: Any, ids: Any, k: int) -> float:
    """Mean share of the true labels that are among the first k predictions.

    `R@k = mean_i |pred[i, :k] ∩ true_i| / |true_i|`, with 0 for a point without true labels.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.
        k: from 1 to K.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: as for `precision_at_k`.

    Example:
        >>> recall_at_k(np.array([[3, 1], [0, 2]]), np.array([0, 1, 3]), np.array([3, 2, 1]), 2)
        0.75
    """
    _check_k(pred, k)
    return _recall(_judge(pred, offsets, ids), k)


def ndcg_at_k(pred: Any, offsets: Any, ids: Any, k: int) -> float:
    """Discounted gain of the first k predictions, relative to the best ranking.

    `DCG_i = sum_{r<k} [pred[i, r] is true] / log2(r + 2)`, divided by the same sum with ones in
    the first `min(k, |true_i|)` places; 0 for a point without true labels.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.
        k: from 1 to K.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: as for `precision_at_k`.

    Example:
        >>> ndcg_at_k(np.array([[3, 1], [2, 1]]), np.array([0, 1, 3]), np.array([3, 2, 1]), 2)
        1.0

    References:
        Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002.
    """
    _check_k(pred, k)
    return _ndcg(_judge(pred, offsets, ids), k)


def psp_at_k(pred: Any, offsets: Any, ids: Any, inv_propensity: Any, k: int) -> float:
    """Propensity-scored precision, relative to the best that is possible.

    The sum of `inv_propensity` over true labels among the first k predictions of all points,
    divided by the largest sum that any predictions could reach. Rare labels weigh more.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.
        inv_propensity: float [num_labels], from `inverse_propensities` of the training labels.
        k: from 1 to K.

    Returns:
        A number from 0 to 1; 0 if no point has labels.

    Raises:
        ValueError: as for `precision_at_k`, or a true label beyond `inv_propensity`.

    Example:
        >>> weights = np.array([1.0, 1.0, 3.0])
        >>> psp_at_k(np.array([[0], [2]]), np.array([0, 1, 3]), np.array([0, 1, 2]), weights, 1)
        1.0

    References:
        Jain, Prabhu and Varma, Extreme multi-label loss functions, 2016, section 3; normalised as
        in the evaluation scripts of the Extreme Classification Repository.
    """
    _check_k(pred, k)
    judged = _judge(pred, offsets, ids)
    return _psp(judged, *_weigh(judged, inv_propensity), k)


def hits(pred: Any, offsets: Any, ids: Any) -> np.ndarray:
    """Which predictions are true labels.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.

    Returns:
        bool [n, K].

    Raises:
        ValueError: as for `precision_at_k`, but no points are no error.

    Example:
        >>> hits(np.array([[3, 1]]), np.array([0, 1]), np.array([1])).tolist()
        [[False, True]]
    """
    if not len(pred):
        return np.zeros(np.shape(pred), bool)
    return _judge(pred, offsets, ids).hits


def inverse_propensities(
    label_offsets: Any, label_ids: Any, num_labels: int, *, a: float = 0.55, b: float = 1.5
) -> np.ndarray:
    """How much rarer than its true frequency a label is observed, by its count in training.

    `1 / p[l] = 1 + C (N_l + b)^-a` with `C = (log N - 1) (b + 1)^a`, for N points, N_l of them
    with label l. C is at least 0 here, so that tiny sets (N < e) give ones.

    Args:
        label_offsets: int64 [N + 1], of the training points.
        label_ids: int32, their labels.
        num_labels: number of labels.
        a: 0.55 by default; the authors use 0.5 for Wikipedia and 0.6 for Amazon.
        b: 1.5 by default; 0.4 for Wikipedia and 2.6 for Amazon.

    Returns:
        float64 [num_labels], each at least 1.

    Raises:
        ValueError: no training points, or a label outside [0, num_labels).

    Example:
        >>> inverse_propensities(np.arange(101), np.zeros(100, int), 2).round(2).tolist()
        [1.47, 5.77]

    References:
        Jain, Prabhu and Varma, Extreme multi-label loss functions, 2016, section 4.
    """
    offsets, ids = np.asarray(label_offsets), np.asarray(label_ids)
    points = offsets.size - 1
    if points < 1:
        raise ValueError("label_offsets describe no training points")
    if ids.size and not (0 <= ids.min() and ids.max() < num_labels):
        raise ValueError(
            f"label_ids must be in [0, {num_labels}), found {ids.min()} to {ids.max()}"
        )
    counts = np.bincount(ids, minlength=num_labels)
    c = max(np.log(points) - 1, 0) * (b + 1) ** a
    return 1 + c * (counts + b) ** -a


def evaluate(
    pred: Any,
    offsets: Any,
    ids: Any,
    inv_propensity: Any | None = None,
    *,
    ks: Sequence[int] | None = None,
) -> dict[str, float]:
    """All metrics at once: `p@k`, `r@k`, `ndcg@k` and, given propensities, `psp@k`.

    Args:
        pred: int [n, K], distinct label ids, best first; -1 for none.
        offsets: int64 [n + 1], where each point's true labels begin.
        ids: int32 [offsets[-1]], the true labels.
        inv_propensity: float [num_labels], from `inverse_propensities`; None leaves out `psp@k`.
        ks: cut-offs, each from 1 to K; None for `cutoffs(K)`: 1, 3 and 5, or what there is.

    Returns:
        Numbers from 0 to 1, by name.

    Raises:
        ValueError: as for `precision_at_k` and `psp_at_k`.

    Example:
        >>> evaluate(np.array([[3, 1]]), np.array([0, 1]), np.array([1]))["p@2"]
        0.5
    """
    if ks is None:
        ks = cutoffs(np.shape(pred)[-1] if np.ndim(pred) else 0)
    for k in ks:
        _check_k(pred, k)
    judged = _judge(pred, offsets, ids)
    out = {f"p@{k}": _precision(judged, k) for k in ks}
    out |= {f"r@{k}": _recall(judged, k) for k in ks}
    out |= {f"ndcg@{k}": _ndcg(judged, k) for k in ks}
    if inv_propensity is not None:
        gains, best = _weigh(judged, inv_propensity)
        out |= {f"psp@{k}": _psp(judged, gains, best, k) for k in ks}
    return out


def cutoffs(most: int, *, ks: Sequence[int] = (1, 3, 5)) -> tuple[int, ...]:
    """The usual k of metrics, or, where there are fewer labels, those up to what there is.

    Args:
        most: number of labels, or of predictions of a point; at least 1.
        ks: wanted.

    Returns:
        Each `min(k, most)` once, ascending.

    Raises:
        ValueError: `most` below 1.

    Example:
        >>> cutoffs(19_182), cutoffs(4), cutoffs(3), cutoffs(2)
        ((1, 3, 5), (1, 3, 4), (1, 3), (1, 2))
    """
    if most < 1:
        raise ValueError(f"most = {most}: must be at least 1; there is nothing to rank")
    return tuple(sorted({min(k, most) for k in ks}))


@dataclasses.dataclass(frozen=True)
class _Judged:
    pred: np.ndarray  # [n, K]
    hits: np.ndarray  # bool [n, K]
    true_rows: np.ndarray  # row of each distinct true label, ascending
    true_ids: np.ndarray
    counts: np.ndarray  # [n], distinct true labels


def is_better(new: np.ndarray, old: np.ndarray, *, errors: float) -> bool:
    """Whether points found more by one way than by another, by so many standard errors.

    Args:
      new: what each point found, float [n].
      old: the same of the other way.
      errors: of the mean difference; equal ones are not better.

    Example:
      >>> is_better(np.array([1, 1, 0, 1]), np.array([0, 1, 0, 0]), errors=1.0)
      True
    """
    more = np.asarray(new, np.float64) - old
    return bool(more.mean() > errors * more.std() / np.sqrt(more.size))


def first_level(tried: Sequence[np.ndarray]) -> int:
    """The first choice that the best is not better than by a standard error.

    Args:
      tried: of each choice, what each point found: float [n].

    Example:
      >>> first_level([np.array([0, 1, 0, 1]), np.array([1, 1, 0, 1]), np.array([0, 0, 0, 0])])
      1
    """
    best = max(tried, key=np.sum)
    return [is_better(best, quality, errors=1.0) for quality in tried].index(False)


def _check_k(pred: Any, k: int) -> None:
    shape = np.shape(pred)
    if len(shape) != 2:
        raise ValueError(f"pred must have the shape [n, K], got {shape}")
    if not 1 <= k <= shape[1]:
        raise ValueError(f"k must be from 1 to the {shape[1]} predictions of a point, got {k}")


def _judge(pred: Any, offsets: Any, ids: Any) -> _Judged:
    pred, offsets, ids = np.asarray(pred), np.asarray(offsets), np.asarray(ids)
    n = pred.shape[0]
    if n == 0:
        raise ValueError("pred has no points: a mean over none is undefined")
    if not np.issubdtype(pred.dtype, np.integer):
        raise ValueError(f"pred must hold integer label ids, got {pred.dtype}")
    if offsets.shape != (n + 1,) or offsets[0] != 0 or offsets[-1] != ids.size:
        raise ValueError(
            f"offsets must have {n + 1} entries, one more than pred has points, from 0 to the "
            f"{ids.size} entries of ids; got shape {offsets.shape}"
        )
    if ids.size and ids.min() < 0:
        raise ValueError(f"ids must be at least 0, found {ids.min()}")
    ordered = np.sort(pred, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, column = (int(axis[0]) for axis in np.nonzero(twice))
        raise ValueError(f"pred names label {ordered[row, column]} twice for point {row}")

    # One sorted list of (row, label) keys answers all membership questions by binary search.
    base = 1 + max(int(pred.max(initial=0)), int(ids.max(initial=0)))
    rows = np.repeat(np.arange(n, dtype=np.int64), np.diff(offsets))
    true_keys = np.unique(rows * base + ids)
    keys = np.arange(n, dtype=np.int64)[:, None] * base + pred
    if true_keys.size:
        at = np.minimum(np.searchsorted(true_keys, keys), true_keys.size - 1)
        hits = (true_keys[at] == keys) & (pred >= 0)
    else:
        hits = np.zeros(pred.shape, np.bool_)
    true_rows, true_ids = np.divmod(true_keys, base)
    return _Judged(pred, hits, true_rows, true_ids, np.bincount(true_rows, minlength=n))


def _precision(judged: _Judged, k: int) -> float:
    return float(judged.hits[:, :k].sum(axis=1).mean() / k)


def _recall(judged: _Judged, k: int) -> float:
    return float((judged.hits[:, :k].sum(axis=1) / np.maximum(judged.counts, 1)).mean())


def _ndcg(judged: _Judged, k: int) -> float:
    discounts = 1 / np.log2(np.arange(k) + 2)
    ideal = np.concatenate([np.ones(1), np.cumsum(discounts)])  # 1 where the gain is 0 anyway
    gain = (judged.hits[:, :k] * discounts).sum(axis=1)
    return float((gain / ideal[np.minimum(judged.counts, k)]).mean())


def _weigh(judged: _Judged, inv_propensity: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gain of each prediction [n, K], and the gains [n, K] of the best ranking."""
    weights = np.asarray(inv_propensity, np.float64)
    if judged.true_ids.size and judged.true_ids.max() >= weights.size:
        raise ValueError(
            f"inv_propensity has {weights.size} labels, but label {judged.true_ids.max()} is true"
        )
    gains = np.zeros(judged.pred.shape)
    gains[judged.hits] = weights[judged.pred[judged.hits]]
    order = np.lexsort((-weights[judged.true_ids], judged.true_rows))
    first = np.cumsum(judged.counts) - judged.counts
    rank = np.arange(judged.true_rows.size) - first[judged.true_rows]
    kept = rank < judged.pred.shape[1]
    best = np.zeros(judged.pred.shape)
    best[judged.true_rows[kept], rank[kept]] = weights[judged.true_ids[order][kept]]
    return gains, best


def _psp(judged: _Judged, gains: np.ndarray, best: np.ndarray, k: int) -> float:
    possible = best[:, :k].sum()
    return float(gains[:, :k].sum() / possible) if possible > 0 else 0.0
