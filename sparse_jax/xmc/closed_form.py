"""Parts of the wide part's weights that need no training: centroids of labels, and names.

    score(l | x) += Σ_k c_k · x · S_k[:, l]

S_centroid[:, l] is the mean direction of the points of l, S of names is `names.pairs`. Gradients
need many points to tell a label's words from chance; a label that was seen once or twice is known
as well by the point itself. Held-out points choose each c_k, 0 where a part brings nothing, and the
products are added to the weights: prediction knows nothing of them.

References:
  Rocchio, Relevance feedback in information retrieval, 1971: centroids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from sparse_jax.data import XmcData, to_csr
from sparse_jax.ops.threads import num_threads
from sparse_jax.xmc import inference, metrics, names, wide
from sparse_jax.xmc.model import About, Model
from sparse_jax.xmc.soft_labels import Weighted

WEIGHTS = {  # tried for each part, for rows of unit length; the first that is level is taken
    "centroid": (0.0, 0.2, 0.4, 0.8, 1.6),
    "spelling": (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
    "part": (0.0, 0.5, 1.0, 2.0),
    "same": (0.0, 0.25, 0.5, 1.0, -1.0, 2.0, -8.0),
}
_DIRECTION = 0.75  # of a centroid's length that is divided out: 1 favours labels of one point
_SMALLEST = 0.02  # weights of a centroid below which a pair is left out, for unit rows
_LEAST = 0.03  # of what is added to a weight: beside 1, a label's margin, it decides nothing
_LONGEST = 1 << 15  # labels of a feature, beyond which it says little of each and costs much
_CANDIDATES, _MORE = 300, 30  # labels of a point that are ranked: by the model, by each part
_AT_ONCE = 128  # points of one task
_ROUNDS = 2  # over the parts

Parts = dict[str, sp.csr_matrix]


def fit(
    points: Weighted,
    *,
    centroids: bool,
    label_names: Sequence[str] | None,
    feature_names: Sequence[str] | None,
) -> Parts:
    """The parts that the data allow.

    Args:
      points: training points with weighted values, and their labels' weights.
      centroids: whether to make these.
      label_names: [N], or None.
      feature_names: [F], or None; names need both.

    Returns:
      By name, float32 [F, N].
    """
    parts: Parts = {}
    if centroids:
        parts["centroid"] = centroids_of(points)
    if label_names is not None and feature_names is not None:
        ids, count = points.points.feature_ids, points.points.num_features
        frequency = np.bincount(ids, minlength=count)
        parts |= names.pairs(label_names, feature_names, frequency)
    if not parts:
        return {}
    scale = wide.row_scale(points.points)
    return {kind: part / scale for kind, part in parts.items() if part.nnz}


def centroids_of(given: Weighted) -> sp.csr_matrix:
    """The sum of the points of each label, divided by its length to the power .75: [F, N]."""
    x, y = to_csr(given.points, given.weights)
    total = (y.T @ (x / wide.row_scale(given.points))).tocsr()
    lengths = np.sqrt(np.asarray(total.multiply(total).sum(axis=1)).ravel())
    total = sp.diags(np.maximum(lengths, 1e-9) ** -_DIRECTION) @ total
    found = sp.csr_matrix(total.T, dtype=np.float32)
    lengths = np.diff(found.indptr)
    found.data[np.repeat(lengths > _LONGEST, lengths) | (np.abs(found.data) < _SMALLEST)] = 0
    found.eliminate_zeros()
    found.sort_indices()
    return found


def madds(points: XmcData, parts: Parts) -> float:
    """Multiply-adds of `fit`: each value of a point for each of its labels; names have none."""
    if "centroid" not in parts:
        return 0.0
    values, labels = np.diff(points.feature_offsets), np.diff(points.label_offsets)
    return float((values.astype(np.float64) * labels).sum())


def names_of(about: About, labels: np.ndarray, points: XmcData) -> sp.csr_matrix:
    """What names say of some labels, by the weights that `choose` found: float32 [F, N].

    Args:
      about: of the model; without names, or where they brought nothing, the result is empty.
      labels: int [m], ascending.
      points: weighted ones, which tell how rare a feature is.
    """
    chosen = about.notes.get("closed_form", {})
    weights = {kind: chosen[kind] for kind in names.KINDS if kind in chosen}
    shape = (about.num_features, about.num_labels)
    if not weights or about.label_names is None or about.feature_names is None:
        return sp.csr_matrix(shape, dtype=np.float32)
    called = [about.label_names[label] for label in labels]
    frequency = np.bincount(points.feature_ids, minlength=about.num_features)
    parts = names.pairs(called, about.feature_names, frequency)
    found = sp.csr_matrix(_sum(parts, weights) / wide.row_scale(points), dtype=np.float32)
    return sp.csr_matrix((found.data, labels[found.indices], found.indptr), shape=shape)


def choose(model: Model, parts: Parts, held_out: XmcData, known: np.ndarray) -> dict[str, float]:
    """How much each part counts: by coordinates, the least that is level with the best.

    What is compared is the P@1 + P@5 of held-out points.

    Labels that only held-out points have don't count: no part but the names could know them, and
    what is asked later are labels that were trained.

    Args:
      model: whose own parts are weighed.
      parts: of `fit`.
      held_out: weighted points that neither have seen.
      known: bool [N], labels that other points have, too.

    Returns:
      Weights by name, without those that are 0.
    """
    if not parts or not held_out.num_points:
        return {}
    ranked = _candidates(model, parts, held_out, known)
    chosen = dict.fromkeys(parts, 0.0)
    for _ in range(_ROUNDS if len(parts) > 1 else 1):  # one alone would be chosen again
        for kind in (kind for kind in WEIGHTS if kind in parts):
            tried = [ranked.quality({**chosen, kind: value}) for value in WEIGHTS[kind]]
            chosen[kind] = WEIGHTS[kind][metrics.first_level(tried)]
    return {kind: value for kind, value in chosen.items() if value}


def add(model: Model, parts: Parts, chosen: dict[str, float]) -> Model:
    """The model with the chosen parts in its wide part's weights."""
    if not chosen:
        return model
    more = _sum(parts, chosen)
    more.data[np.abs(more.data) < _LEAST] = 0
    more.eliminate_zeros()
    return dataclasses.replace(model, wide=wide.add_weights(model.wide, more))


def _sum(parts: Parts, weights: dict[str, float]) -> sp.csr_matrix:
    """The parts by their weights, of which there is one: float32 [F, N]."""
    return sp.csr_matrix(sum(np.float32(x) * parts[kind] for kind, x in weights.items()))


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """Candidate labels of held-out points; a row of C for each point, padded with -inf."""

    base: np.ndarray  # float32 [n, C], scores of the model
    shares: dict[str, np.ndarray]  # float32 [n, C], of each part
    hits: np.ndarray  # bool [n, C]
    k: int

    def quality(self, weights: dict[str, float]) -> np.ndarray:
        """P@1 + P@k of each point, float64 [n]."""
        total = self.base.copy()
        for kind, weight in weights.items():
            if weight:
                total += np.float32(weight) * self.shares[kind]
        best = np.argsort(-total, axis=1, kind="stable")[:, : self.k]
        found = np.take_along_axis(self.hits, best, axis=1)
        return found[:, 0] + found.mean(axis=1)


def _candidates(model: Model, parts: Parts, held_out: XmcData, known: np.ndarray) -> _Ranked:
    """The model's best labels of each point and those of each part."""
    count = min(_CANDIDATES, model.num_labels)
    shape = (held_out.num_points, count + _MORE * len(parts))
    ranked = _Ranked(
        base=np.full(shape, -np.inf, np.float32),
        shares={kind: np.zeros(shape, np.float32) for kind in parts},
        hits=np.zeros(shape, bool),
        k=min(5, model.num_labels),
    )
    top = inference.best_of_all(model, held_out, k=count)
    x, weights = to_csr(held_out).features, _as_matrix(model.wide)
    bias, weight = np.asarray(model.wide.bias), np.float32(model.mix.weight)
    hidden, rows = _network(model, held_out)
    # What a label gets from trees of which none leads to it.
    floor = np.float32(np.log(1e-6)) * np.float32(model.mix.tree_weight if model.trees else 0)

    def rank(start: int) -> None:
        some = x[start : start + _AT_ONCE]
        scored = {kind: some @ part for kind, part in parts.items()}
        linear = some @ weights
        scratch = np.zeros(model.num_labels, np.float32)
        for own in range(some.shape[0]):
            row = start + own
            first = top.ids[row][top.ids[row] >= 0]
            found = (_best_of_row(scores, own) for scores in scored.values())
            ids = np.concatenate([first, *found])
            ids = ids[np.sort(np.unique(ids, return_index=True)[1])]
            last = top.scores[row, first.size - 1] if first.size else np.float32(np.inf)
            estimate = weight * (_entries_of_row(linear, own, ids, scratch) + bias[ids] + floor)
            if model.encoders:
                estimate += rows(ids) @ hidden[row]
            ranked.base[row, : ids.size] = np.minimum(estimate, last)
            ranked.base[row, : first.size] = top.scores[row, : first.size]
            for kind, scores in scored.items():
                share = weight * _entries_of_row(scores, own, ids, scratch)
                ranked.shares[kind][row, : ids.size] = share
            true = slice(held_out.label_offsets[row], held_out.label_offsets[row + 1])
            ranked.hits[row, : ids.size] = np.isin(ids, held_out.label_ids[true]) & known[ids]

    with ThreadPoolExecutor(num_threads()) as pool:  # products of sparse matrices let others run
        list(pool.map(rank, range(0, held_out.num_points, _AT_ONCE)))
    return ranked


def _network(
    model: Model, points: XmcData
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(hidden vectors [n, D + 1], ids -> their output rows with bias [m, D + 1])."""
    if not model.encoders:
        return np.zeros((points.num_points, 1)), lambda ids: np.zeros((ids.size, 1))
    hidden = inference.hidden_of_all(model, points)
    output, bias = np.asarray(model.output), np.asarray(model.output_bias)

    def rows(ids: np.ndarray) -> np.ndarray:
        return np.column_stack([output[ids].astype(np.float32), bias[ids]])

    return np.column_stack([hidden, np.ones(len(hidden), np.float32)]), rows


def _as_matrix(model: wide.WideModel) -> sp.csr_matrix:
    """The wide part's weights, float32 [F, N]."""
    arrays = (np.asarray(x) for x in (model.weights, model.label_ids, model.offsets))
    return sp.csr_matrix(tuple(arrays), shape=(model.offsets.size - 1, model.bias.size))


def _best_of_row(matrix: sp.csr_matrix, row: int) -> np.ndarray:
    """Columns of a row's largest entries, best first."""
    entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
    values, ids = matrix.data[entries], matrix.indices[entries]
    if values.size > _MORE:
        kept = np.argpartition(-values, _MORE)[:_MORE]
        values, ids = values[kept], ids[kept]
    return ids[np.lexsort((ids, -values))]


def _entries_of_row(
    matrix: sp.csr_matrix, row: int, ids: np.ndarray, scratch: np.ndarray
) -> np.ndarray:
    """Some entries of a row; scratch holds a zero for each column, and does afterwards."""
    entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
    columns = matrix.indices[entries]
    scratch[columns] = matrix.data[entries]
    found = scratch[ids]
    scratch[columns] = 0
    return found
