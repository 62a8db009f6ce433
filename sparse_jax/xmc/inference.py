"""Prediction: of a whole model, and of a network alone by three ways.

A network's labels can be found exactly over all rows, through the tables, or over quantized rows;
these take a `Batch` and give the ids of the best k labels, best first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data import (
    Batch,
    Capacity,
    XmcData,
    batches,
    make_batch,
    plan_capacity,
    weighting,
    with_sizes,
)
from sparse_jax.ops.ensemble import LastLayer, WidePart, ensemble_topk
from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.ops.mach import Buckets
from sparse_jax.retrieval import index as lsh
from sparse_jax.retrieval import quantized, topk
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.retrieval.quantized import QuantizedIndex
from sparse_jax.retrieval.topk import TopK
from sparse_jax.runtime.arguments import check_kind, check_whole
from sparse_jax.xmc import calibration, mach, wide
from sparse_jax.xmc.checks import READ
from sparse_jax.xmc.model import Mix, Model
from sparse_jax.xmc.network import Params, encode
from sparse_jax.xmc.wide import entries


class Predictions(NamedTuple):
    """The best k labels of n points."""

    labels: np.ndarray  # int32 [n, k], best first; -1 where there are fewer labels
    scores: np.ndarray  # float32 [n, k], their chances to be true, from 0 to 1


def best_labels(model: Model, batch: Batch, *, k: int, beam: int = 10) -> TopK:
    """The k labels with the largest scores: a pure function to `jit`, with k static.

    Args:
      model: of `xmc.fit`.
      batch: B weighted points.
      k: labels to return for each.
      beam: nodes that a tree's search keeps on each level; static.

    Returns:
      `TopK`, its scores before calibration. No array [B, N] is made; without networks a point's
      time depends on the labels that its features point to, not on N.
    """
    hidden = hidden_of(model.encoders, batch) if model.encoders else None
    return _beside(model, hidden, batch, k=k, beam=beam)


def _beside(
    model: Model, hidden: jax.Array | None, batch: Batch, *, k: int, beam: int = 10
) -> TopK:
    """`best_labels` where the hidden vectors are known; None without networks."""
    if model.buckets is not None and hidden is not None:
        return mach.best_labels(hidden, model.output, model.output_bias, model.buckets, k=k)
    layer = None if hidden is None else LastLayer(hidden, model.output, model.output_bias)
    scores, ids = ensemble_topk(
        wide_part(model),
        model.trees,
        layer,
        entries(batch),
        num_points=batch.row_mask.shape[0],
        weight=model.mix.weight,
        tree_weight=model.mix.tree_weight,
        near=model.neighbours,
        beam=beam,
        k=k,
    )
    return TopK(scores, ids)


def hidden_of(encoders: Sequence[Params], batch: Batch) -> jax.Array:
    """The hidden vectors of all networks side by side, scaled for their mean: [B, T·d]."""
    share = jnp.float32(1 / len(encoders))
    return jnp.concatenate([encode(params, batch) * share for params in encoders], axis=1)


_hidden_of = jax.jit(hidden_of)


def hidden_of_all(model: Model, points: XmcData, *, batch_size: int = 256) -> np.ndarray:
    """`hidden_of` every point of a weighted set, in order: float32 [n, T·d]."""
    found = []
    for start in range(0, points.num_points, batch_size):
        rows = np.arange(start, min(start + batch_size, points.num_points))
        hidden = _hidden_of(model.encoders, padded_batch(points, rows, batch_size))
        found.append(np.asarray(hidden)[: rows.size])
    return np.concatenate(found)


def wide_part(model: Model) -> WidePart:
    """The wide part as prediction reads it."""
    wide = model.wide
    return WidePart(wide.offsets, wide.label_ids, wide.weights, wide.bias, model.by_bias)


def predict_batch(model: Model, batch: Batch, *, k: int) -> tuple[jax.Array, jax.Array]:
    """(labels int32 [B, k], chances float32 [B, k]) of weighted points: pure, to `jit`."""
    found = best_labels(model, batch, k=max(k, 2))  # the best label's lead is over the second
    chance = calibration.chances(found.scores, model.mix.curve)
    return found.ids[:, :k], chance[:, :k]


_predict_batch = jax.jit(predict_batch, static_argnames="k")
_beside_of = jax.jit(_beside, static_argnames=("k", "beam"))


class Best(NamedTuple):
    """The best k labels of n points, before calibration."""

    scores: np.ndarray  # float32 [n, k], best first; -inf behind the last
    ids: np.ndarray  # int32 [n, k]; -1 behind the last


def best_of_all(model: Model, points: XmcData, *, k: int, batch_size: int = 256) -> Best:
    """`best_labels` of every point of a weighted set, in order.

    Networks have a program of their own, which every k and every wide part have in common.
    """
    scores = np.full((points.num_points, k), -np.inf, np.float32)
    ids = np.full((points.num_points, k), -1, np.int32)
    bare = dataclasses.replace(model, encoders=())
    for start in range(0, points.num_points, batch_size):
        rows = np.arange(start, min(start + batch_size, points.num_points))
        batch = padded_batch(points, rows, batch_size)
        hidden = _hidden_of(model.encoders, batch) if model.encoders else None
        found = _beside_of(bare, hidden, batch, k=k)
        scores[rows], ids[rows] = (np.asarray(x)[: rows.size] for x in found)
    return Best(scores, ids)


def predict(model: Model, points: XmcData, *, k: int = 5, batch_size: int = 256) -> Predictions:
    """The best k labels of each point, with their chances to be true.

    Args:
      model: of `xmc.fit` or `xmc.load`.
      points: as they are read: not weighted. Features that the model doesn't have are left out,
        and labels aren't looked at.
      k: labels to return for each; where the model has fewer, the rest are -1 with a score of 0.
      batch_size: points at a time.

    Returns:
      `Predictions`.

    Raises:
      ValueError: if k or batch_size is below 1.

    Example:
      >>> from sparse_jax import data, xmc
      >>> points = data.XmcData(
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), np.ones(8, np.float32),
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), num_features=2, num_labels=2)
      >>> predict(xmc.fit(points), points, k=1).labels[:2].tolist()
      [[0], [1]]
    """
    k, batch_size = check_whole("k", k), check_whole("batch_size", batch_size)
    check_kind("points", points, XmcData, READ)
    weighted = prepare(model, points)
    labels = np.full((points.num_points, k), -1, np.int32)
    scores = np.zeros((points.num_points, k), np.float32)
    kept = min(k, model.num_labels)
    for start in range(0, points.num_points, batch_size):
        rows = np.arange(start, min(start + batch_size, points.num_points))
        batch = padded_batch(weighted, rows, batch_size if start or rows.size > 8 else 8)
        found = _predict_batch(model, batch, k=kept)
        for out, given in zip((labels, scores), found, strict=True):
            out[rows, :kept] = np.asarray(given)[: rows.size]
    return Predictions(labels, scores)


def prepare(model: Model, points: XmcData) -> XmcData:
    """Points as a model takes them: with its sizes, weighted, without labels."""
    known = known_features(points, model.num_features)
    none = np.zeros(points.num_points + 1, np.int64)
    bare = dataclasses.replace(
        known, label_offsets=none, label_ids=np.zeros(0, np.int32), num_labels=model.num_labels
    )
    idf = None if model.idf is None else np.asarray(model.idf)
    return weighting.apply(weighting.Weighting(idf), bare)


def known_features(points: XmcData, num_features: int) -> XmcData:
    """Points without the features whose ids are num_features or more, of that many features."""
    if points.num_features <= num_features:
        return with_sizes(points, num_features=num_features)
    kept = points.feature_ids < num_features
    before = np.concatenate([[0], np.cumsum(kept)])
    return dataclasses.replace(
        points,
        feature_offsets=before[points.feature_offsets],
        feature_ids=points.feature_ids[kept],
        feature_values=points.feature_values[kept],
        num_features=num_features,
    )


def best_of_tree(model: Model, tree: LabelTree, points: XmcData) -> np.ndarray:
    """The best label of each weighted point by one tree alone, int [n]; it is always reached."""
    alone = dataclasses.replace(
        model,
        wide=wide.zeros_like(model.wide),
        by_bias=jnp.arange(model.num_labels, dtype=jnp.int32),
        trees=(tree,),
        encoders=(),
        neighbours=None,
        mix=Mix(jnp.float32(1), jnp.float32(1), model.mix.curve),
    )
    return best_of_all(alone, points, k=1).ids[:, 0]


def padded_batch(points: XmcData, rows: np.ndarray, batch_size: int) -> Batch:
    """A batch whose numbers of entries are powers of two, so that few sizes are compiled."""

    def size(offsets: np.ndarray) -> int:
        return 64 << max(0, (int(np.diff(offsets)[rows].sum()) - 1).bit_length() - 6)

    capacity = Capacity(size(points.feature_offsets), size(points.label_offsets), 1, 1)
    return make_batch(points, rows, batch_size, capacity)


def predict_dense(
    params: Params, batch: Batch, *, k: int, buckets: Buckets | None = None
) -> jax.Array:
    """The k labels with the largest logits, over all N.

    Args:
      params: as `network.init_params` makes them.
      batch: B points.
      k: labels to return for each.
      buckets: how labels share the output rows, where they do: as `mach.best_labels`.

    Returns:
      int32 [B, k], best first; equal logits in order of id.
    """
    hidden, output, bias = encode(params, batch), params["output"], params["output_bias"]
    if buckets is not None:
        return mach.best_labels(hidden, output, bias, buckets, k=k).ids
    return topk.rows(hidden, output, bias, k=k).ids


def predict_sparse(
    params: Params,
    index: LshIndex,
    batch: Batch,
    *,
    k: int,
    config: IndexConfig,
    max_candidates: int = 256,
) -> jax.Array:
    """The k best of the candidates the tables find, ranked by their exact logits.

    Training wants few candidates for each example, the hardest; prediction wants many, so their
    number is its own. `predict_quantized` finds more in less time.

    Args:
      params: as `network.init_params` makes them.
      index: over the output layer; re-hash it first, or it finds rows where they were.
      batch: B points.
      k: labels to return for each; at most max_candidates.
      config: as the index was made with; its own max_candidates is for training.
      max_candidates: how many of the ranked candidates get an exact logit.

    Returns:
      int32 [B, k], best first; −1 where the buckets held fewer.

    Raises:
      ValueError: if k exceeds max_candidates.
    """
    if k > max_candidates:
        raise ValueError(f"k = {k}: must be at most max_candidates = {max_candidates}")
    hidden = encode(params, batch)
    config = dataclasses.replace(config, max_candidates=max_candidates)
    found = lsh.candidates(index, hidden, config=config).ids
    return topk.among(hidden, params["output"], params["output_bias"], found, k=k).ids


def quantize(
    key: jax.Array, params: Params, batches: Iterable[Batch], *, subspaces: int | None = None
) -> QuantizedIndex:
    """A product-quantized copy of the output layer, for `predict_quantized`.

    Args:
      key: PRNG key.
      params: as `network.init_params` makes them.
      batches: some thousand points in all, such as will be predicted; training points do.
      subspaces: half-bytes of a row's code; None: `quantized.default_subspaces`.

    Returns:
      A `quantized.QuantizedIndex`; `quantized.update` keeps it over rows that change.

    Raises:
      ValueError: if there is no point, or `subspaces` is out of range.
    """
    hidden = jax.jit(encode)
    queries = [hidden(params, batch)[np.asarray(batch.row_mask)] for batch in batches]
    if not queries:
        raise ValueError("batches is empty: give some thousand points, such as will be predicted")
    fit = jax.jit(quantized.fit, static_argnames="subspaces")
    output, bias = params["output"], params["output_bias"]
    return fit(key, output, bias, jnp.concatenate(queries), subspaces=subspaces)


def predict_quantized(
    params: Params, index: QuantizedIndex, batch: Batch, *, k: int, rescored: int = 256
) -> jax.Array:
    """The k best labels by exact logit among those with the best quantized logits.

    Args:
      params: as `network.init_params` makes them.
      index: from `quantize`; `quantized.update` it first if rows have changed.
      batch: B points.
      k: labels to return for each.
      rescored: labels of each point that get an exact logit; at least k. The knob between time and
        recall.

    Returns:
      int32 [B, k], best first; −1 where there were fewer rows.

    Raises:
      ValueError: if rescored is below k.
    """
    output, bias = params["output"], params["output_bias"]
    hidden = encode(params, batch)
    return quantized.search(index, hidden, output, bias, k=k, rescored=rescored).ids


def predict_all(
    data: XmcData, predict: Callable[[Batch], Any], *, k: int, batch_size: int = 256
) -> np.ndarray:
    """Runs a jitted predictor over every point of a set, in order.

    Args:
      data: the points.
      predict: batch -> int32 [batch_size, k].
      k: labels of each point.
      batch_size: points at a time; every batch has the same static shape.

    Returns:
      NumPy int32 [num_points, k].
    """
    capacity = plan_capacity(data, batch_size, seed=None, epochs=1)
    out = np.full((data.num_points, k), -1, np.int32)
    for i, batch in enumerate(batches(data, batch_size, capacity=capacity)):
        rows = slice(i * batch_size, min((i + 1) * batch_size, data.num_points))
        out[rows] = np.asarray(predict(batch))[: rows.stop - rows.start]
    return out
