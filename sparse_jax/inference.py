"""Prediction: exact over all rows, through the tables, or through lists with learned codes.

All take a `Batch` and give the ids of the best k labels, best first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import clusters, topk
from sparse_jax import index as lsh
from sparse_jax.clusters import ClusterIndex
from sparse_jax.data import Batch, XmcData, batches, plan_capacity
from sparse_jax.index import IndexConfig, LshIndex
from sparse_jax.network import Params, encode


def predict_dense(params: Params, batch: Batch, *, k: int) -> jax.Array:
    """The k labels with the largest logits, over all N.

    Args:
      params: as `network.init_params` makes them.
      batch: B points.
      k: labels to return for each.

    Returns:
      int32 [B, k], best first; equal logits in order of id.
    """
    return topk.rows(encode(params, batch), params["output"], params["output_bias"], k=k).ids


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
    number is its own. `predict_clustered` finds more in less time.

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


def fit_clusters(
    key: jax.Array, params: Params, batches: Iterable[Batch], *, num_lists: int | None = None
) -> ClusterIndex:
    """A learned-code index over the output layer, for `predict_clustered`.

    Args:
      key: PRNG key.
      params: as `network.init_params` makes them.
      batches: some thousand points in all, such as will be predicted; training points do.
      num_lists: None: `clusters.default_lists`.

    Returns:
      A `clusters.ClusterIndex`; `clusters.update` keeps it over rows that change.
    """
    hidden = jax.jit(encode)
    queries = [hidden(params, batch)[np.asarray(batch.row_mask)] for batch in batches]
    fit = jax.jit(clusters.fit, static_argnames="num_lists")
    return fit(
        key,
        params["output"],
        params["output_bias"],
        jnp.concatenate(queries) if queries else None,
        num_lists=num_lists,
    )


def predict_clustered(
    params: Params,
    index: ClusterIndex,
    batch: Batch,
    *,
    k: int,
    max_rows: int,
    rescored: int = 64,
) -> jax.Array:
    """The k best labels of the lists that promise the batch's points most.

    Args:
      params: as `network.init_params` makes them.
      index: from `fit_clusters`; `clusters.update` it first if rows have changed.
      batch: B points.
      k: labels to return for each.
      max_rows: rows read for each point, at a byte a coordinate: the knob between time and recall.
      rescored: how many of these get an exact logit; at least k.

    Returns:
      int32 [B, k], best first; −1 where there were fewer rows.
    """
    output, bias = params["output"], params["output_bias"]
    options = {"k": k, "max_rows": max_rows, "rescored": rescored}
    return clusters.search(index, encode(params, batch), output, bias, **options).ids


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
