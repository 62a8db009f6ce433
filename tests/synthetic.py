"""Random data for tests of training, and a training run whose weights are hashed."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np
import optax

from sparse_jax import data, optim
from sparse_jax.retrieval import schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.xmc import network
from sparse_jax.xmc import step as training


def make_data(
    num_points: int,
    *,
    num_features: int,
    num_labels: int,
    features: int = 20,
    labels: int = 3,
    seed: int = 0,
) -> data.XmcData:
    """Points with `features` features each and 1 to `labels` labels, skewed to small ids."""
    rng = np.random.default_rng(seed)

    def draw(size: int, most: int) -> np.ndarray:
        ids = np.unique((rng.random(size) ** 2 * most).astype(np.int32))
        return rng.permutation(ids)

    feature_rows = [draw(features, num_features) for _ in range(num_points)]
    label_rows = [draw(rng.integers(1, labels + 1), num_labels) for _ in range(num_points)]
    feature_ids = np.concatenate(feature_rows)
    return data.XmcData(
        np.cumsum([0, *map(len, feature_rows)]),
        feature_ids,
        rng.random(feature_ids.size).astype(np.float32),
        np.cumsum([0, *map(len, label_rows)]),
        np.concatenate(label_rows),
        num_features=num_features,
        num_labels=num_labels,
    )


def make_batches(points: data.XmcData, batch_size: int) -> list[data.Batch]:
    """All batches of an epoch, equal in shape."""
    return list(data.batches(points, batch_size, seed=0))


def start(
    points: data.XmcData,
    tx: optax.GradientTransformation,
    *,
    config: training.Config,
    hidden: int,
    seed: int = 0,
    dtype: Any = np.float32,
) -> training.TrainState:
    """A fresh state."""

    # In one piece: op by op, most of a test would go into compiling them.
    @jax.jit
    def init(key: jax.Array) -> training.TrainState:
        params_key, key = jax.random.split(key)
        params = network.init_params(
            params_key,
            num_features=points.num_features,
            num_labels=points.num_labels,
            hidden=hidden,
            dtype=dtype,
        )
        return training.init(key, params, tx, config=config)

    return init(jax.random.key(seed))


def digest(tree: Any) -> str:
    """SHA-256 over the bytes of all leaves."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def train_and_print(strategy: str, mode: str, loss: str) -> None:
    """Seven steps at sizes at which XLA divides its work among threads."""
    shared = mode == "shared"
    batch_size = 128 if shared else 64
    points = make_data(7 * batch_size, num_features=8000, num_labels=5000, features=60)
    tx = optim.rowwise(optax.adam(3e-3))
    config = training.Config(
        active=1024 if shared else 256,
        strategy=strategy,  # type: ignore[arg-type]
        mode=mode,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        index=IndexConfig(rehash=schedules.fixed(2), rebuild=schedules.fixed(5)),
    )
    state = start(points, tx, config=config, hidden=128)
    step = jax.jit(training.make_step(tx, config=config), donate_argnums=0)
    maintain = jax.jit(training.make_maintain(config=config), donate_argnums=0)
    losses = []
    for batch in make_batches(points, batch_size):
        state, seen = step(state, batch)
        state = maintain(state)
        losses.append(seen)
    if state.index is not None:
        assert int(state.index.rebuilds) == 1 and int(state.index.rehashed) > 0
    for name, tree in (("params", state.params), ("all", (state, losses))):
        print(name, digest(tree))
