"""The hidden layer: what NumPy makes of it, its scale, and dropout."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from sparse_jax.xmc import network

POINTS = synthetic.make_data(16, num_features=60, num_labels=40, features=8)
BATCH = synthetic.make_batches(POINTS, 16)[0]
PARAMS = network.init_params(jax.random.key(0), num_features=60, num_labels=40, hidden=512)


def hidden(**options) -> np.ndarray:
    return np.asarray(
        network.hidden_layer(
            PARAMS["embedding"], PARAMS["hidden_bias"], BATCH.feature_ids, BATCH, **options
        )
    )


def test_equals_numpy_and_has_mean_square_one():
    bags = np.zeros((16, 512), np.float32)
    for row, feature, value in zip(
        BATCH.feature_rows, BATCH.feature_ids, BATCH.feature_values, strict=True
    ):
        if feature >= 0:
            bags[row] += value * np.asarray(PARAMS["embedding"])[feature]
    h = np.maximum(bags, 0)
    h /= np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(hidden(), h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((hidden() ** 2).mean(axis=1), 1, atol=0.2)


@pytest.mark.parametrize("dropout", [0.25, 0.5])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(dropout):
    whole, dropped = hidden(), hidden(dropout=dropout, key=jax.random.key(1))
    on = whole > 0
    assert abs((dropped[on] == 0).mean() - dropout) < 0.03
    kept = on & (dropped != 0)
    np.testing.assert_allclose(dropped[kept], whole[kept] / (1 - dropout), rtol=1e-5)


def test_without_a_key_or_a_share_nothing_is_dropped():
    np.testing.assert_array_equal(hidden(dropout=0.5), hidden())
    np.testing.assert_array_equal(hidden(dropout=0.0, key=jax.random.key(1)), hidden())


def test_a_point_without_features_is_zero_and_differentiable():
    empty = dataclasses.replace(BATCH, feature_values=np.zeros_like(BATCH.feature_values))

    def total(rows):
        h = network.hidden_layer(rows, PARAMS["hidden_bias"], BATCH.feature_ids, empty)
        return jnp.sum(h)

    value, gradient = jax.value_and_grad(total)(PARAMS["embedding"])
    assert float(value) == 0.0 and np.isfinite(np.asarray(gradient)).all()
