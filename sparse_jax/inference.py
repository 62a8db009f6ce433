"""Prediction: exact over all rows, or through the tables.

Both take a `Batch` and give the ids of the best k labels, best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import index as lsh
from sparse_jax.data import Batch, XmcData, batches, plan_capacity
from sparse_jax.index import IndexConfig, LshIndex
from sparse_jax.layers import matmul_rows
from sparse_jax.network import Params, hidden_layer
from sparse_jax.rows import take_rows


def predict_dense(params: Params, batch: Batch, *, k: int) -> jax.Array:
    """The k labels with the largest logits, over all N.

    Args:
      params: as `network.init_params` makes them.
      batch: B points.
      k: labels to return for each.

    Returns:
      int32 [B, k], best first; equal logits in order of id.
    """
    logits = matmul_rows(_hidden(params, batch), params["output"])
    logits = logits + params["output_bias"][None, :]
    # Behind the barrier XLA:CPU keeps its fast top_k instead of sorting every row.
    _, ids = jax.lax.optimization_barrier(jax.lax.top_k(logits, k))
    return ids.astype(jnp.int32)


def predict_sparse(
    params: Params, index: LshIndex, batch: Batch, *, k: int, config: IndexConfig
) -> jax.Array:
    """The k best of the candidates the tables find, ranked by their exact logits.

    Args:
      params: as `network.init_params` makes them.
      index: over the output layer; re-hash it first, or it finds rows where they were.
      batch: B points.
      k: labels to return for each; at most config.max_candidates.
      config: gives max_candidates, how many of the ranked candidates get an exact logit.

    Returns:
      int32 [B, k], best first; −1 where the buckets held fewer.

    Raises:
      ValueError: if k exceeds config.max_candidates.
    """
    if k > config.max_candidates:
        raise ValueError(f"k = {k}: must be at most max_candidates = {config.max_candidates}")
    hidden = _hidden(params, batch)
    found = lsh.candidates(index, hidden, config=config).ids
    rows = take_rows(params["output"], found.reshape(-1)).reshape(*found.shape, hidden.shape[1])
    bias = take_rows(params["output_bias"], found.reshape(-1)).reshape(found.shape)
    logits = jnp.einsum("bmd,bd->bm", rows, hidden) + bias
    logits = jnp.where(found >= 0, logits, -jnp.inf)
    _, best = jax.lax.top_k(logits, k)
    return jnp.take_along_axis(found, best, axis=1)


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


def _hidden(params: Params, batch: Batch) -> jax.Array:
    return hidden_layer(params["embedding"], params["hidden_bias"], batch.feature_ids, batch)
