"""Key transforms: order of inner products, fixed between fits, NumPy references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_hashing as ref

from sparse_jax.retrieval.hashing import simhash, transforms

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D, B = 203, 19, 7
fit = jax.jit(transforms.fit, static_argnums=0, static_argnames="num_ranges")
keys, queries, ranges = map(jax.jit, (transforms.keys, transforms.queries, transforms.ranges))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(N, D)) * np.exp(0.7 * rng.normal(size=(N, 1))) + 0.5
    arrays = (w, rng.normal(size=N), np.maximum(rng.normal(size=(B, D)), 0))
    return tuple(jnp.asarray(a.astype(np.float32)) for a in arrays)


def exact(a):
    return np.asarray(a, np.float64)


def cosines(q, k):
    q, k = exact(q), exact(k)
    return (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (
        k / np.linalg.norm(k, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize("name", transforms.NAMES)
def test_shapes_and_width(name, data):
    w, b, h = data
    t = fit(name, w, b)
    k, q = keys(t, w, b), queries(t, h)
    assert k.shape == (N, t.transformed_dim) and q.shape == (B, t.transformed_dim)
    assert k.dtype == q.dtype == jnp.float32
    assert t.transformed_dim == (D if name in ("none", "centred") else D + 1)
    params = simhash.init(jax.random.key(0), t.transformed_dim, num_tables=2, num_bits=5)
    assert simhash.hash(params, k).shape == (N, 2)


@pytest.mark.parametrize("name", transforms.NAMES)
def test_keys_of_some_rows_are_the_keys_of_all_at_those_rows(name, data):
    w, b, _ = data
    t = fit(name, w, b)
    whole = np.asarray(keys(t, w, b))
    np.testing.assert_array_equal(transforms.keys(t, w, b), whole)
    for rows in (np.array([5]), np.array([200, 3, 77]), np.arange(0, N, 2)):
        np.testing.assert_array_equal(keys(t, w[rows], b[rows]), whole[rows])
    assert keys(t, w[:0], b[:0]).shape == (0, t.transformed_dim)


@pytest.mark.parametrize("name", transforms.NAMES)
def test_fitted_transform_is_a_pytree_of_arrays(name, data):
    w, b, _ = data
    t = fit(name, w, b)
    leaves, treedef = jax.tree.flatten(t)
    assert len(leaves) == 2 and all(isinstance(leaf, jax.Array) for leaf in leaves)
    # A fit to changed rows has the same structure: it can replace this one inside a jitted step.
    assert jax.tree.structure(fit(name, w + jnp.float32(1), b)) == treedef
    for a, c in zip(leaves, jax.tree.leaves(fit(name, w, b)), strict=True):
        np.testing.assert_array_equal(a, c)


def test_none_returns_its_input(data):
    w, b, h = data
    t = fit("none", w, b)
    np.testing.assert_array_equal(keys(t, w), w)
    np.testing.assert_array_equal(queries(t, h), h)


@pytest.mark.parametrize("name", ["centred", "bias_centred"])
def test_centred_keeps_the_order_of_each_query(name, data):
    w, b, h = data
    t = fit(name, w, b)
    full = np.concatenate([exact(w), exact(b)[:, None]], 1) if name != "centred" else exact(w)
    np.testing.assert_array_equal(t.mean, ref.column_mean(full.astype(np.float32)))
    np.testing.assert_allclose(t.mean, full.mean(0), atol=1e-5)
    q = queries(t, h)
    before = exact(h) @ exact(w).T + (exact(b) if name != "centred" else 0)
    after = exact(q) @ exact(keys(t, w, b)).T
    np.testing.assert_array_equal(np.argsort(before, 1), np.argsort(after, 1))
    assert np.abs(exact(keys(t, w, b)).mean(0)).max() < 1e-5


def test_bias_is_part_of_the_inner_product(data):
    w, b, h = data
    t = fit("bias", w, b)
    got = exact(queries(t, h)) @ exact(keys(t, w, b)).T
    np.testing.assert_allclose(got, exact(h) @ exact(w).T + exact(b), rtol=1e-12)


def test_alsh_cosine_is_the_scaled_inner_product(data):
    w, _, h = data
    t = fit("alsh", w)
    k, q = keys(t, w), queries(t, h)
    norms = np.linalg.norm(exact(w), axis=1)
    np.testing.assert_array_equal(t.bounds, ref.squared_norms(np.asarray(w)).max()[None])
    np.testing.assert_allclose(np.linalg.norm(exact(k), axis=1), norms.max(), rtol=1e-3)
    inner = exact(h) @ exact(w).T
    scale = np.linalg.norm(exact(h), axis=1, keepdims=True) * norms.max()
    np.testing.assert_allclose(cosines(q, k), inner / scale, atol=1e-3)
    # Monotone: two inner products further apart than the rounding keep their order.
    cos, rest = cosines(q, k), inner / scale
    for i in range(B):
        order = np.argsort(rest[i])
        assert (np.diff(cos[i, order]) > -1e-3).all()
        assert cos[i].argmax() == rest[i].argmax()


def test_norm_range_uses_local_maxima(data):
    w, _, h = data
    t = fit("norm_range", w, num_ranges=5)
    squared = ref.squared_norms(np.asarray(w))
    which = np.asarray(ranges(t, w))
    assert t.bounds.shape == (5,) and (np.diff(t.bounds) > 0).all()
    np.testing.assert_array_equal(np.bincount(which), [40, 41, 40, 41, 41])
    cos = cosines(queries(t, h), keys(t, w))
    inner = exact(h) @ exact(w).T / np.linalg.norm(exact(h), axis=1, keepdims=True)
    for j in range(5):
        member = which == j
        assert t.bounds[j] == squared[member].max()
        local = inner[:, member] / np.sqrt(squared[member].max())
        np.testing.assert_allclose(cos[:, member], local, atol=1e-3)
    # The point of the paper: shorter rows are not pushed to the pole by the longest.
    plain = fit("alsh", w)
    flat = cosines(queries(plain, h), keys(plain, w))
    assert (np.abs(cos) >= np.abs(flat) - 1e-4).all()
    np.testing.assert_array_equal(ranges(fit("none", w), w), np.zeros(N))


def test_rows_longer_than_at_the_fit_are_clamped(data):
    w, _, _ = data
    for name in ("alsh", "norm_range"):
        t = fit(name, w)
        grown = np.asarray(keys(t, w * jnp.float32(10)))
        assert np.isfinite(grown).all() and (grown[:, -1] >= 0).all()
        longest = int(np.argmax(np.linalg.norm(exact(w), axis=1)))
        assert grown[longest, -1] == 0


@pytest.mark.parametrize("name", transforms.NAMES)
def test_degenerate_rows(name):
    rows = np.zeros((4, D), np.float32)
    rows[1] = 1e-30
    rows[2] = 1e25
    rows[3, :3] = [1e-42, 1.0, -1.0]
    w, b = jnp.asarray(rows), jnp.zeros((4,), jnp.float32)
    t = fit(name, w, b)
    assert np.isfinite(np.asarray(keys(t, w, b))).all()
    one = fit(name, w[:1], b[:1])
    assert np.isfinite(np.asarray(keys(one, w[:1], b[:1]))).all()


def test_centring_large_and_small_columns():
    rng = np.random.default_rng(3)
    w = rng.normal(size=(5000, 4)) * [1e-20, 1.0, 1e6, 1e20] + [1e-20, -3, 0, 2e20]
    w = w.astype(np.float32)
    t = fit("centred", jnp.asarray(w))
    np.testing.assert_array_equal(t.mean, ref.column_mean(w))
    np.testing.assert_allclose(
        np.asarray(t.mean) / np.abs(w).max(0),
        w.astype(np.float64).mean(0) / np.abs(w).max(0),
        atol=1e-6,
    )


def test_bad_arguments(data):
    w, b, h = data
    with pytest.raises(ValueError, match=r"got 'centered'; did you mean 'centred'"):
        transforms.fit("centered", w)
    with pytest.raises(ValueError, match=r"weights must have shape \[N, dim\].*\(19,\)"):
        transforms.fit("none", w[0])
    with pytest.raises(ValueError, match=r"bias must have shape \(203,\).*'bias', got None"):
        transforms.fit("bias", w)
    with pytest.raises(ValueError, match="num_ranges must be >= 1, got 0"):
        transforms.fit("norm_range", w, num_ranges=0)
    t = transforms.fit("bias", w, b)
    with pytest.raises(ValueError, match=r"bias must have shape \(3,\)"):
        transforms.keys(t, w[:3], b)
    with pytest.raises(ValueError, match=r"rows must have shape \[n, 19\]"):
        transforms.keys(t, w[:, :4], b)
    with pytest.raises(ValueError, match=r"h must have shape \[n, 19\].*\(7, 4\)"):
        transforms.queries(t, h[:, :4])
