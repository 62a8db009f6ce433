"""Layers over gathered rows: equal to dense ones, with gradients for the gathered rows only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import layers
from sparse_jax.layers import losses
from sparse_jax.ops import fixed_order
from sparse_jax.rows import RowSparse, take_rows

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, N, A, D, OUT = 5, 12, 4, 6, 3


def i32(values):
    return jnp.asarray(values, jnp.int32)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def take_own(table, ids):
    return take_rows(table, ids.reshape(-1)).reshape(*ids.shape, *table.shape[1:])


def test_init_is_uniform_within_its_bound():
    params = layers.sparse_dense_init(jax.random.key(0), 16, 2000)
    weights = np.asarray(params["weights"])
    assert weights.shape == (2000, 16) and not np.asarray(params["bias"]).any()
    assert np.abs(weights).max() <= 0.25
    assert abs(weights.std() - 0.25 / 3**0.5) < 1e-3 and abs(weights.mean()) < 3e-3


def test_output_layer_with_all_rows_is_the_dense_layer():
    weights, bias, x = normal(0, N, D), normal(1, N), normal(2, B, D)
    expected = np.asarray(x) @ np.asarray(weights).T + np.asarray(bias)
    np.testing.assert_allclose(
        layers.sparse_dense(weights, bias, x), expected, rtol=1e-4, atol=1e-5
    )
    own_w, own_b = jnp.tile(weights, (B, 1, 1)), jnp.tile(bias, (B, 1))
    np.testing.assert_allclose(layers.sparse_dense(own_w, own_b, x), expected, rtol=1e-4, atol=1e-5)


def test_output_layer_computes_the_rows_it_is_given():
    weights, bias, x = normal(0, N, D), normal(1, N), normal(2, B, D)
    dense = np.asarray(layers.sparse_dense(weights, bias, x))
    ids = i32([3, 11, -1, 0])
    some = layers.sparse_dense(take_rows(weights, ids), take_rows(bias, ids), x)
    np.testing.assert_allclose(some[:, [0, 1, 3]], dense[:, [3, 11, 0]], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(some[:, 2], 0)
    ids = i32(np.random.default_rng(3).integers(0, N, (B, A)))
    own = layers.sparse_dense(take_own(weights, ids), take_own(bias, ids), x)
    np.testing.assert_allclose(
        own, np.take_along_axis(dense, np.asarray(ids), 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("own", [False, True])
def test_hidden_layer_with_all_units_is_the_dense_layer(own):
    weights, bias, x = normal(0, N, D), normal(1, N), normal(2, B, D)
    readout = normal(3, N, OUT)
    hidden = np.maximum(np.asarray(x) @ np.asarray(weights).T + np.asarray(bias), 0)
    ids = i32(np.random.default_rng(0).permutation(N))
    ids = jnp.stack([jnp.roll(ids, shift) for shift in range(B)]) if own else ids
    take = take_own if own else take_rows
    h = layers.sparse_hidden(take(weights, ids), take(bias, ids), x, ids, num_units=N)
    assert h.num_units == N and h.values.shape == (B, N)
    np.testing.assert_allclose(
        layers.read_sparse(take(readout, ids), h),
        hidden @ np.asarray(readout),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("own", [False, True])
def test_padding_of_a_hidden_layer_is_silent_whatever_its_bias(own):
    ids = i32([3, -1, 5])
    ids = jnp.stack([ids] * B) if own else ids
    weights, bias = jnp.ones((*ids.shape, D)), jnp.ones(ids.shape)
    x = jnp.ones((B, D))

    def values(weights, bias, x):
        return layers.sparse_hidden(weights, bias, x, ids, num_units=N).values

    assert values(weights, bias, x).tolist() == [[7.0, 0.0, 7.0]] * B
    grad = jax.grad(lambda *args: jnp.sum(values(*args)), argnums=(0, 1))(weights, bias, x)
    assert not np.asarray(grad[0])[..., 1, :].any() and not np.asarray(grad[1])[..., 1].any()


PLAIN = {
    "matmul_rows": lambda x, rows: jnp.einsum("bd,ad->ba", x, rows),
    "matmul_columns": lambda x, rows: jnp.einsum("ba,ad->bd", x, rows),
    "add_bias": lambda x, bias: x + bias[None, :],
}
SHAPES = {
    "matmul_rows": ((B, D), (A, D)),
    "matmul_columns": ((B, A), (A, D)),
    "add_bias": ((B, A), (A,)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_custom_gradients_are_those_of_autodiff(name):
    args = [normal(i, *shape) for i, shape in enumerate(SHAPES[name])]
    ours, pull = jax.vjp(getattr(fixed_order, name), *args)
    plain, plain_pull = jax.vjp(PLAIN[name], *args)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    cotangent = normal(9, *plain.shape)
    for grad, expected in zip(pull(cotangent), plain_pull(cotangent), strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_gradients_match_finite_differences(own):
    lead = (B,) if own else ()
    args = (normal(0, *lead, A, D), normal(1, *lead, A), normal(2, B, D), normal(3, *lead, A, OUT))
    ids = jnp.broadcast_to(jnp.arange(A, dtype=jnp.int32), (*lead, A))

    @jax.jit
    def loss(weights, bias, x, readout):
        # Far from the kink of the ReLU, where differences mean nothing.
        h = layers.sparse_hidden(weights, bias + jnp.float32(20), x, ids, num_units=N)
        return jnp.mean(jnp.tanh(layers.read_sparse(readout, h) * jnp.float32(0.02)))

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*args)
    for i, arg in enumerate(args):
        direction = normal(10 + i, *arg.shape)
        ends = []
        for step in (1e-1, -1e-1):
            moved = list(args)
            moved[i] = arg + jnp.float32(step) * direction
            ends.append(float(loss(*moved)))
        slope = float(jnp.sum(grads[i] * direction))
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 0.2, rtol=0.03, atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_a_sparse_hidden_layer_trains_touching_gathered_rows_only(own):
    hidden_units, width = 64, 16
    units = layers.sparse_dense_init(jax.random.key(0), D, hidden_units)
    readout = normal(1, hidden_units, OUT) * jnp.float32(0.1)
    params = {**units, "readout": readout}
    x, target = normal(2, 32, D), jnp.tanh(normal(2, 32, D)[:, :OUT])
    ids = i32(np.random.default_rng(0).permutation(hidden_units)[:width])
    if own:
        shifts = jnp.arange(32, dtype=jnp.int32)[:, None] % jnp.int32(3)
        ids = (ids[None, :] + shifts) % jnp.int32(hidden_units)
    named = np.unique(ids)
    take = take_own if own else take_rows

    @jax.jit
    def step(params):
        def loss(rows):
            h = layers.sparse_hidden(rows["weights"], rows["bias"], x, ids, num_units=hidden_units)
            return jnp.mean(jnp.square(layers.read_sparse(rows["readout"], h) - target))

        gathered = {name: take(table, ids) for name, table in params.items()}
        value, grads = jax.value_and_grad(loss)(gathered)
        # Gradients have the size of what was gathered.
        assert all(grads[name].shape == gathered[name].shape for name in grads)
        if own:  # ids repeat over examples: add up
            spread = lambda table, g: table.at[ids].add(jnp.float32(-0.3) * g)  # noqa: E731
        else:

            def spread(table, g):
                step = jnp.float32(-0.3) * RowSparse(ids, g, num_rows=hidden_units)
                return table + step

        return value, {name: spread(params[name], grads[name]) for name in params}

    before, losses = params, []
    for _ in range(60):
        value, params = step(params)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 3
    for name in params:
        change = np.abs(np.asarray(params[name] - before[name])).reshape(hidden_units, -1).sum(1)
        assert set(np.flatnonzero(change)) <= set(named.tolist())
        assert np.count_nonzero(change) > len(named) / 2


def test_activations_pass_through_jit_and_scan():
    ids = i32([0, 3])
    h = layers.SparseActivation(ids, jnp.ones((1, 2)), 7)
    out = jax.jit(lambda h: jax.tree.map(lambda leaf: leaf, h))(h)
    assert out.num_units == 7 and len(jax.tree.leaves(h)) == 2


@pytest.mark.parametrize(
    "shapes",
    [((A, D), (A,), (B, D + 1)), ((A, D), (A + 1,), (B, D)), ((B, A, D), (A,), (B, D))],
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="don't fit"):
        layers.sparse_dense(*map(jnp.ones, shapes))


SCRIPT = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from sparse_jax import layers
from sparse_jax.layers import losses
def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
# At these sizes the plain gradients do differ between thread counts.
B, A, D, OUT = 1024, 256, 64, 64
digest = hashlib.sha256()
for lead, size in (((), A), ((B,), 16)):
    ids = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (*lead, size))
    def loss(weights, bias, x, readout):
        h = layers.sparse_hidden(weights, bias, x, ids, num_units=size)
        return jnp.sin(layers.read_sparse(readout, h))
    args = (normal(0, *lead, size, D), normal(1, *lead, size), normal(2, B, D),
            normal(3, *lead, size, OUT))
    def run(*args):
        out, pull = jax.vjp(loss, *args)
        return out, pull(normal(4, B, OUT))
    for leaf in jax.tree.leaves(jax.jit(run)(*args)):
        digest.update(np.asarray(leaf).tobytes())
rows, places = jnp.arange(B, dtype=jnp.int32), jnp.arange(B, dtype=jnp.int32) % A
for precision in ("float32", "mixed"):
    def loss(*given):
        return jnp.sum(layers.softmax_head(*given, rows, places, precision=precision)[0])
    args = normal(5, B, D), normal(6, A, D), normal(7, A)
    for leaf in jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*args)):
        digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.threads(SCRIPT, counts=(1, 2, 5))
def test_outputs_and_gradients_have_the_same_bits_at_any_thread_count(printed):
    assert len(printed[1].strip()) == 64 and printed[1] == printed[2] == printed[5]


# softmax_head ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 37, 64])
def test_softmax_head_equals_the_loss_of_the_layer(kernels, size):
    rng = np.random.default_rng(size)
    batch, width = 9, 5
    hidden, weights, bias, logs = (
        jnp.asarray(rng.normal(size=shape, scale=3).astype(np.float32))
        for shape in ((batch, width), (size, width), (size,), (size,))
    )
    # Repeated labels, an example without one, padding on both sides of the range.
    rows = jnp.asarray([0, 0, 0, 1, 2, 4, 4, 5, 6, 7, 8], jnp.int32)
    places = rng.integers(0, size, 11).astype(np.int32)
    places[1], places[3], places[5], places[9] = places[0], -1, size, -1
    places = jnp.asarray(places)
    mask = jnp.asarray(rng.random(size) < 0.8).at[places[places >= 0]].set(True, mode="drop")
    scale = jnp.asarray(rng.normal(size=batch).astype(np.float32))

    def head(hidden, weights, bias):
        loss, best = layers.softmax_head(
            hidden, weights, bias, rows, places, mask=mask, log_inclusion=logs
        )
        return jnp.sum(scale * loss), (loss, best)

    def parts(hidden, weights, bias):
        logits = layers.sparse_dense(weights, bias, hidden)
        loss = losses.softmax_cross_entropy(logits, rows, places, mask=mask, log_inclusion=logs)
        masked = jnp.where(mask[None, :], logits - logs[None, :], -jnp.inf)
        return jnp.sum(scale * loss), (loss, jnp.argmax(masked, axis=1))

    (_, ours), grads = jax.jit(jax.value_and_grad(head, (0, 1, 2), has_aux=True))(
        hidden, weights, bias
    )
    (_, theirs), expected = jax.value_and_grad(parts, (0, 1, 2), has_aux=True)(
        hidden, weights, bias
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert ours[0][3] == 0 and ours[0][1] == 0
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("size", [16, 203])
def test_a_mixed_head_is_that_of_rounded_factors(kernels, size):
    rng = np.random.default_rng(size)
    batch, width = 12, 24
    hidden, weights, bias = (
        jnp.asarray(rng.normal(size=shape).astype(np.float32))
        for shape in ((batch, width), (size, width), (size,))
    )
    rows = jnp.asarray(np.repeat(np.arange(batch - 1), 2).astype(np.int32))  # one has no label
    places = jnp.asarray(rng.integers(0, size, rows.size).astype(np.int32))
    scale = jnp.asarray(rng.normal(size=batch).astype(np.float32))

    def head(precision, hidden, weights, bias):
        loss, best = layers.softmax_head(hidden, weights, bias, rows, places, precision=precision)
        return jnp.sum(scale * loss), (loss, best)

    def run(precision, *given):
        call = jax.value_and_grad(lambda *given: head(precision, *given), (0, 1, 2), has_aux=True)
        return jax.jit(call)(*given)

    def nearest(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    (_, (loss, best)), grads = run("mixed", hidden, weights, bias)
    (_, (exact, place)), expected = run("float32", nearest(hidden), nearest(weights), bias)
    # Products of bfloat16 are exact in float32: only the order of the sums may differ.
    np.testing.assert_allclose(loss, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(best, place)
    for got, want in zip(grads, expected, strict=True):
        assert got.dtype == jnp.float32 and got.shape == want.shape
        # Both factors are rounded at their eighth bit, errors of either sign.
        assert np.abs(got - want).max() < 2**-7 * np.abs(want).max()
        assert np.linalg.norm(got - want) < 0.005 * np.linalg.norm(want)
        assert np.linalg.norm(got - want) > 0  # it is mixed


def test_softmax_head_refuses_what_does_not_fit():
    ids = jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=r"weights \(3, 2\), bias \(4,\)"):
        layers.softmax_head(jnp.ones((1, 2)), jnp.ones((3, 2)), jnp.ones(4), ids, ids)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3\)"):
        layers.softmax_head(
            jnp.ones((1, 2)), jnp.ones((3, 2)), jnp.ones(3), ids, ids, mask=jnp.ones((1, 3), bool)
        )
    with pytest.raises(ValueError, match="precision = 'half': must be one of float32, mixed"):
        layers.softmax_head(
            jnp.ones((1, 2)), jnp.ones((3, 2)), jnp.ones(3), ids, ids, precision="half"
        )
