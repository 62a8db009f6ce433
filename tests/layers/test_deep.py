"""Sparse layer after sparse layer: what a dense network gives, in work for the active units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import layers
from sparse_jax.layers import look_up, value_and_grad
from sparse_jax.layers.active import shared_set
from sparse_jax.retrieval import index

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, D, N = 5, 7, 12  # examples, width of the input, units of a layer


def network(depth):
    keys = jax.random.split(jax.random.key(0), depth)
    widths = [D] + [N] * depth
    return [layers.sparse_dense_init(k, w, N) for k, w in zip(keys, widths, strict=False)]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sparse_loss(params, x, ids):
    """Of hidden layers and a dense output over all; `ids[i]` are the active units of layer i."""
    h = x
    for layer, active in zip(params[:-1], ids, strict=True):
        weights, bias = look_up(layer["weights"], active), look_up(layer["bias"], active)
        h = layers.sparse_hidden(weights, bias, h, active, num_units=N)
    last = params[-1]
    return jnp.mean(layers.sparse_dense(last["weights"], last["bias"], h) ** 2)


def dense_loss(params, x, ids):
    """The same in plain JAX, units that aren't active zeroed."""
    h = x
    for layer, active in zip(params[:-1], ids, strict=True):
        h = jax.nn.relu(jnp.einsum("bd,nd->bn", h, layer["weights"]) + layer["bias"][None])
        rows = jnp.arange(N)[None, :, None] == jnp.atleast_2d(active)[:, None, :]
        h = jnp.where(rows.any(axis=2), h, jnp.float32(0))
    last = params[-1]
    return jnp.mean((jnp.einsum("bd,nd->bn", h, last["weights"]) + last["bias"][None]) ** 2)


def draw(seed, *, own, size):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(N)[:size] for _ in range(B if own else 1)])
    ids[:, -1] = ids[:, -1] if size == N else -1
    return jnp.asarray(ids if own else ids[0], jnp.int32)


@pytest.mark.parametrize(
    "own", [(0,), (1,), (0, 1), (1, 0), (0, 0, 1, 1, 0)], ids=lambda own: "".join(map(str, own))
)
@pytest.mark.parametrize("size", [4, N])
def test_value_and_gradient_are_those_of_the_dense_network(own, size):
    """Active units shared by the batch (0) or of each example (1), from the first layer up."""
    params, x = network(len(own) + 1), normal(1, B, D)
    ids = [draw(i, own=of_each, size=size) for i, of_each in enumerate(own)]
    value, grads = jax.jit(value_and_grad(sparse_loss))(params, x, ids)
    expected, wanted = jax.jit(jax.value_and_grad(dense_loss))(params, x, ids)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(grads[:-1], wanted[:-1], strict=True):
        for name in ours:
            assert ours[name].shape == theirs[name].shape
            np.testing.assert_allclose(ours[name].to_dense(), theirs[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[-1]["weights"], wanted[-1]["weights"], rtol=1e-4, atol=1e-6)


def test_units_may_be_chosen_by_hash_tables_from_the_layer_below():
    """The second layer's ids follow from the rows of the first, within the loss."""
    config = index.IndexConfig(num_tables=4, num_bits=3, max_candidates=4)
    first, second = network(2)
    tables = index.init(jax.random.key(2), second["weights"], config=config)
    x, none = normal(1, B, D), jnp.full(1, -1, jnp.int32)

    def loss(params):
        h = jnp.tanh(layers.sparse_dense(params[0]["weights"], params[0]["bias"], x))
        found = index.candidates(tables, h, config=config)
        key = jax.random.key(3)
        ids = shared_set(key, none, found.ids, found.counts, size=5, num_rows=N).ids
        weights, bias = (look_up(params[1][n], ids, distinct=True) for n in ("weights", "bias"))
        out = layers.sparse_hidden(weights, bias, h, ids, num_units=N)
        return jnp.mean(out.values**2), ids

    (_, ids), grads = jax.jit(value_and_grad(loss, has_aux=True))([first, second])
    np.testing.assert_array_equal(grads[1]["weights"].ids, ids)
    assert grads[1]["weights"].distinct and np.any(grads[0]["weights"])
    touched = np.flatnonzero(np.any(grads[1]["weights"].to_dense(), axis=1))
    assert touched.size and set(touched) <= set(ids.tolist())


def test_a_softmax_head_reads_a_sparse_layer():
    ids = jnp.asarray([1, 4, -1], jnp.int32)
    values = normal(0, B, 3).at[:, 2].set(0)
    h = layers.SparseActivation(ids, values, N)
    dense = jnp.zeros((B, N)).at[:, ids[:2]].set(values[:, :2])
    weights, bias = normal(1, 6, N), normal(2, 6)
    examples = jnp.arange(B, dtype=jnp.int32)
    places = examples % 6

    def losses(h, weights):
        return jnp.sum(layers.softmax_head(h, weights, bias, examples, places)[0])

    ours, theirs = (jax.value_and_grad(losses, argnums=1)(x, weights) for x in (h, dense))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-6)


def test_layers_that_do_not_fit_are_refused():
    h = layers.SparseActivation(jnp.zeros(3, jnp.int32), jnp.zeros((B, 3)), N)
    with pytest.raises(ValueError, match="don't fit"):
        layers.sparse_dense(jnp.zeros((4, N + 1)), jnp.zeros(4), h)
    places = jnp.zeros(B, jnp.int32)
    with pytest.raises(ValueError, match=r"weights \(4, 13\).*hidden \(5, 12\) don't fit"):
        layers.softmax_head(h, jnp.zeros((4, N + 1)), jnp.zeros(4), places, places)
    own = layers.SparseActivation(jnp.zeros((B, 3), jnp.int32), jnp.zeros((B, 3)), N)
    with pytest.raises(ValueError, match="shared by the batch"):
        layers.softmax_head(own, jnp.zeros((4, N)), jnp.zeros(4), places, places)


SCRIPT = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from sparse_jax import layers
def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
B, A, C, N = 256, 128, 128, 1024
ids = jnp.asarray(np.random.default_rng(0).permutation(N)[:C], jnp.int32)
def run(weights, values, out):
    def layer(weights, values):
        h = layers.SparseActivation(ids, values, N)
        return layers.sparse_dense(weights, jnp.zeros(A), h)
    y, pull = jax.vjp(layer, weights, values)
    return y, pull(out)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(jax.jit(run)(normal(0, A, N), normal(1, B, C), normal(2, B, A))):
    digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.threads(SCRIPT, counts=(1, 2, 5))
def test_bits_do_not_depend_on_threads(printed):
    assert len(printed[1].strip()) == 64 and printed[1] == printed[2] == printed[5]
