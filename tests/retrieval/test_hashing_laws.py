"""Hash families: how often two vectors share a bucket, and what their parameters are drawn from."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_hashing as ref
from hash_families import hash_jit, inputs, make

from sparse_jax.retrieval import hashing

pytestmark = pytest.mark.usefixtures("quick_compiles")

PAIRS = [0.95, 0.5, -0.4]


def agreement(params, x, y):
    """Fraction of tables in which two vectors share a bucket."""
    codes = np.asarray(hash_jit(params, jnp.asarray(np.stack([x, y]))))
    return float(np.mean(codes[0] == codes[1]))


def assert_law(observed, expected, samples, slack=0.0):
    sigma = math.sqrt(expected * (1 - expected) / samples)
    assert abs(observed - expected) <= 3 * sigma + slack, (observed, expected, sigma)


def pair(dim, cosine, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, dim))
    z -= z @ x / (x @ x) * x
    y = cosine * x / np.linalg.norm(x) + math.sqrt(1 - cosine**2) * z / np.linalg.norm(z)
    return x.astype(np.float32), y.astype(np.float32)


def positive_pair(dim, seed):
    """Sparse, non-negative, overlapping, no equal positive entries."""
    rng = np.random.default_rng(seed)
    x = rng.random(dim) * (rng.random(dim) < 0.35)
    y = np.where(rng.random(dim) < 0.6, x * (0.7 + 0.6 * rng.random(dim)), 0)
    y += rng.random(dim) * (rng.random(dim) < 0.15)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("cosine", PAIRS)
def test_simhash_law(cosine):
    x, y = pair(32, cosine)
    params = make("simhash", dim=32, num_tables=20000, num_bits=1)
    assert_law(agreement(params, x, y), ref.law_angle(x, y), 20000)
    params = make("simhash", dim=32, num_tables=10000, num_bits=3)
    assert_law(agreement(params, x, y), ref.law_angle(x, y) ** 3, 10000)


def test_simhash_directions_follow_the_rounded_gaussian():
    values = np.asarray(make("simhash", dim=500, num_tables=200).directions)
    assert np.array_equal(values, np.rint(values)) and np.abs(values).max() <= 31
    cdf = [0.5 * math.erfc(-(v + 0.5) / 8 / math.sqrt(2)) for v in range(-32, 32)]
    for v in (-16, -3, 0, 7):
        assert_law(float(np.mean(values == v)), cdf[v + 32] - cdf[v + 31], values.size)


@pytest.mark.parametrize("cosine", PAIRS)
def test_srp_law(cosine):
    x, y = pair(9, cosine)
    params = make("srp", dim=9, num_tables=20000, num_bits=1, density=4 / 9)
    law = ref.law_signed_subset(x, y, 4)[0]
    assert_law(agreement(params, x, y), law, 20000)
    # Spread-out vectors: the limit law.
    x, y = pair(300, cosine)
    params = make("srp", dim=300, num_tables=10000, num_bits=1)
    assert_law(agreement(params, x, y), ref.law_angle(x, y), 10000, slack=0.005)


def test_srp_columns_have_exactly_m_signed_entries():
    params = make("srp", dim=40, density=0.25)
    values = np.asarray(params.directions)
    assert params.num_nonzeros == 10
    np.testing.assert_array_equal(np.abs(values).sum(0), np.full(values.shape[1], 10))
    assert set(np.unique(values)) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("cosine", PAIRS)
@pytest.mark.parametrize("window", [2, 4, 8])
def test_wta_law(cosine, window):
    x, y = pair(24, cosine)
    bits = window.bit_length() - 1
    params = make("wta", dim=24, num_tables=20000, num_bits=bits, window=window)
    assert_law(agreement(params, x, y), ref.law_wta(x, y, window), 20000)
    params = make("wta", dim=24, num_tables=10000, num_bits=2 * bits, window=window)
    assert_law(agreement(params, x, y), ref.law_wta(x, y, window) ** 2, 10000)


def test_wta_depends_on_order_only():
    params = make("wta")
    x = jnp.asarray(pair(37, 0.5)[0])
    np.testing.assert_array_equal(hash_jit(params, x), hash_jit(params, jnp.exp(x)))


@functools.partial(jax.jit, static_argnums=0)
def agreement_by_key(init, keys, both):
    def one(key):
        codes = hashing.hash(init(key), both)
        return jnp.mean((codes[0] == codes[1]).astype(jnp.float32))

    return jax.lax.map(one, keys)


def keys_law(init, pairs, num_keys=300, slack=0.0):
    """Borrowed bins make the tables of one key dependent, so keys are the samples.

    `pairs` holds (x, y, expected); `init` maps a key to parameters.
    """
    keys = jax.random.split(jax.random.key(7), num_keys)
    for x, y, expected in pairs:
        both = jnp.asarray(np.stack([x, y]))
        rates = np.asarray(agreement_by_key(init, keys, both), np.float64)
        error = rates.std(ddof=1) / math.sqrt(len(rates))
        assert error < 0.01
        assert abs(rates.mean() - expected) <= 3 * error + slack, (rates.mean(), expected, error)


def test_dwta_law():
    pairs = []
    for seed in range(3):
        x, y = positive_pair(24, seed)
        assert math.comb(int((x == 0).sum()), 4) / math.comb(24, 4) > 0.05  # empty windows
        pairs.append((x, y, ref.law_dwta(x, y, 4)))
    keys_law(lambda key: make("dwta", dim=24, num_tables=60, num_bits=2, seed=key), pairs)


def test_dwta_is_wta_where_windows_are_not_empty():
    x = jnp.asarray(np.abs(inputs("wta", n=6)) + np.float32(1e-3))
    params = make("dwta")
    plain = hashing.wta.WTA(params.windows, 37, 6, 6, 4)
    np.testing.assert_array_equal(hash_jit(params, x), hash_jit(plain, x))


def test_fastsrp_law():
    # Bins of 4 of 16 coordinates, 40 repetitions: a donor is of the same one with chance 1 / 40.
    pairs = []
    for seed in range(3):
        x, y = positive_pair(16, seed)
        pairs.append((x, y, ref.law_fastsrp(x, y, 4)))
    keys_law(
        lambda key: make("fastsrp", dim=16, num_tables=160, num_bits=1, bin_size=4, seed=key),
        pairs,
    )


@pytest.mark.parametrize("num_hashes,bits", [(1, 4), (2, 16)])
def test_minhash_law(num_hashes, bits):
    size = 16
    pairs = []
    for overlap in (2, 8, 14):
        x = np.arange(size) * 977
        y = np.concatenate([x[:overlap], 10**6 + 31 * np.arange(size - overlap)])
        jaccard = (overlap / (2 * size - overlap)) ** num_hashes
        expected = jaccard + (1 - jaccard) / 2**bits
        pairs.append((x.astype(np.int32), y.astype(np.int32), expected))
    # Bins of one permutation are weakly dependent: their product is only roughly the square.
    keys_law(
        lambda key: make("minhash", num_tables=20, num_bits=bits, num_hashes=num_hashes, seed=key),
        pairs,
        num_keys=400,
        slack=0.0 if num_hashes == 1 else 0.02,
    )
