"""Distinct ids of a batch, and weighted sums of rows over its examples."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from sparse_jax.ops import unique
from sparse_jax.ops.bag import weighted_sum
from sparse_jax.rows.tables import check_ids

Combiner = Literal["sum", "mean", "sqrtn"]
_COMBINERS = ("sum", "mean", "sqrtn")


def unique_ids(
    ids: jax.Array, *, num_rows: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distinct ids of a batch in ascending order, and where each entry went.

    ``unique[inverse[i]] == ids[i]`` for every entry whose ``inverse`` is not ``-1``.

    Args:
      ids: int32 ``[n]``. Padding ``-1``, and any other value outside ``[0, num_rows)``, is left
        out.
      num_rows: rows of the table the ids point into, static.
      size: length of ``unique``, static.

    Returns:
      ``(unique, inverse, count)``: int32 ``[size]`` ascending with ``-1`` at the end; int32
      ``[n]`` with ``-1`` for padding; int32 ``[]``, the number of distinct ids. If ``count`` is
      more than ``size``, the largest ids found no place and their ``inverse`` is ``-1``: compare
      the two.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if ``ids`` is not one-dimensional, or ``num_rows`` or ``size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> u, inv, n = unique_ids(jnp.asarray([7, -1, 2, 7], jnp.int32), num_rows=9, size=3)
      >>> u.tolist(), inv.tolist(), int(n)
      ([2, 7, -1], [1, -1, 0, 1], 2)
    """
    check_ids("ids", ids)
    for name, value in (("num_rows", num_rows), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    return unique.unique_ids(jnp.asarray(ids), num_rows=num_rows, size=size)


def embedding_bag(
    rows: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_segments: int,
    combiner: Combiner = "sum",
) -> jax.Array:
    """Weighted sums of rows over ragged bags, one bag an example.

    With ``E(b)`` the entries ``j`` of bag ``b``::

        out[b] = sum_{j in E(b)} weights[j] * rows[positions[j]] / norm(b)
        norm   = 1 | sum_j weights[j] | sqrt(sum_j weights[j]^2)    (sum | mean | sqrtn)

    Differentiable in ``rows`` and ``weights``; identical bits at any thread count. An empty bag,
    or one whose norm is zero, gives zeros.

    Args:
      rows: float ``[u, d]``, usually the rows that :func:`unique_ids` named, gathered once.
      positions: int32 ``[nnz]`` into ``rows``; ``-1`` for padding.
      segments: int32 ``[nnz]``, the bag of each entry; ascending is fastest, any order is right.
      weights: float ``[nnz]``, or None for ones.
      num_segments: number of bags, static.
      combiner: ``"sum"``, ``"mean"`` or ``"sqrtn"``.

    Returns:
      Array ``[num_segments, d]`` of the rows' dtype; narrow ones are summed in float32.

    Raises:
      TypeError: if ``positions`` or ``segments`` is not an int32 array.
      ValueError: if the lengths differ, or the combiner is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
      >>> positions = jnp.asarray([0, 1, 1, -1], jnp.int32)
      >>> segments = jnp.asarray([0, 0, 1, 1], jnp.int32)
      >>> embedding_bag(rows, positions, segments, num_segments=2, combiner="mean").tolist()
      [[2.0, 3.0], [3.0, 4.0]]

    References:
      The combiners are those of TensorFlow's ``tf.nn.embedding_lookup_sparse``.
    """
    if combiner not in _COMBINERS:
        raise ValueError(f"combiner must be one of {_COMBINERS}, got {combiner!r}.")
    check_ids("positions", positions)
    check_ids("segments", segments)
    if positions.shape != segments.shape:
        raise ValueError(
            f"positions and segments must have equal lengths, got {positions.shape[0]} and "
            f"{segments.shape[0]}."
        )
    if weights is not None and tuple(weights.shape) != tuple(positions.shape):
        raise ValueError(
            f"weights must have the shape of positions {tuple(positions.shape)}, got "
            f"{tuple(weights.shape)}."
        )
    rows, positions, segments = jnp.asarray(rows), jnp.asarray(positions), jnp.asarray(segments)
    given = rows.dtype
    if given in (jnp.bfloat16, jnp.float16):
        # A sum in bfloat16 stops at 256 ones: sums and gradients are taken in float32.
        rows = rows.astype(jnp.float32)
    valid = (positions >= 0) & (positions < rows.shape[0])
    valid &= (segments >= 0) & (segments < num_segments)
    if weights is None:
        w = valid.astype(rows.dtype)
    else:
        w = jnp.where(valid, jnp.asarray(weights).astype(rows.dtype), jnp.zeros((), rows.dtype))
    total = weighted_sum(rows, jnp.where(valid, positions, -1), segments, w, num_segments)
    if combiner == "sum":
        return total.astype(given)
    bag = jnp.where(valid, segments, num_segments)
    parts = w if combiner == "mean" else w * w
    norm = jnp.zeros(num_segments, rows.dtype).at[bag].add(parts, mode="drop")
    empty = norm == jnp.zeros((), norm.dtype)
    # Guard the denominator, not only the quotient, or the gradient of an empty bag is NaN.
    norm = jnp.where(empty, jnp.ones((), norm.dtype), norm)
    norm = norm if combiner == "mean" else jnp.sqrt(norm)
    mean = jnp.where(empty[:, None], jnp.zeros((), total.dtype), total / norm[:, None])
    return mean.astype(given)
