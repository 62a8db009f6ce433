"""flax.nnx layers over the same functions; needs flax (`pip install sparse_jax[flax]`).

Nothing else in the package imports this module. The layers compute no more than the rows that are
asked for, but `nnx.grad` gives gradients as large as the tables: for updates that touch gathered
rows only, use `sparse_jax.layers` with `sparse_jax.rowwise`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparse_jax.layers import sparse_dense, sparse_dense_init
from sparse_jax.rows import Combiner, embedding_bag, take_rows

try:
    from flax import nnx
except ImportError as error:
    raise ImportError(
        "sparse_jax.nn needs flax: pip install 'sparse_jax[flax]'; the functions of "
        "sparse_jax.layers do without"
    ) from error

__all__ = ["EmbeddingBag", "SparseDense"]


class SparseDense(nnx.Module):
    """A dense layer that can compute some of its units only: y_ba = w_a · x_b + bias_a.

    Attributes:
      weights: float32 [num_units, in_features], a unit a row.
      bias: float32 [num_units].

    Args:
      in_features: width of the input.
      num_units: units of the layer, N.
      rngs: gives the key of the weights, `rngs.params()`.

    Example:
      >>> layer = SparseDense(8, 100, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8))).shape
      (2, 100)
      >>> layer(jnp.ones((2, 8)), jnp.array([5, 7, -1], jnp.int32)).shape
      (2, 3)
    """

    def __init__(self, in_features: int, num_units: int, *, rngs: nnx.Rngs) -> None:
        made = sparse_dense_init(rngs.params(), in_features, num_units)
        self.weights = nnx.Param(made["weights"])
        self.bias = nnx.Param(made["bias"])

    def __call__(self, x: jax.Array, ids: jax.Array | None = None) -> jax.Array:
        """Outputs of the units `ids`, or of all.

        Args:
          x: float32 [B, in_features].
          ids: int32 [A], shared by the batch, or [B, A], or None for all; −1 is padding, which
            gives 0.

        Returns:
          float32 [B, A], or [B, num_units].
        """
        weights, bias = self.weights[...], self.bias[...]
        if ids is None:
            return sparse_dense(weights, bias, x)
        flat = ids.reshape(-1)
        weights = take_rows(weights, flat).reshape(*ids.shape, weights.shape[1])
        return sparse_dense(weights, take_rows(bias, flat).reshape(ids.shape), x)


class EmbeddingBag(nnx.Module):
    """Weighted sums of the rows of a table over ragged bags, one an example.

    Attributes:
      embedding: float32 [num_features, features], standard normal over sqrt(features).

    Args:
      num_features: rows of the table.
      features: width of a row.
      combiner: "sum", "mean" or "sqrtn", as `rows.embedding_bag`.
      rngs: gives the key of the table, `rngs.params()`.

    Example:
      >>> bag = EmbeddingBag(100, 4, rngs=nnx.Rngs(0))
      >>> ids, bags = jnp.array([3, 9, 9], jnp.int32), jnp.array([0, 0, 1], jnp.int32)
      >>> bag(ids, bags, num_bags=2).shape
      (2, 4)
    """

    def __init__(
        self, num_features: int, features: int, *, combiner: Combiner = "sum", rngs: nnx.Rngs
    ) -> None:
        shape = (num_features, features)
        table = jax.random.normal(rngs.params(), shape, jnp.float32)
        self.embedding = nnx.Param(table * jnp.float32(max(features, 1) ** -0.5))
        self.combiner = combiner

    def __call__(
        self,
        ids: jax.Array,
        bags: jax.Array,
        weights: jax.Array | None = None,
        *,
        num_bags: int,
    ) -> jax.Array:
        """The sum of each bag.

        Args:
          ids: int32 [nnz], the features present; −1 is padding.
          bags: int32 [nnz], the bag of each.
          weights: float32 [nnz], or None for ones.
          num_bags: B.

        Returns:
          float32 [B, features].
        """
        return embedding_bag(
            self.embedding[...], ids, bags, weights, num_segments=num_bags, combiner=self.combiner
        )
