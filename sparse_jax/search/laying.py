"""Making a network of documents: what of the engine needs JAX, imported when it is first done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.runtime.trees import owned
from sparse_jax.search import cold, latent, network
from sparse_jax.search.config import Config
from sparse_jax.search.parameters import Network
from sparse_jax.text.features import Features, Hasher

__all__ = ["compact", "grow", "lay", "set_rows", "train"]

_ENCODE_AT_ONCE = 256
_LATENT = 1.0  # length of documents in the latent part, for 1 in the trained one
Values = Callable[[Features], np.ndarray]
"""Weights of features in the bag: float32 [nnz]."""


def train(
    features: Features,
    hasher: Hasher,
    values: Values,
    *,
    order: np.ndarray,
    kept: np.ndarray,
    config: Config,
) -> jax.Array:
    """An embedding: a quarter of each row is that of `latent`, the others trained on pieces.

    Args:
      features: of the documents.
      hasher: of the documents in the order in which training sees them.
      values: of features.
      order: int64 [documents], that order.
      kept: bool [num_features]: features whose rows stay as training leaves them.
      config: of the index.

    Returns:
      float32 [num_features, d]; all other rows are as `network.drawn` has them.
    """
    weights, dim = values(features), config.dim // 4
    rest = dataclasses.replace(config, dim=config.dim - dim)
    trained = np.asarray(_trained(features, hasher, values, order=order, config=rest))
    latents = latent.rows(features, weights, order=order, kept=kept, dim=dim, seed=config.seed)
    latents *= np.float32(_LATENT * latent.level(latents, trained, features, weights))
    embedding = jnp.concatenate([latents, trained], axis=1)
    return network.keep(embedding, kept, seed=config.seed)


def _trained(
    features: Features, hasher: Hasher, values: Values, *, order: np.ndarray, config: Config
) -> jax.Array:
    """float32 [num_features, d], trained on pieces of documents alone."""
    first = _first(config)
    rows = np.concatenate([np.asarray(r) for _, r in _encodings(first.embedding, features, values)])
    start = dataclasses.replace(first, output=owned(rows[order]))  # `order` leaves padding out
    return cold.fit(start, hasher, values, config=config).embedding


def _first(config: Config) -> Network:
    key = jax.random.key(config.seed)
    return network.init(key, num_features=config.num_features, dim=config.dim, capacity=1)


def lay(
    embedding: jax.Array, features: Features, numbers: np.ndarray, values: Values, *, capacity: int
) -> Network:
    """A network whose rows are the encodings of documents; nothing else was learned.

    Args:
      embedding: float32 [num_features, d].
      features: of the documents.
      numbers: int64 [documents], of their rows.
      values: of features.
      capacity: rows that there are.
    """
    num_features, dim = embedding.shape
    gain, output = jnp.zeros(num_features, jnp.float32), jnp.zeros((capacity, dim), jnp.float32)
    return set_rows(Network(embedding, gain, output), features, numbers, values)


def grow(parameters: Network, documents: int) -> Network:
    """Makes room in the output layer: capacity doubles, so that few shapes are compiled."""
    have, dim = parameters.output.shape
    if documents <= have:
        return parameters
    capacity = documents if have <= 1 else max(2 * have, documents)
    more = jnp.zeros((capacity - have, dim), jnp.float32)
    return dataclasses.replace(parameters, output=jnp.concatenate([parameters.output, more]))


def compact(parameters: Network, alive: np.ndarray) -> Network:
    """Keeps the rows of these documents, int64 [n], alone."""
    capacity, dim = parameters.output.shape
    if capacity > 4 * alive.size:
        capacity = max(2 * alive.size, 1)
    output = np.zeros((capacity, dim), np.float32)
    output[: alive.size] = np.asarray(parameters.output)[alive]
    return dataclasses.replace(parameters, output=jnp.asarray(output))


def set_rows(
    parameters: Network, features: Features, numbers: np.ndarray, values: Values
) -> Network:
    """Sets the rows of documents, int64 [n], to the encodings of their texts."""
    output = parameters.output
    for start, rows in _encodings(parameters.embedding, features, values):
        part = numbers[start : start + _ENCODE_AT_ONCE]
        ids = np.full(_ENCODE_AT_ONCE, -1, np.int32)
        ids[: part.size] = part
        output = network.put_rows(output, ids, rows)
    return dataclasses.replace(parameters, output=output)


def _encodings(
    embedding: jax.Array, features: Features, values: Values
) -> Iterator[tuple[int, jax.Array]]:
    """(first text, encodings [`_ENCODE_AT_ONCE`, d]) of texts in order, zeros at the end."""
    count = features.offsets.size - 1
    for start in range(0, count, _ENCODE_AT_ONCE):
        stop = min(start + _ENCODE_AT_ONCE, count)
        a, b = features.offsets[start], features.offsets[stop]
        part = Features(
            features.offsets[start : stop + 1] - a, *(column[a:b] for column in features[1:])
        )
        bags = network.pad_bags(part.ids, values(part), part.rows, _ENCODE_AT_ONCE)
        yield start, network.encode(embedding, bags, texts=_ENCODE_AT_ONCE)
