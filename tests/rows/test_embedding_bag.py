"""The embedding bag and its gradients, against NumPy; its bits at any number of threads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.rows import embedding_bag

pytestmark = pytest.mark.usefixtures("quick_compiles")


def reference_bag(rows, positions, segments, weights, num_segments, combiner):
    rows = rows.astype(np.float64)
    out = np.zeros((num_segments, rows.shape[1]))
    norm = np.zeros(num_segments)
    for j, (p, s) in enumerate(zip(positions, segments, strict=True)):
        if p < 0:
            continue
        w = 1.0 if weights is None else float(weights[j])
        out[s] += w * rows[p]
        norm[s] += w if combiner == "mean" else w * w
    if combiner == "sqrtn":
        norm = np.sqrt(norm)
    if combiner != "sum":
        out[norm != 0] /= norm[norm != 0][:, None]
    return out


def bag_inputs():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(7, 3)).astype(np.float32)
    positions = rng.integers(0, 7, 15).astype(np.int32)
    # Segment 2 is empty; the padding at the end carries bag 5, which is empty otherwise.
    segments = np.asarray([0] * 4 + [1] * 2 + [3] * 5 + [4] + [5] * 3, np.int32)
    positions[3], positions[-3:] = -1, -1
    weights = rng.uniform(0.5, 2, 15).astype(np.float32)
    return rows, positions, segments, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_embedding_bag_value_and_gradient(combiner, weighted):
    rows, positions, segments, weights = bag_inputs()
    weights = weights if weighted else None
    expected = reference_bag(rows, positions, segments, weights, 6, combiner)

    def bag(rows, weights):
        return embedding_bag(
            rows,
            jnp.asarray(positions),
            jnp.asarray(segments),
            weights,
            num_segments=6,
            combiner=combiner,
        )

    args = (jnp.asarray(rows), None if weights is None else jnp.asarray(weights))
    np.testing.assert_allclose(bag(*args), expected, rtol=1e-5, atol=1e-6)

    # Central differences of the float64 reference, in a random direction of the output.
    direction = np.random.default_rng(2).normal(size=expected.shape).astype(np.float32)

    def loss(rows, weights):
        return jnp.sum(bag(rows, weights) * jnp.asarray(direction))

    def numeric(x, of):
        gradient = np.zeros(x.shape)
        for index in np.ndindex(*x.shape):
            ends = []
            for sign in (1, -1):
                moved = x.astype(np.float64)
                moved[index] += sign * 1e-5
                ends.append(float((of(moved) * direction).sum()))
            gradient[index] = (ends[0] - ends[1]) / 2e-5
        return gradient

    d_rows = jax.grad(loss)(*args)
    np.testing.assert_allclose(
        d_rows,
        numeric(rows, lambda r: reference_bag(r, positions, segments, weights, 6, combiner)),
        rtol=1e-4,
        atol=1e-5,
    )
    if weighted:
        d_weights = jax.grad(loss, argnums=1)(*args)
        np.testing.assert_allclose(
            d_weights,
            numeric(weights, lambda w: reference_bag(rows, positions, segments, w, 6, combiner)),
            rtol=1e-4,
            atol=1e-5,
        )


def test_embedding_bag_shuts_out_padding():
    rows, positions, segments, weights = bag_inputs()
    clean = embedding_bag(rows, positions, segments, weights, num_segments=6, combiner="mean")
    weights[positions < 0] = np.nan
    segments[-3:] = [-1, 6, 99]
    dirty = embedding_bag(rows, positions, segments, weights, num_segments=6, combiner="mean")
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(clean[5], 0)
    positions[:] = 7  # past the rows
    out = embedding_bag(rows, positions, segments, num_segments=6, combiner="mean")
    np.testing.assert_array_equal(out, 0)


_BITS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from sparse_jax.rows import embedding_bag, unique_ids
rng = np.random.default_rng(0)
ids = jnp.asarray(rng.zipf(1.2, 20_000) % 5_000, jnp.int32)
segments = jnp.asarray(np.sort(rng.integers(0, 64, 20_000)), jnp.int32)
weights = jnp.asarray(rng.uniform(size=20_000), jnp.float32)
table = jnp.asarray(rng.normal(size=(4_000, 64)), jnp.float32)
@jax.jit
def f(table):
    unique, inverse, count = unique_ids(ids, num_rows=5_000, size=4_000)
    def loss(t, w):
        out = embedding_bag(t, inverse, segments, w, num_segments=64, combiner="sqrtn")
        return jnp.sum(out * out * out), out
    return unique, inverse, jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(table, weights)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(f(table)):
    if leaf.ndim:  # the loss itself is a full sum, whose order may follow the threads
        digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.threads(_BITS, counts=(1, 2))
def test_same_bits_at_any_thread_count(printed):
    assert printed[1] == printed[2] != ""
