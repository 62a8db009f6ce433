"""Sums of exponentials over a table: near the exact ones whatever the sizes, and never a crash."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from sparse_jax.ops import ffi
from sparse_jax.ops.partition import log_partition

find = jax.jit(log_partition)


def exact(queries, rows, bias):
    q, w, b = (np.asarray(x, np.float64) for x in (queries, rows, bias))
    return logsumexp(q @ w.T + b, axis=1)


@functools.cache
def draw(seed, queries, rows, width, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (queries, width), (rows, width), (rows,)
    q, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return q * scale, w / np.float32(width**0.5), b


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from([(1, 1, 1), (7, 63, 5), (13, 64, 16), (97, 200, 33), (6, 65, 128)]),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
)
def test_near_the_exact_sum(seed, shape, scale):
    """A rounded logit is off by |q| |w| / 80,000; of a peak, the largest terms are exact."""
    queries, rows, bias = draw(seed, *shape, scale)
    lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(rows, axis=1).max()
    wrong = np.abs(find(queries, rows, bias) - exact(queries, rows, bias))
    assert (wrong <= 2e-5 * (0.2 + lengths)).all()


def test_as_near_as_promised_at_the_size_of_a_language_model():
    rng = np.random.default_rng(0)
    queries, rows, _ = draw(1, 64, 5000, 128)
    bias = (-np.log(np.arange(1, 5001)) - rng.exponential(1, 5000)).astype(np.float32)
    wrong = find(queries, rows, bias) - exact(queries, rows, bias)
    assert np.abs(wrong).max() < 1e-5
    assert abs(wrong.mean()) < 2e-6


def test_repeats_take_the_first_answer():
    queries, rows, bias = draw(2, 9, 100, 8)
    first = jnp.asarray([0, 0, 2, 2, 4, -1, 8, 99, 0], jnp.int32)  # out of range: its own
    found = np.asarray(find(queries, rows, bias, first))
    own = np.asarray(find(queries, rows, bias))
    np.testing.assert_array_equal(found, own[[0, 0, 2, 2, 4, 5, 6, 7, 0]])


def test_numbers_that_are_none_reach_their_queries_alone():
    queries, rows, bias = (x.copy() for x in draw(3, 8, 70, 20))
    queries[1, 3], queries[2, 0] = np.nan, np.inf
    found = np.asarray(find(queries, rows, bias))
    assert (np.isfinite(found) == [True, False, False, *[True] * 5]).all()
    rows[5, 1] = np.nan
    assert np.isnan(np.asarray(find(queries, rows, bias))[3:]).all()


def test_rows_left_out_add_nothing():
    queries, rows, bias = draw(4, 5, 130, 6)
    kept = np.arange(130) % 3 == 0
    found = find(queries, rows, np.where(kept, bias, -np.inf).astype(np.float32))
    np.testing.assert_allclose(found, exact(queries, rows[kept], bias[kept]), atol=2e-5)
    nothing = np.full(130, -np.inf, np.float32)
    assert (np.asarray(find(queries, rows, nothing)) == -np.inf).all()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12])
def test_far_sizes_cancel(size):
    """Queries as small as rows are large have the same logits."""
    queries, rows, bias = draw(5, 6, 90, 10)
    found = find(queries * np.float32(size), rows / np.float32(size), bias)
    np.testing.assert_allclose(found, exact(queries, rows, bias), atol=5e-5)


@pytest.mark.skipif(
    not (ffi.AVAILABLE and ffi.native().fast_partition()), reason="the kernel's own check"
)
def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(Exception, match="sparse_jax: queries is not"):
        jax.block_until_ready(find(jnp.ones((2, 3)), jnp.ones((4, 5)), jnp.ones(4)))
