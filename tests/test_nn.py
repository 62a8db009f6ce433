"""The flax.nnx layers give what the functions give."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: pip install .[flax]")

from sparse_jax import layers, nn, rowwise  # noqa: E402
from sparse_jax.layers import compiling  # noqa: E402
from sparse_jax.ops import ffi  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compiles")


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


class Model(nnx.Module):
    """One of each layer, and dense ones with state of their own between them."""

    def __init__(self, rngs, rows=60):
        self.embed = nn.Embed(rows, 8, rngs=rngs)
        self.bag = nn.EmbeddingBag(rows, 8, combiner="mean", rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.hidden = nn.SparseHidden(8, rows, rngs=rngs)
        self.second = nn.SparseHidden(rows, rows, rngs=rngs)
        self.head = nn.SparseHead(rows, rows, rngs=rngs)

    def loss(self, ids, bags, labels, units):
        h = self.embed(ids).mean(axis=1) + self.bag(ids.reshape(-1), bags, num_bags=4)
        h = self.hidden(self.dropout(self.norm(h)), units)
        h = self.second(h, units)
        return jnp.mean(self.head.loss(h, labels, key=jax.random.key(0), size=20))


IDS = i32([[1, 2], [2, 3], [4, 5], [5, -1]])
BATCH = IDS, i32([0, 0, 1, 1, 2, 2, 3, 3]), i32([7, 8, 9, 7]), i32([0, 10, 20, 30, 40])
TABLES = ("embed", "bag", "hidden", "second", "head")


def values(model):
    """The model's arrays as NumPy's, but for keys."""
    state = nnx.state(model, nnx.Not(nnx.RngKey))
    return jax.tree.map(np.array, nnx.to_pure_dict(state))


def make(rows=60):
    model = Model(nnx.Rngs(0), rows)
    tx = rowwise(optax.adam(0.05))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit(donate_argnums=(0, 1))
def step(model, optimizer, *batch):
    value, grads = nn.value_and_grad(lambda model: model.loss(*batch))(model)
    optimizer.update(model, grads)
    return value


def test_a_model_trains_and_its_rows_alone_move():
    model, optimizer = make()
    before = values(model)
    losses = [float(step(model, optimizer, *BATCH)) for _ in range(60)]
    assert losses[-1] < losses[0] / 4
    after = values(model)
    for name in TABLES:
        for part, old in before[name].items():
            moved = (after[name][part] != old).reshape(len(old), -1).any(axis=1)
            assert moved.any() and moved.sum() <= 20, (name, part)
            if name in ("embed", "bag"):
                assert np.flatnonzero(moved).tolist() == [1, 2, 3, 4, 5]
    # What the loss changes besides is kept: running means, and the dropout's count of draws.
    assert (before["norm"]["mean"] != after["norm"]["mean"]).any()
    assert (before["norm"]["scale"] != after["norm"]["scale"]).all()
    assert after["dropout"]["rngs"]["count"] == before["dropout"]["rngs"]["count"] + 60


def test_a_step_equals_the_dense_one_on_the_rows_it_reads():
    """Against plain nnx of the same weights, with nnx's own gradient and Optax's own Adam."""

    class Dense(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.head = nnx.Embed(30, 8, rngs=rngs), nnx.Linear(8, 30, rngs=rngs)

        def __call__(self, ids):
            return self.head(self.embed(ids).mean(axis=1))

    class Ours(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.head = nn.Embed(30, 8, rngs=rngs), nn.SparseDense(8, 30, rngs=rngs)

        def __call__(self, ids):
            every = jnp.arange(30, dtype=jnp.int32)
            return self.head(self.embed(ids).mean(axis=1), every)

    dense, ours, ids = Dense(nnx.Rngs(0)), Ours(nnx.Rngs(1)), i32([[1, 2], [2, 3], [4, 4]])
    ours.embed.embedding[...] = dense.embed.embedding[...]
    ours.head.weights[...] = dense.head.kernel[...].T

    def loss(model):
        return -jnp.mean(jax.nn.log_softmax(model(ids))[:, 0])

    def train(model, gradient, tx):
        @nnx.jit
        def step(model, optimizer):
            value, grads = gradient(loss)(model)
            optimizer.update(model, grads)
            return value

        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        return [float(step(model, optimizer)) for _ in range(3)]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = train(dense, nnx.value_and_grad, optax.sgd(0.1))
        found = train(ours, nn.value_and_grad, rowwise(optax.sgd(0.1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        ours.embed.embedding[...], dense.embed.embedding[...], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        ours.head.weights[...], dense.head.kernel[...].T, rtol=1e-5, atol=1e-6
    )


def test_the_gradient_of_nnx_is_refused_with_the_lines_to_write():
    model, _ = make()
    for gradient in (nnx.grad, nnx.value_and_grad):
        with pytest.raises(TypeError, match=r"sparse_jax\.nn\.value_and_grad\(loss\)\(model"):
            gradient(lambda model: model.loss(*BATCH))(model)


def test_an_optimizer_without_rowwise_is_refused():
    model, _ = make_shallow(60)
    _, grads = nn.value_and_grad(lambda model: jnp.sum(model.embed(IDS)))(model)
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    with jax.numpy_dtype_promotion("standard"), pytest.raises((TypeError, ValueError)):
        optimizer.update(model, grads)


def test_all_units_have_the_dense_gradient_of_nnx():
    layer, x = nn.SparseDense(8, 30, rngs=nnx.Rngs(0)), jnp.ones((2, 8))
    ours = nn.value_and_grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    plain = nnx.value_and_grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_array_equal(ours[1]["weights"][...], plain[1]["weights"][...])


def test_a_table_that_a_loss_leaves_out_has_a_gradient_of_no_rows():
    model, optimizer = make_shallow(60)
    before = np.array(model.head.weights[...])
    _, grads = nn.value_and_grad(lambda model: jnp.sum(model.embed(IDS)))(model)
    assert grads["head"]["weights"].get_value().rows.shape == (0, 16)
    optimizer.update(model, grads)
    np.testing.assert_array_equal(model.head.weights[...], before)
    loss = lambda model: jnp.sum(model.head.loss(jnp.ones((4, 16)), BATCH[2], **DRAW))  # noqa: E731
    _, grads = nn.value_and_grad(loss)(model)
    assert grads["head"]["weights"].get_value().distinct  # as `shared_set` promises


DRAW = {"key": jax.random.key(0), "size": 8}


def test_aux_and_a_filter():
    class Scaled(nnx.Module):
        def __init__(self, rngs):
            self.table, self.scale = nn.Embed(9, 2, rngs=rngs), nnx.Variable(jnp.float32(2))

    model = Scaled(nnx.Rngs(0))
    loss = lambda model, ids: (jnp.sum(model.table(ids)) * model.scale[...], ids + 1)  # noqa: E731
    (_, aux), grads = nn.value_and_grad(loss, has_aux=True)(model, i32([3, 4]))
    assert aux.tolist() == [4, 5] and set(grads) == {"table"}
    (_, _), grads = nn.value_and_grad(loss, wrt=nnx.Variable, has_aux=True)(model, i32([3, 4]))
    assert set(grads) == {"table", "scale"} and grads["scale"][...].shape == ()


@pytest.mark.skipif(not ffi.AVAILABLE, reason="without kernels a step marks the ids among all N")
def test_the_step_holds_nothing_as_large_as_a_table():
    """Flat in N, and everything donated is changed in place."""

    def memory(rows):
        model, optimizer = make_shallow(rows)
        lowered = nnx.jit(lambda *args: shallow_step(*args), donate_argnums=(0, 1)).lower(
            model, optimizer, IDS, BATCH[2]
        )
        stats = lowered.lowered.compile().memory_analysis()
        return stats, model.embed.embedding[...].nbytes

    (small, _), (large, table) = memory(2_000), memory(100_000)
    assert large.temp_size_in_bytes <= 1.2 * small.temp_size_in_bytes + 4096 < table / 5
    assert large.alias_size_in_bytes >= 6 * table


class Shallow(nnx.Module):
    def __init__(self, rows, rngs):
        self.embed = nn.Embed(rows, 16, rngs=rngs)
        self.head = nn.SparseHead(16, rows, rngs=rngs)


def make_shallow(rows):
    model = Shallow(rows, nnx.Rngs(0))
    return model, nnx.Optimizer(model, rowwise(optax.adam(0.05)), wrt=nnx.Param)


def shallow_step(model, optimizer, ids, labels):
    def loss(model):
        h = model.embed(ids).mean(axis=1)
        return jnp.mean(model.head.loss(h, labels, key=jax.random.key(0), size=64))

    value, grads = nn.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def test_a_forgotten_donation_is_told(monkeypatch):
    monkeypatch.setattr(compiling, "LARGE", 60 * 16 * 4)
    args = *make_shallow(60), IDS, BATCH[2]
    with pytest.warns(UserWarning, match=r"float32 \[60, 16\].*donate_argnums"):
        # Both tables, and two slots of each; biases are small.
        assert len(layers.check_donated(nnx.jit(shallow_step), *args)) == 6
    assert layers.check_donated(nnx.jit(shallow_step, donate_argnums=(0, 1)), *args) == []


def test_the_package_does_not_import_flax():
    code = "import sys, sparse_jax; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
