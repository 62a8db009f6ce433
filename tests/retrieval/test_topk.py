"""Exact top-k: against NumPy, with the kernels and without."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.retrieval import topk


def reference(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row of scores [B, m], by sorting (−score, id)."""
    out_scores = np.full((len(scores), k), -np.inf, np.float32)
    out_ids = np.full((len(scores), k), -1, np.int32)
    for b, (row, names) in enumerate(zip(scores, ids, strict=True)):
        ranked = sorted((-s, i) for s, i in zip(row, names, strict=True) if s > -np.inf)[:k]
        for j, (score, i) in enumerate(ranked):
            out_scores[b, j], out_ids[b, j] = -score, i
    return out_scores, out_ids


def smalls(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small integers: sums are exact in any order, and ties are many."""
    return rng.integers(-3, 4, shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    n=st.sampled_from([1, 17]),
    num_rows=st.sampled_from([3, 60]),
    d=st.sampled_from([1, 19]),
    seed=st.integers(0, 999),
    strange=st.booleans(),
)
def test_rows_equals_sorting(n, num_rows, d, seed, strange):
    rng = np.random.default_rng(seed)
    q, w, b = smalls(rng, n, d), smalls(rng, num_rows, d), smalls(rng, num_rows)
    if strange:
        b[rng.integers(0, num_rows, 3)] = [np.nan, -np.inf, 7]
    want = reference(q @ w.T + b, np.broadcast_to(np.arange(num_rows), (n, num_rows)), 5)
    found = topk.rows(jnp.array(q), jnp.array(w), jnp.array(b), k=5)
    np.testing.assert_array_equal(found.ids, want[1])
    np.testing.assert_array_equal(found.scores, want[0])


@pytest.mark.parametrize("shape", [(1, 100, 8, 3), (4, 7, 3, 9), (40, 50, 33, 5)])
def test_kernel_and_fallback_equal_sorting(kernels, shape):
    n, num_rows, d, k = shape
    rng = np.random.default_rng(1)
    q, w, b = smalls(rng, n, d), smalls(rng, num_rows, d), smalls(rng, num_rows)
    b[:2] = [np.nan, -np.inf]
    scores = q @ w.T + b
    found = jax.jit(lambda q, w, b: topk.rows(q, w, b, k=k))(q, w, b)
    everyone = np.broadcast_to(np.arange(num_rows), (n, num_rows))
    for got, want in zip(found, reference(scores, everyone, k), strict=True):
        np.testing.assert_array_equal(got, want)

    some = np.stack([rng.permutation(num_rows + 4)[: num_rows // 2] - 2 for _ in range(n)])
    some = some.astype(np.int32)  # −2 … num_rows + 1: the ends are padding
    inside = (some >= 0) & (some < num_rows)
    picked = np.where(
        inside, np.take_along_axis(scores, np.clip(some, 0, num_rows - 1), 1), -np.inf
    )
    found = jax.jit(lambda q, w, b, ids: topk.among(q, w, b, ids, k=k))(q, w, b, some)
    for got, want in zip(found, reference(picked, some, k), strict=True):
        np.testing.assert_array_equal(got, want)


def test_real_numbers_within_rounding(kernels):
    rng = np.random.default_rng(2)
    q, w = rng.normal(size=(9, 50)).astype(np.float32), rng.normal(size=(300, 50))
    w, b = w.astype(np.float32), rng.normal(size=300).astype(np.float32)
    want = np.sort(q.astype(np.float64) @ w.T + b)[:, ::-1][:, :6]
    for some in (q, q[:2]):
        found = jax.jit(lambda q: topk.rows(q, w, b, k=6))(some)
        np.testing.assert_allclose(found.scores, want[: len(some)], rtol=1e-5, atol=1e-5)


def test_a_score_of_many_does_not_depend_on_the_batch(kernels):
    """Five queries or more; up to four are summed otherwise."""
    rng = np.random.default_rng(3)
    q, w = rng.normal(size=(64, 40)).astype(np.float32), rng.normal(size=(100, 40))
    w, b = w.astype(np.float32), np.zeros(100, np.float32)
    if kernels != "ffi":
        pytest.skip("XLA's product makes no such promise")
    whole = jax.jit(lambda q: topk.rows(q, w, b, k=3))(q)
    part = jax.jit(lambda q: topk.rows(q, w, b, k=3))(q[7:30])
    np.testing.assert_array_equal(part.scores, whole.scores[7:30])


def test_vmap_goes_one_by_one(kernels):
    rng = np.random.default_rng(4)
    q, w, b = smalls(rng, 3, 2, 5), smalls(rng, 20, 5), smalls(rng, 20)
    together = jax.vmap(lambda q: topk.rows(q, w, b, k=2))(q)
    for i in range(3):
        np.testing.assert_array_equal(together.ids[i], topk.rows(q[i], w, b, k=2).ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k = 0: must be at least 1"),
        ({"queries": jnp.ones((2, 4))}, r"queries \(2, 4\).*don't fit"),
        ({"bias": jnp.ones(4)}, "don't fit"),
        ({"ids": jnp.ones((3, 1), jnp.int32)}, r"ids is int32 \(3, 1\): must be int32 \[2, m\]"),
    ],
)
def test_errors(change, message):
    given = {
        "queries": jnp.ones((2, 3)),
        "weights": jnp.ones((5, 3)),
        "bias": jnp.ones(5),
        "ids": jnp.ones((2, 1), jnp.int32),
        "k": 1,
    }
    with pytest.raises(ValueError, match=message):
        topk.among(**(given | change))
