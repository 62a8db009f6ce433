"""The deep part: hashed features → embedding bag → unit vector h → documents, trained row by row.

``score(q, n) = h(q) · w_n`` with ``h(q) = normalize(sum_f x_f E_f)`` and one unit row ``w_n`` a
document. There is no nonlinearity in between, so that what is learned about a phrase holds in every
longer query with that phrase in it.

Cold start: pieces of documents, words dropped, are trained to find their document among an active
set of others; then each document's row is set to the encoding of its whole text, which is also how
documents inserted later get theirs. Feedback moves the rows of its query's features and of the
documents it tells apart, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import active, layers, losses, optim
from sparse_jax.rows import RowSparse, embedding_bag, set_rows, take_rows, unique_ids
from sparse_jax.search.features import Features

__all__ = ["Bags", "ColdStart", "Items", "Network", "encode", "init", "learn", "pad_bags"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """Parameters. Rows of `output` beyond the documents there are hold zeros."""

    embedding: Any  # float32 [num_features, d]; a RowSparse in a gradient
    output: Any  # float32 [capacity, d]


class Bags(NamedTuple):
    """Weighted features of B texts as flat, padded lists."""

    ids: Any  # int32 [n], padding -1
    values: Any  # float32 [n], padding 0
    rows: Any  # int32 [n], nondecreasing


class Items(NamedTuple):
    """B queries with C candidates each, and how they should share the probability."""

    bags: Bags
    candidates: Any  # int32 [B, C], -1 for none
    lexical: Any  # float32 [B, C], the fixed part of their scores
    targets: Any  # float32 [B, C], sums to 1, or to 0 in a row that doesn't count


def init(key: jax.Array, *, num_features: int, dim: int, capacity: int) -> Network:
    """Random embedding, so that at first h is a random projection; output rows zero."""
    scale = jnp.float32(dim**-0.5)
    return Network(
        jax.random.normal(key, (num_features, dim), jnp.float32) * scale,
        jnp.zeros((capacity, dim), jnp.float32),
    )


def pad_bags(features: Features, values: np.ndarray) -> Bags:
    """Pads the entries to a power of two, so that few shapes are compiled."""
    size = 1 << max(int(np.ceil(np.log2(max(features.ids.size, 1)))), 6)
    more = size - features.ids.size
    last = np.int32(max(features.offsets.size - 2, 0))
    return Bags(
        np.pad(features.ids, (0, more), constant_values=-1),
        np.pad(values.astype(np.float32), (0, more)),
        np.pad(features.rows, (0, more), constant_values=last),
    )


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + jnp.float32(1e-12))


def _hidden(rows: jax.Array, positions: jax.Array, bags: Bags, texts: int) -> jax.Array:
    return _unit(embedding_bag(rows, positions, bags.rows, bags.values, num_segments=texts))


@functools.partial(jax.jit, static_argnames="texts")
def encode(embedding: jax.Array, bags: Bags, *, texts: int) -> jax.Array:
    """h [texts, d], unit rows; zeros for a text without features."""
    return _hidden(embedding, bags.ids, bags, texts)


@functools.partial(jax.jit, donate_argnums=0)
def put_rows(output: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Sets rows of the output layer, in place."""
    return set_rows(output, ids, rows)


class ColdStart:
    """Training steps on pieces of documents.

    Softmax over an active set: the batch's documents and uniform others.

    Args:
      steps: how many there will be; the rate decays to zero by then.
      num_active: A.
      rate: peak rate of Adam.
      scale: of the cosine in the softmax.
    """

    def __init__(
        self, *, steps: int, num_active: int = 2048, rate: float = 3e-3, scale: float = 20.0
    ) -> None:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, rate, min(100, max(steps // 10, 1)), max(steps, 2)
        )
        self.tx = optim.rowwise(optax.adam(schedule))
        self.num_active, self.scale = num_active, scale
        self.step = jax.jit(self._step, static_argnames="distinct", donate_argnums=(1, 2))

    def init(self, network: Network) -> optax.OptState:
        return self.tx.init(network)

    def _step(self, key, network, opt_state, bags, documents, num_documents, *, distinct):
        num_features, capacity = network.embedding.shape[0], network.output.shape[0]
        features, positions, count = unique_ids(bags.ids, num_rows=num_features, size=distinct)
        chosen = active.shared_set(
            key, documents, size=min(self.num_active, capacity), num_rows=capacity
        )
        # Free places of the output layer are no documents.
        real = chosen.mask & (chosen.ids < num_documents)
        ids = jnp.where(real, chosen.ids, -1)

        def loss(rows, weights):
            h = _hidden(rows, positions, bags, documents.size) * jnp.float32(self.scale)
            logits = layers.sparse_dense(weights, jnp.zeros(ids.size, jnp.float32), h)
            examples = jnp.arange(documents.size, dtype=jnp.int32)
            each = losses.softmax_cross_entropy(logits, examples, chosen.positions, mask=real)
            return (each[None, :] @ jnp.ones((each.size, 1), jnp.float32))[0, 0] / each.size

        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(
            take_rows(network.embedding, features), take_rows(network.output, ids)
        )
        sparse = Network(
            RowSparse(features, grads[0], num_rows=num_features),
            RowSparse(ids, grads[1], num_rows=capacity),
        )
        updates, opt_state = self.tx.update(sparse, opt_state, network)
        return optax.apply_updates(network, updates), opt_state, value, count


@functools.partial(jax.jit, static_argnames=("distinct", "scale", "deep"), donate_argnums=0)
def learn(
    network: Network, items: Items, rates: jax.Array, *, distinct: int, scale: float, deep: float
) -> tuple[Network, jax.Array]:
    """One step of feedback: rows of the items' features and candidates move, no other.

    Cross-entropy of ``softmax(scale (lexical + deep h · w))`` over each item's candidates; plain
    gradient descent, so there is no optimizer state to keep or to undo.

    Args:
      network: donated.
      items: B queries.
      rates: float32 [2], of embedding rows and of output rows.
      distinct: most distinct features of the items, static.
      scale: of scores in the softmax.
      deep: weight of the deep part.

    Returns:
      (network, probabilities [B, C] before the step).
    """
    num_features, capacity = network.embedding.shape[0], network.output.shape[0]
    texts, width = items.candidates.shape
    features, positions, _ = unique_ids(items.bags.ids, num_rows=num_features, size=distinct)
    flat = items.candidates.reshape(-1)
    ids, places, _ = unique_ids(flat, num_rows=capacity, size=flat.size)
    rows, weights = take_rows(network.embedding, features), take_rows(network.output, ids)

    def loss(rows, weights):
        h = _hidden(rows, positions, items.bags, texts)
        own = take_rows(weights, places).reshape(texts, width, -1)
        scores = items.lexical + jnp.float32(deep) * jnp.sum(own * h[:, None, :], axis=2)
        scores = jnp.where(items.candidates >= 0, scores * jnp.float32(scale), -1e9)
        logs = jax.nn.log_softmax(scores, axis=1)
        each = -jnp.sum(items.targets * logs, axis=1)
        return (each[None, :] @ jnp.ones((texts, 1), jnp.float32))[0, 0], jnp.exp(logs)

    grads, probabilities = jax.grad(loss, argnums=(0, 1), has_aux=True)(rows, weights)
    moved = rows - rates[0] * grads[0]
    turned = _unit(weights - rates[1] * grads[1])
    return Network(
        set_rows(network.embedding, features, moved), set_rows(network.output, ids, turned)
    ), probabilities
