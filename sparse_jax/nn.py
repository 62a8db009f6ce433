"""flax.nnx layers of which a step touches some rows; needs flax (`pip install sparse_jax[flax]`).

Nothing else in the package imports this module. Take the gradient by `value_and_grad` of this
module, and give the optimizer a transformation in `sparse_jax.rowwise`; the rest is as in nnx. A
plain `nnx.grad` of rows would be as large as the tables, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax import layers
from sparse_jax.layers import active, look_up
from sparse_jax.layers.dense import SparseActivation, sparse_dense, sparse_dense_init, sparse_hidden
from sparse_jax.rows import Combiner, draw_rows, embedding_bag, unique_ids

try:
    from flax import nnx
except ImportError as error:
    raise ImportError(
        "sparse_jax.nn needs flax: pip install 'sparse_jax[flax]'; the functions of "
        "sparse_jax.layers do without"
    ) from error

__all__ = ["EmbeddingBag", "SparseDense"]


class Table(nnx.Param):
    """A parameter of which steps read rows: one that a loss leaves out has a gradient of no rows.

    Without this it would have zeros as large as the table, which an optimizer sweeps.

    Example:
      >>> isinstance(Embed(9, 2, rngs=nnx.Rngs(0)).embedding, Table)
      True
    """


def value_and_grad(
    loss: Callable[..., Any], *, wrt: Any = nnx.Param, has_aux: bool = False
) -> Callable[..., Any]:
    """`nnx.value_and_grad` by rows: for models with the layers of this module among others.

    Args:
      loss: loss(model, ...) -> float []; or (float [], aux), if has_aux. Traced as under `nnx.jit`.
      wrt: filter of the variables to differentiate; the same as the optimizer's.
      has_aux: whether the loss returns something beside its value.

    Returns:
      A function of the same arguments, which returns the value, or (value, aux), and gradients for
      `nnx.Optimizer.update`, in which tables have a `RowSparse`. What the loss changes in other
      variables of the model, such as running means, is kept.

    Example:
      >>> import optax, sparse_jax
      >>> model = SparseDense(2, 1000, rngs=nnx.Rngs(0))
      >>> tx = sparse_jax.rowwise(optax.adam(0.1))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> ids, x = jnp.array([7, 9], jnp.int32), jnp.ones((4, 2))
      >>> value, grads = value_and_grad(lambda model: jnp.mean(model(x, ids) ** 2))(model)
      >>> _ = optimizer.update(model, grads)
      >>> grads["weights"].get_value().ids.tolist(), jnp.flatnonzero(model.bias[...]).tolist()
      ([7, 9], [7, 9])
    """

    def run(model: Any, *args: Any, **kwargs: Any) -> Any:
        parts: Any = nnx.split(model, wrt, ...)
        graph, params, others = parts

        def pure(params: Any) -> Any:
            inside = nnx.merge(graph, params, others, copy=True)
            out = loss(inside, *args, **kwargs)
            value, aux = out if has_aux else (out, None)
            for table in jax.tree.leaves(nnx.state(inside, nnx.All(wrt, Table))):
                look_up(table, jnp.zeros(0, jnp.int32), distinct=True)
            after: Any = nnx.split(inside, wrt, ...)
            return value, (aux, after[2])

        (value, (aux, after)), grads = layers.value_and_grad(pure, has_aux=True)(params)
        nnx.update(model, after)
        return ((value, aux) if has_aux else value), grads

    return run


class Embed(nnx.Module):
    """A table of vectors, looked up by ids.

    Attributes:
      embedding: float32 [num_embeddings, features], standard normal over sqrt(features).

    Args:
      num_embeddings: rows of the table, N.
      features: width of a row.
      rngs: gives the key of the table, `rngs.params()`.

    Example:
      >>> embed = Embed(100, 4, rngs=nnx.Rngs(0))
      >>> embed(jnp.array([[3, 9, -1]], jnp.int32)).shape
      (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, features: int, *, rngs: nnx.Rngs) -> None:
        self.embedding = Table(_normal_rows(rngs, num_embeddings, features))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """The rows of ids.

        Args:
          ids: int32 [...]; −1 is padding, which gives zeros.

        Returns:
          float32 [..., features].
        """
        return look_up(self.embedding[...], ids)


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
        self.embedding = Table(_normal_rows(rngs, num_features, features))
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
        table = self.embedding[...]
        found, places, _ = unique_ids(ids, num_rows=table.shape[0], size=ids.size)
        rows = look_up(table, found, distinct=True)
        return embedding_bag(
            rows, places, bags, weights, num_segments=num_bags, combiner=self.combiner
        )


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
        self.weights = Table(made["weights"])
        self.bias = Table(made["bias"])

    def __call__(self, x: jax.Array | SparseActivation, ids: jax.Array | None = None) -> jax.Array:
        """Outputs of the units `ids`, or of all.

        Args:
          x: float32 [B, in_features], or what a `SparseHidden` returned.
          ids: int32 [A], shared by the batch, or [B, A]; −1 is padding, which gives 0. None is all
            units: the dense layer, with a dense gradient.

        Returns:
          float32 [B, A], or [B, num_units].
        """
        return sparse_dense(*self._rows(ids), x)

    def _rows(self, ids: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        weights, bias = self.weights[...], self.bias[...]
        if ids is None:
            return weights, bias
        return look_up(weights, ids), look_up(bias, ids)


class SparseHidden(SparseDense):
    """A hidden layer of which some units are computed: the ReLU of `SparseDense`.

    Attributes:
      weights: float32 [num_units, in_features], a unit a row.
      bias: float32 [num_units].

    Args:
      in_features: width of the input, or units of the sparse layer below.
      num_units: units of the layer, N.
      rngs: gives the key of the weights, `rngs.params()`.

    Example:
      >>> first = SparseHidden(8, 100, rngs=nnx.Rngs(0))
      >>> second = SparseHidden(100, 50, rngs=nnx.Rngs(1))
      >>> h = first(jnp.ones((2, 8)), jnp.array([5, 7], jnp.int32))
      >>> second(h, jnp.array([1, 2, 3], jnp.int32)).values.shape
      (2, 3)
    """

    def __call__(  # type: ignore[override]
        self, x: jax.Array | SparseActivation, ids: jax.Array | None = None
    ) -> SparseActivation:
        """The units `ids`, or all.

        Args:
          x: float32 [B, in_features], or what a `SparseHidden` returned.
          ids: int32 [A], shared by the batch, or [B, A]; −1 is padding. None is all units.

        Returns:
          A `SparseActivation`: values [B, A], for another layer of this module.
        """
        weights, bias = self._rows(ids)
        num_units = self.bias[...].shape[0]
        ids = jnp.arange(num_units, dtype=jnp.int32) if ids is None else ids
        return sparse_hidden(weights, bias, x, ids, num_units=num_units)


class SparseHead(SparseDense):
    """The last layer of a classifier, whose softmax is taken over an active set of its classes.

    Attributes:
      weights: float32 [num_units, in_features], a class a row.
      bias: float32 [num_units].

    Args:
      in_features: width of the input, or units of the sparse layer below.
      num_units: classes, N.
      rngs: gives the key of the weights, `rngs.params()`.

    Example:
      >>> head = SparseHead(8, 1000, rngs=nnx.Rngs(0))
      >>> labels = jnp.array([3, 8], jnp.int32)
      >>> head.loss(jnp.ones((2, 8)), labels, key=jax.random.key(0), size=64).shape
      (2,)
      >>> head(jnp.ones((2, 8))).argmax(axis=1).shape
      (2,)
    """

    def loss(
        self,
        x: jax.Array | SparseActivation,
        labels: jax.Array,
        examples: jax.Array | None = None,
        *,
        key: jax.Array,
        size: int,
    ) -> jax.Array:
        """Cross-entropy over the labels of the batch and classes drawn uniformly, for each example.

        Args:
          x: float32 [B, in_features], or what a `SparseHidden` returned, its units shared.
          labels: int32 [P]; −1 is padding.
          examples: int32 [P], ascending: the example of each label. None: one label an example.
          key: PRNG key, another one for each step.
          size: A, classes that a step computes; at least the distinct labels of a batch.

        Returns:
          float32 [B]; 0 for an example without a label.
        """
        num_units = self.bias[...].shape[0]
        chosen = active.shared_set(key, labels, size=min(size, num_units), num_rows=num_units)
        if examples is None:
            examples = jnp.arange(labels.size, dtype=jnp.int32)
        return self.loss_over(x, chosen, examples)

    def loss_over(
        self, x: jax.Array | SparseActivation, chosen: active.ActiveSet, examples: jax.Array
    ) -> jax.Array:
        """The same over a set of classes that the caller chose, such as with hash tables.

        Args:
          x: as for `loss`.
          chosen: of `active.shared_set`.
          examples: int32 [P], the example of each of its label entries, ascending.

        Returns:
          float32 [B].
        """
        weights = look_up(self.weights[...], chosen.ids, distinct=True)
        bias = look_up(self.bias[...], chosen.ids, distinct=True)
        each, _ = layers.softmax_head(
            x, weights, bias, examples, chosen.positions, mask=chosen.mask
        )
        return each


def _normal_rows(rngs: nnx.Rngs, num_rows: int, features: int) -> jax.Array:
    """Rows of expected norm 1; their random bits are never all in memory at once."""
    scale = jnp.float32(max(features, 1) ** -0.5)

    def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32) * scale

    return draw_rows(draw, rngs.params(), num_rows, features)
