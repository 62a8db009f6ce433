"""The flax.nnx layers give what the functions give."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: pip install .[flax]")

from sparse_jax import nn  # noqa: E402


def i32(values):
    return jnp.asarray(values, jnp.int32)


def test_sparse_dense_is_the_dense_layer_at_the_ids_asked_for():
    layer = nn.SparseDense(6, 20, rngs=nnx.Rngs(1))
    layer.bias[...] = jnp.arange(20, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (3, 6))
    dense = np.asarray(layer(x))
    reference = np.asarray(x) @ np.asarray(layer.weights[...]).T + np.arange(20)
    np.testing.assert_allclose(dense, reference, rtol=1e-5, atol=1e-5)

    shared = layer(x, i32([4, 19, -1]))
    np.testing.assert_allclose(shared[:, :2], dense[:, [4, 19]], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(shared[:, 2], 0)

    ids = np.array([[0, 1], [5, -1], [19, 2]])
    own = layer(x, i32(ids))
    expected = np.where(ids < 0, 0, np.take_along_axis(dense, np.maximum(ids, 0), 1))
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def test_embedding_bag_sums_rows_and_leaves_padding_out():
    bag = nn.EmbeddingBag(10, 4, rngs=nnx.Rngs(0))
    table = np.asarray(bag.embedding[...])
    weights = jnp.array([1.0, 2.0, 3.0, 9.0])
    out = bag(i32([3, 9, 9, -1]), i32([0, 0, 2, 2]), weights, num_bags=3)
    np.testing.assert_allclose(
        out, [table[3] + 2 * table[9], np.zeros(4), 3 * table[9]], rtol=1e-5, atol=1e-6
    )
    mean = nn.EmbeddingBag(10, 4, combiner="mean", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        mean(i32([3, 9]), i32([0, 0]), num_bags=1)[0], (table[3] + table[9]) / 2, rtol=1e-5
    )


def test_two_layers_train_in_nnx_and_only_named_rows_have_gradients():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.bag = nn.EmbeddingBag(30, 8, rngs=rngs)
            self.out = nn.SparseDense(8, 50, rngs=rngs)

        def __call__(self, features, bags, ids):
            return self.out(jax.nn.relu(self.bag(features, bags, num_bags=4)), ids)

    model = Model(nnx.Rngs(0))
    features, bags, ids = i32([1, 2, 3, 4, 5]), i32([0, 0, 1, 2, 3]), i32([7, 8, 9, 10])

    def loss(model):
        logits = model(features, bags, ids)
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))

    @nnx.jit
    def step(model):
        value, grads = nnx.value_and_grad(loss)(model)
        params = nnx.state(model, nnx.Param)
        descend = lambda p, g: p - jnp.float32(0.5) * g  # noqa: E731
        nnx.update(model, jax.tree.map(descend, params, grads))
        return value, grads

    losses = []
    for _ in range(30):
        value, grads = step(model)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 4
    touched = np.flatnonzero(np.abs(np.asarray(grads["out"]["bias"][...])))
    assert set(touched) <= {7, 8, 9, 10} and touched.size
    rows = np.flatnonzero(np.abs(np.asarray(grads["bag"]["embedding"][...])).sum(1))
    assert set(rows) <= {1, 2, 3, 4, 5} and rows.size


def test_the_package_does_not_import_flax():
    code = "import sys, sparse_jax; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
