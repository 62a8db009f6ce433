"""The deep part: hashed features → embedding bag → unit vector h → documents, trained row by row.

``score(q, n) = h(q) · w_n`` with one unit row ``w_n`` a document and::

    h(q) = (1 + sum_f x_f² g_f) normalize(sum_f x_f E_f),    sum_f x_f² = 1

There is no nonlinearity between features and documents, so that what is learned about a phrase
holds in every longer query with that phrase in it. The gain g, zero until feedback says otherwise,
is how far a feature is a matter of meaning: it turns the fused score towards this part.

Cold start: pieces of documents, words dropped, are trained to find their document among an active
set of others; then each document's row is set to the encoding of its whole text, which is also how
documents inserted later get theirs. Feedback moves the rows of its query's features and of the
documents it tells apart, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import layers, optim
from sparse_jax.layers import active, losses
from sparse_jax.optim import rates
from sparse_jax.rows import RowSparse, embedding_bag, set_rows, take_rows, unique_ids
from sparse_jax.runtime.trees import owned
from sparse_jax.search import draw, fusion
from sparse_jax.search.parameters import Network, Stored, narrow, widen

__all__ = [
    "Bags",
    "ColdStart",
    "Items",
    "Network",
    "drawn",
    "encode",
    "hidden",
    "init",
    "join_bags",
    "keep",
    "learn",
    "pack",
    "pad_bags",
    "unpack",
]

_MAX_GAIN = 5.0
_FEW = 1 << 19


jax.tree_util.register_dataclass(Network)


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
        jnp.zeros(num_features, jnp.float32),
        jnp.zeros((capacity, dim), jnp.float32),
    )


@functools.partial(jax.jit, static_argnames=("seed", "shape"))
def _drawn(values: jax.Array, *, seed: int, shape: tuple[int, int]) -> jax.Array:
    counters = jnp.arange(shape[0] * shape[1], dtype=jnp.uint32).reshape(shape)
    found = draw.bits(seed, jnp.zeros_like(counters), counters) >> 9
    return jnp.take(values, found.astype(jnp.int32), axis=0) * draw.scale(shape[1])


def drawn(*, seed: int, num_features: int, dim: int) -> jax.Array:
    """The whole embedding as it was drawn: see `draw`; float32 [num_features, d]."""
    if num_features * dim <= _FEW:  # no need to compile anything
        return jnp.array(draw.rows(seed, np.arange(num_features), dim))
    return _drawn(draw.normals(), seed=seed, shape=(num_features, dim))


def unpack(stored: Stored) -> Network:
    """Parameters as arrays of JAX's own."""
    dim = stored.rows.shape[1]
    embedding = drawn(seed=stored.seed, num_features=stored.num_features, dim=dim)
    if stored.ids.size:
        embedding = _put(embedding, stored.ids, widen(stored.rows, stored.scales, slice(None)))
    if stored.taught_ids.size:
        embedding = _put(embedding, stored.taught_ids, stored.taught_rows)
    gain = jnp.zeros(stored.num_features, jnp.float32)
    return Network(
        embedding,
        gain.at[stored.gain_ids].set(stored.gain_values) if stored.gain_ids.size else gain,
        owned(stored.output),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _put(embedding: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    return embedding.at[ids].set(rows, unique_indices=True, indices_are_sorted=True)


def pack(network: Network, *, seed: int, documents: int) -> Stored:
    """What of the parameters must be kept; `unpack` gives them back, bit for bit."""
    embedding, gain = np.asarray(network.embedding), np.asarray(network.gain)
    num_features, dim = embedding.shape
    changed = embedding != np.asarray(drawn(seed=seed, num_features=num_features, dim=dim))
    ids = np.flatnonzero(changed.any(axis=1)).astype(np.int32)
    rows, gain_ids = embedding[ids], np.flatnonzero(gain)
    levels, scales = narrow(rows)
    exact = (widen(levels, scales, slice(None)) == rows).all(axis=1)
    return Stored(
        seed,
        num_features,
        ids[exact],
        levels[exact],
        scales[exact],
        ids[~exact],
        rows[~exact],
        gain_ids.astype(np.int32),
        gain[gain_ids],
        np.asarray(network.output)[:documents],
    )


def keep(trained: jax.Array, kept: np.ndarray, *, seed: int) -> jax.Array:
    """A trained embedding in eight bits a value; rows that aren't kept are as they were drawn.

    Rounding changes no ranking that was measured, and what is scored is what is kept on disk.

    Args:
      trained: float32 [num_features, d].
      kept: bool [num_features].
      seed: of the draw.

    Returns:
      float32 [num_features, d].
    """
    num_features, dim = trained.shape
    ids = np.flatnonzero(kept).astype(np.int32)
    rows = widen(*narrow(np.asarray(trained)[ids]), slice(None))
    start = drawn(seed=seed, num_features=num_features, dim=dim)
    return _put(start, ids, rows) if ids.size else start


def pad_bags(ids: np.ndarray, values: np.ndarray, rows: np.ndarray, texts: int) -> Bags:
    """Pads the entries to a power of two, so that few shapes are compiled."""
    size = max(1 << (ids.size - 1).bit_length(), 64) if ids.size else 64
    bags = Bags(
        np.full(size, -1, np.int32), np.zeros(size, np.float32), np.full(size, texts - 1, np.int32)
    )
    for padded, given in zip(bags, (ids, values, rows), strict=True):
        padded[: given.size] = given
    return bags


def join_bags(ids: Sequence[np.ndarray], values: Sequence[np.ndarray], texts: int) -> Bags:
    """Bags of one text each, at most `texts`, as one batch."""
    rows = np.repeat(np.arange(len(ids), dtype=np.int32), [part.size for part in ids])
    return pad_bags(np.concatenate(ids), np.concatenate(values), rows, texts)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + jnp.float32(1e-12))


def _direction(rows: jax.Array, positions: jax.Array, bags: Bags, texts: int) -> jax.Array:
    return _unit(embedding_bag(rows, positions, bags.rows, bags.values, num_segments=texts))


def _strength(gains: jax.Array, positions: jax.Array, bags: Bags, texts: int) -> jax.Array:
    squares = bags.values * bags.values
    total = embedding_bag(gains[:, None], positions, bags.rows, squares, num_segments=texts)
    return total + jnp.float32(1)


@functools.partial(jax.jit, static_argnames="texts")
def encode(embedding: jax.Array, bags: Bags, *, texts: int) -> jax.Array:
    """Directions of h [texts, d], unit rows; zeros for a text without features."""
    return _direction(embedding, bags.ids, bags, texts)


@functools.partial(jax.jit, static_argnames="texts")
def hidden(network: Network, bags: Bags, *, texts: int) -> jax.Array:
    """h [texts, d]."""
    direction = _direction(network.embedding, bags.ids, bags, texts)
    return direction * _strength(network.gain, bags.ids, bags, texts)


@functools.partial(jax.jit, donate_argnums=0)
def put_rows(output: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Sets rows of the output layer, in place."""
    return set_rows(output, ids, rows)


class ColdStart:
    """Training steps on pieces of documents.

    Softmax over an active set: the batch's documents and uniform others.

    Args:
      steps: how many there will be; the learning rate decays to zero by then.
      num_active: A.
      learning_rate: of Adam, at the peak.
      scale: of the cosine in the softmax.
    """

    def __init__(
        self,
        *,
        steps: int,
        num_active: int = 2048,
        learning_rate: float = 3e-3,
        scale: float = 20.0,
    ) -> None:
        self.tx = optim.rowwise(optax.adam(rates.cosine(learning_rate, steps=steps)))
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
        # Rows beyond the documents are free and can't be negatives.
        real = chosen.mask & (chosen.ids < num_documents)
        ids = jnp.where(real, chosen.ids, -1)

        def loss(rows, weights):
            h = _direction(rows, positions, bags, documents.size) * jnp.float32(self.scale)
            logits = layers.sparse_dense(weights, jnp.zeros(ids.size, jnp.float32), h)
            examples = jnp.arange(documents.size, dtype=jnp.int32)
            each = losses.softmax_cross_entropy(logits, examples, chosen.positions, mask=real)
            return (each[None, :] @ jnp.ones((each.size, 1), jnp.float32))[0, 0] / each.size

        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(
            take_rows(network.embedding, features), take_rows(network.output, ids)
        )
        sparse = Network(
            RowSparse(features, grads[0], num_rows=num_features, distinct=True),
            None,
            RowSparse(ids, grads[1], num_rows=capacity, distinct=True),
        )
        updates, opt_state = self.tx.update(sparse, opt_state, network)
        return optax.apply_updates(network, updates), opt_state, value, count


@functools.lru_cache(maxsize=4)
def cold_start(steps: int) -> ColdStart:
    """The `ColdStart` of as many steps: what one compiled, the next fit of its sizes has."""
    return ColdStart(steps=steps)


@functools.partial(jax.jit, static_argnames=("distinct", "scale", "deep"), donate_argnums=0)
def learn(
    network: Network,
    items: Items,
    learning_rates: jax.Array,
    rarity: jax.Array,
    *,
    distinct: int,
    scale: float,
    deep: float,
) -> tuple[Network, jax.Array]:
    """One step of feedback: rows of the items' features and candidates move, no other.

    Cross-entropy of ``softmax(scale (lexical + deep h · w))`` over each item's candidates; plain
    gradient descent, so there is no optimizer state to keep or to undo.

    Args:
      network: donated.
      items: B queries.
      learning_rates: float32 [4], of embedding rows, gains and output rows, and a factor on rarity.
      rarity: float32 [num_features]; times that factor, and at most 1, it scales the first two.
      distinct: room for the distinct features of the items, static.
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
    rows, gains = take_rows(network.embedding, features), take_rows(network.gain, features)
    weights = take_rows(network.output, ids)

    def loss(rows, gains, weights):
        h = _direction(rows, positions, items.bags, texts)
        h = h * _strength(gains, positions, items.bags, texts)
        of_candidates = take_rows(weights, places).reshape(texts, width, -1)
        by_network = jnp.sum(of_candidates * h[:, None, :], axis=2)
        scores = fusion.fuse(items.lexical, by_network, weight=deep)
        scores = jnp.where(items.candidates >= 0, scores * jnp.float32(scale), -1e9)
        logs = jax.nn.log_softmax(scores, axis=1)
        each = -jnp.sum(items.targets * logs, axis=1)
        return (each[None, :] @ jnp.ones((texts, 1), jnp.float32))[0, 0], jnp.exp(logs)

    grads, probabilities = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(rows, gains, weights)
    rare = jnp.minimum(learning_rates[3] * take_rows(rarity, features), jnp.float32(1))
    moved = rows - learning_rates[0] * rare[:, None] * grads[0]
    trusted = jnp.clip(gains - learning_rates[1] * rare * grads[1], 0.0, _MAX_GAIN)
    turned = _unit(weights - learning_rates[2] * grads[2])
    return Network(
        set_rows(network.embedding, features, moved),
        set_rows(network.gain, features, trusted),
        set_rows(network.output, ids, turned),
    ), probabilities
