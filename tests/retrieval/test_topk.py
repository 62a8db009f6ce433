"""Exact top-k: against NumPy, with the kernels and without."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops import ffi
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


def strange_vectors(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    """Vectors of all kinds: plain, of zeros, one-sided, with one large coordinate, of far sizes,
    and of numbers that are none."""
    x = rng.normal(size=(count, d)).astype(np.float32)
    kind = rng.integers(0, 12, count)
    x[kind == 1] = 0
    x[kind == 2] = np.abs(x[kind == 2])
    x[kind == 3, 0] *= 100
    x[kind == 4] *= np.float32(1e12)
    x[kind == 5] *= np.float32(1e-12)
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        at = np.flatnonzero(kind == 6)[i::9]
        x[at, rng.integers(0, d, len(at))] = value
    return x


@settings(deadline=None, max_examples=15)
@given(
    d=st.sampled_from([5, 48]),
    k=st.sampled_from([1, 6, 1100]),
    kind=st.sampled_from(["strange", "equal", "near"]),
    seed=st.integers(0, 999),
)
def test_bounds_of_bytes_change_no_bit(d, k, kind, seed):
    """33 queries of 1,030 rows: rows are left out by bounds, where the processor has the
    instructions. Scores are sums in the order of the coordinates all the same."""
    if not ffi.AVAILABLE:
        pytest.skip("XLA's product sums in its own order")
    rng = np.random.default_rng(seed)
    q, w, b = strange_vectors(rng, 33, d), strange_vectors(rng, 1030, d), smalls(rng, 1030)
    if kind != "strange":
        w = np.repeat(rng.normal(size=(1, d)).astype(np.float32), 1030, axis=0)
    if kind == "near":
        w *= 1 + rng.integers(0, 9, w.shape).astype(np.float32) * np.float32(2**-23)
    b[rng.integers(0, 1030, 9)] = [np.nan, np.inf, -np.inf] * 3
    scores = np.zeros((33, 1030), np.float32)
    with np.errstate(all="ignore"):
        for i in range(d):
            scores += q[:, i, None] * w[None, :, i]
        scores += b
    want = reference(scores, np.broadcast_to(np.arange(1030), scores.shape), k)
    found = topk.rows(jnp.array(q), jnp.array(w), jnp.array(b), k=k)
    np.testing.assert_array_equal(found.ids, want[1])
    np.testing.assert_array_equal(found.scores, want[0])


def test_infinite_scores_rank(kernels):
    """They once wrote behind the last query."""
    q, w, b = np.ones((5, 3), np.float32), np.ones((99, 3), np.float32), np.zeros(99, np.float32)
    b[40:50] = np.inf
    found = topk.rows(jnp.array(q), jnp.array(w), jnp.array(b), k=3)
    np.testing.assert_array_equal(found.ids, [[40, 41, 42]] * 5)
    np.testing.assert_array_equal(found.scores, np.full((5, 3), np.inf))


THREADS = """
import hashlib
import jax
import jax.numpy as jnp
from sparse_jax.retrieval import topk

q = jax.random.normal(jax.random.key(0), (50, 24))
w = jax.random.normal(jax.random.key(1), (9000, 24))
w = w.at[4000:6000].set(w[:2000])  # ties
found = topk.rows(q, w, jnp.zeros(9000), k=9)
print(hashlib.sha256(found.scores.tobytes() + found.ids.tobytes()).hexdigest())
"""


@pytest.mark.threads(THREADS, counts=(1, 5))
def test_threads_make_no_difference(printed):
    assert printed[1] == printed[5] != ""


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
