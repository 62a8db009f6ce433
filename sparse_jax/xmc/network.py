"""The network that `training` trains: one hidden layer over sparse features, many outputs.

h = dropout(rms_norm(relu(bag of feature rows + bias))), logits = W h + output bias. Normalizing h
lets a small sampled softmax train as well as the whole one: without it the scale of h, which every
logit shares, is set by the few negatives at hand (docs/design.md has the figures).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.data import Batch
from sparse_jax.layers import sparse_dense_init
from sparse_jax.ops.fixed_order import add_bias
from sparse_jax.rows import draw_rows, embedding_bag, take_rows

Params = dict[str, jax.Array]

_EMBEDDING_SCALE = 0.1  # times d^(-1/2): small, so that what a rare feature learns outweighs it
_EPSILON = 1e-6  # of the mean square, below which a hidden vector counts as zero


def init_params(
    key: jax.Array, *, num_features: int, num_labels: int, hidden: int, dtype: Any = jnp.float32
) -> Params:
    """Parameters: embedding [F, d], hidden_bias [d], output [N, d], output_bias [N].

    Args:
      key: PRNG key.
      num_features: F.
      num_labels: N.
      hidden: d.
      dtype: of embedding and output, float32 or bfloat16; the biases are float32. Rows of a
        bfloat16 table are computed with as float32, and updated by `optim.apply_updates`.

    Raises:
      ValueError: if the dtype is another.

    Example:
      >>> sorted(init_params(jax.random.key(0), num_features=5, num_labels=7, hidden=4))
      ['embedding', 'hidden_bias', 'output', 'output_bias']
    """
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype = {dtype}: must be jnp.float32 or jnp.bfloat16")
    features, outputs = jax.random.split(key)
    output = sparse_dense_init(outputs, hidden, num_labels, dtype=dtype)
    scale = jnp.float32(_EMBEDDING_SCALE * hidden**-0.5)

    def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return (jax.random.normal(key, shape, jnp.float32) * scale).astype(dtype)

    return {
        "embedding": draw_rows(draw, features, num_features, hidden),
        "hidden_bias": jnp.zeros(hidden, jnp.float32),
        "output": output["weights"],
        "output_bias": output["bias"],
    }


def hidden_layer(
    rows: jax.Array,
    bias: jax.Array,
    positions: jax.Array,
    batch: Batch,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """The hidden vectors of a batch, each of mean square 1 before dropout.

    Args:
      rows: float32 [U, d], feature rows.
      bias: float32 [d].
      positions: int32 [E], the row of each feature entry of the batch.
      batch: B points.
      dropout: the chance of a unit to be left out, in [0, 1); those kept grow by 1 / (1 - dropout).
      key: PRNG key of the dropout; None leaves out nothing, as in prediction.

    Returns:
      float32 [B, d].

    References:
      Zhang and Sennrich, Root mean square layer normalization, 2019, equation 4, without gain.
      Srivastava et al., Dropout, 2014, section 4.
    """
    return activate(bag_features(rows, positions, batch), bias, dropout=dropout, key=key)


def bag_features(rows: jax.Array, positions: jax.Array, batch: Batch) -> jax.Array:
    """Each point's weighted sum of feature rows.

    Args:
      rows: float32 [U, d], feature rows, or all of a table's.
      positions: int32 [E], the row of each feature entry of the batch; -1 leaves it out.
      batch: B points.

    Returns:
      float32 [B, d].
    """
    return embedding_bag(
        rows,
        positions,
        batch.feature_rows,
        batch.feature_values,
        num_segments=batch.row_mask.shape[0],
    )


def bag_gradient(grad: jax.Array, positions: jax.Array, batch: Batch, *, size: int) -> jax.Array:
    """The gradient of the rows behind `bag_features`; a bag is linear, so it asks for none of them.

    Args:
      grad: float32 [B, d], of the bags.
      positions: int32 [E], as in `bag_features`.
      batch: B points.
      size: U, how many rows there are.

    Returns:
      float32 [U, d].
    """
    rows = jnp.zeros((size, grad.shape[1]), jnp.float32)
    _, pull = jax.vjp(lambda rows: bag_features(rows, positions, batch), rows)
    (grad_rows,) = pull(grad)
    return grad_rows


def activate(
    bag: jax.Array, bias: jax.Array, *, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """The hidden vectors of bags, float32 [B, d]: what `hidden_layer` does with their sums."""
    h = jax.nn.relu(add_bias(bag, bias))
    square = (h * h) @ jnp.full((h.shape[1], 1), 1.0 / h.shape[1], jnp.float32)
    h = h * jax.lax.rsqrt(square + jnp.float32(_EPSILON))
    if key is None or dropout == 0:
        return h
    kept = jax.random.bernoulli(key, 1 - dropout, h.shape)
    return jnp.where(kept, h * jnp.float32(1 / (1 - dropout)), jnp.float32(0))


def encode(params: Params, batch: Batch) -> jax.Array:
    """The hidden vectors of a batch under whole parameters, as in prediction.

    Args:
      params: as `init_params` makes them.
      batch: B points.

    Returns:
      float32 [B, d].
    """
    rows, positions = params["embedding"], batch.feature_ids
    if rows.dtype == jnp.bfloat16:  # in float32 no more than the batch's own
        rows = take_rows(rows, positions)
        positions = jnp.where(positions < 0, -1, jnp.arange(positions.size, dtype=jnp.int32))
    return hidden_layer(rows, params["hidden_bias"], positions, batch)
