"""Prediction: exact over all rows, through the tables, or over quantized rows.

All take a `Batch` and give the ids of the best k labels, best first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data import Batch, XmcData, batches, plan_capacity
from sparse_jax.retrieval import index as lsh
from sparse_jax.retrieval import quantized, topk
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.retrieval.quantized import QuantizedIndex
from sparse_jax.xmc.network import Params, encode


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
