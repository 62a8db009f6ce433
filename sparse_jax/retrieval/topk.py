"""Exact top-k of inner products: over all rows of a layer, or among some of them.

Scores are w·x + b. Neither function makes an array of all scores or a copy of the rows it looks
at: the kernels read the rows in order, keep a running best, and compute no score of a row that is
bound to stay below it. Larger scores come first, equal ones in order of id; a score of −∞ or NaN
doesn't rank.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.ops import topk as ops

__all__ = [
    "TopK",
    "among",
    "rows",
]


class TopK(NamedTuple):
    """The k best rows of each of B queries, as `rows` and `among` return them."""

    scores: jax.Array  # float32 [B, k], best first; -inf behind the last
    ids: jax.Array  # int32 [B, k]; -1 behind the last


def rows(queries: jax.Array, weights: jax.Array, bias: jax.Array, *, k: int) -> TopK:
    """The k rows with the largest w·x + b, over all N.

    Args:
      queries: float32 [B, d].
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      k: at least 1; more than N pads.

    Returns:
      `TopK`. A score is summed in one order for up to four queries and in another for more, so
      batches of different size may differ in its last bits; threads make no difference.

    Raises:
      ValueError: if shapes don't fit together, or k is below 1.

    Example:
      >>> rows(jnp.ones((1, 2)), jnp.eye(3, 2), jnp.zeros(3), k=2).ids.tolist()
      [[0, 1]]
    """
    _check(queries, weights, bias, k)
    return TopK(*ops.topk_rows(queries, weights, bias, k))


def among(
    queries: jax.Array, weights: jax.Array, bias: jax.Array, ids: jax.Array, *, k: int
) -> TopK:
    """The k best of the rows given for each query.

    Args:
      queries: float32 [B, d].
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      ids: int32 [B, m], distinct in a row; those out of range, as −1, are padding.
      k: at least 1; more than m pads.

    Returns:
      `TopK`.

    Raises:
      ValueError: if shapes don't fit together, or k is below 1.

    Example:
      >>> some = jnp.array([[2, 1, -1]], jnp.int32)
      >>> among(jnp.ones((1, 2)), jnp.eye(3, 2), jnp.zeros(3), some, k=1).ids.tolist()
      [[1]]
    """
    _check(queries, weights, bias, k)
    if ids.ndim != 2 or ids.shape[0] != queries.shape[0] or ids.dtype != jnp.int32:
        raise ValueError(f"ids is {ids.dtype} {ids.shape}: must be int32 [{queries.shape[0]}, m]")
    return TopK(*ops.topk_among(queries, weights, bias, ids, k))


def _check(queries: jax.Array, weights: jax.Array, bias: jax.Array, k: int) -> None:
    num_rows, d = weights.shape if weights.ndim == 2 else (-1, -1)
    if queries.ndim != 2 or queries.shape[1] != d or bias.shape != (num_rows,):
        raise ValueError(
            f"queries {queries.shape}, weights {weights.shape} and bias {bias.shape} don't fit: "
            "must be [B, d], [N, d], [N]"
        )
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
