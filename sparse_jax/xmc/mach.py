"""An output layer without a row for each label: labels share rows, which hashing gives them.

A label's row is the sum of R rows, one of B buckets in each of R repetitions, so its logit is the
sum of its buckets' logits: the score by which MACH merges its repetitions. MACH trains each
repetition to tell buckets apart; here training minimizes the loss of the merged scores over active
sets of labels. Which finds more depends on the data (docs/mach.md has figures).

References:
  Medini et al., Extreme classification in log memory using count-min sketch: a case study of
  Amazon search with 50M products, 2019. Svenstrup et al., Hash embeddings for efficient word
  representations, 2017.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.layers import sparse_dense
from sparse_jax.ops.mach import Buckets, bucket_rows, mach_topk
from sparse_jax.retrieval.topk import TopK
from sparse_jax.rows import take_rows

PROBES = 32  # best buckets of each repetition whose labels are ranked, or k where that is more


def scale_first(rows: jax.Array, buckets: Buckets) -> jax.Array:
    """First weights [R · B, d] such that sums of R of them have the variance that these have."""
    scaled = rows.astype(jnp.float32) * jnp.float32(buckets.repetitions**-0.5)
    return scaled.astype(rows.dtype)


def sum_rows(weights: jax.Array, bias: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rows of labels, of rows that they share.

    Args:
      weights: float32 [U, d].
      bias: float32 [U].
      places: int32 [A, R], where each label's rows are among these; -1 gives zeros.

    Returns:
      (float32 [A, d], float32 [A]).
    """
    rows = [take_rows(weights, places[:, r]) for r in range(places.shape[1])]
    biases = [take_rows(bias, places[:, r]) for r in range(places.shape[1])]
    return sum(rows[1:], rows[0]), sum(biases[1:], biases[0])


def best_labels(
    hidden: jax.Array,
    output: jax.Array,
    bias: jax.Array,
    buckets: Buckets,
    *,
    k: int,
    probes: int = PROBES,
) -> TopK:
    """The k labels with the largest logits, of those that lie in a good bucket.

    Args:
      hidden: float32 [n, d].
      output: float32 or bfloat16 [R · B, d].
      bias: float32 [R · B].
      buckets: how labels share these rows.
      k: labels of each, at least 1.
      probes: labels are ranked that lie in one of so many best buckets of some repetition, or of k
        where that is more, so that k are found wherever there are so many.

    Returns:
      `TopK`; larger scores first, equal ones in order of id.

    Example:
      >>> buckets = Buckets(num_labels=6, size=4, repetitions=2)
      >>> found = best_labels(jnp.ones((1, 3)), jnp.ones((8, 3)), jnp.zeros(8), buckets, k=2)
      >>> found.ids.tolist(), found.scores.tolist()
      ([[0, 1]], [[6.0, 6.0]])
    """
    logits = sparse_dense(output.astype(jnp.float32), bias, hidden)
    if buckets.num_labels < buckets.size:  # no training has taught buckets without a label
        rows = bucket_rows(jnp.arange(buckets.num_labels, dtype=jnp.int32), buckets)
        used = jnp.zeros(buckets.num_rows, bool).at[rows.reshape(-1)].set(True)
        logits = jnp.where(used[None, :], logits, -jnp.inf)
    return TopK(*mach_topk(logits, buckets, probes=max(probes, k), k=k))
