"""The learned-code index: against NumPy, with the kernels and without."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax import _ffi, clusters, topk

N, D, LISTS = 600, 24, 16


def layer(seed: int = 0, num_rows: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows around a few directions, biases, and queries that share a mean."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, D))
    rows = centres[rng.integers(0, 12, num_rows)] + 0.6 * rng.normal(size=(num_rows, D))
    queries = np.maximum(centres[rng.integers(0, 12, 50)] + rng.normal(size=(50, D)), 0)
    return tuple(x.astype(np.float32) for x in (rows, 0.3 * rng.normal(size=num_rows), queries))  # type: ignore[return-value]


def leaves_equal(a: clusters.ClusterIndex, b: clusters.ClusterIndex) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def to_bytes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = np.abs(rows).max(1) * np.float32(1 / 127)
    return np.rint(rows * (np.float32(1) / scales)[:, None]).astype(np.int8), scales


def byte_scores(whole, scales, offsets, query, query_scale):
    sums = (whole.astype(np.int64) @ query).astype(np.float32)
    return sums * (scales * query_scale) + offsets


def reference_search(index, queries, weights, bias, *, k, max_rows, rescored):
    """`clusters.search` in the open."""
    out = np.full((len(queries), k), -1, np.int32)
    lists = [index.members[a:b] for a, b in zip(index.offsets, index.offsets[1:], strict=False)]
    whole, scales = to_bytes(weights)
    bits = min(14, int(np.log2((2**31 - 1) // (127 * queries.shape[1]))))
    for b, query in enumerate(queries):
        exponent = np.frexp(np.abs(query).max())[1]
        query_scale = np.float32(2.0 ** (exponent - bits))
        short = np.rint(query / query_scale).astype(np.int64)
        ranked = byte_scores(index.keys, index.key_scales, index.key_biases, short, query_scale)
        order = [c for c in np.lexsort((np.arange(len(ranked)), -ranked)) if len(lists[c])]
        ids = np.concatenate([lists[c] for c in order])[:max_rows]
        first = byte_scores(whole[ids], scales[ids], bias[ids], short, query_scale)
        kept = ids[np.lexsort((ids, -first))[:rescored]]
        exact = weights[kept].astype(np.float64) @ query + bias[kept]
        best = kept[np.lexsort((kept, -exact))[:k]]
        out[b, : len(best)] = best
    return out


def fit(rows, bias, queries=None, *, lists=LISTS, seed=3):
    # A new lambda, so that each implementation is traced.
    return jax.jit(lambda r, b: clusters.fit(jax.random.key(seed), r, b, queries, num_lists=lists))(
        rows, bias
    )


@pytest.mark.parametrize("with_queries", [True, False])
def test_index_is_what_it_says(kernels, with_queries):
    rows, bias, queries = layer()
    index = jax.tree.map(np.asarray, fit(rows, bias, queries if with_queries else None))
    whole, scales = to_bytes(rows)
    products = (whole.astype(np.int64) @ index.centroids.astype(np.int64).T).astype(np.float32)
    products += (np.float32(1) / scales)[:, None] * index.shifts
    np.testing.assert_array_equal(index.codes, products.argmax(1))
    np.testing.assert_array_equal(index.members, np.argsort(index.codes, kind="stable"))
    counts = np.bincount(index.codes, minlength=LISTS)
    np.testing.assert_array_equal(index.offsets, np.cumsum([0, *counts]))
    np.testing.assert_array_equal(index.bytes, whole[index.members])
    np.testing.assert_array_equal(index.scales, scales[index.members])
    np.testing.assert_array_equal(index.biases, bias[index.members])
    metric = queries.T @ queries / len(queries)
    for c in np.flatnonzero(counts):
        own = index.codes == c
        mean = rows[own].mean(0)
        assert np.abs(index.key_scales[c] * index.keys[c] - mean).max() <= np.abs(mean).max() / 250
        apart = rows[own] - mean
        spread = np.sqrt(np.einsum("nd,de,ne->n", apart, metric, apart).mean())
        promise = bias[own].mean() + (2 * spread if with_queries else 0)
        np.testing.assert_allclose(index.key_biases[c], promise, rtol=1e-3, atol=1e-3)
    # k-means found the twelve directions: no list holds everything.
    assert counts.max() < N / 4


@pytest.mark.skipif(not _ffi.AVAILABLE, reason="no C++ kernels")
def test_fallback_gives_the_same_bits(monkeypatch):
    rows, bias, queries = layer()
    ids = jnp.array([3, 77, -1, 599], jnp.int32)
    made = []
    for available in (True, False):
        monkeypatch.setattr(_ffi, "AVAILABLE", available)
        index = fit(rows, bias, queries)
        made.append(
            (index, jax.jit(lambda i, w: clusters.update(i, ids, w, bias))(index, rows[::-1]))
        )
    for a, b in zip(*made, strict=True):
        leaves_equal(a, b)


@pytest.mark.parametrize(("max_rows", "rescored"), [(37, 6), (150, 20), (5000, 5000)])
def test_search_equals_doing_it_in_the_open(kernels, max_rows, rescored):
    rows, bias, queries = layer()
    queries[0] = 0  # no direction: the biases decide
    index = jax.tree.map(np.asarray, fit(rows, bias, queries))
    options = {"k": 5, "max_rows": max_rows, "rescored": rescored}
    for some in (queries, queries[1:2]):  # many share the threads, or threads share one
        found = jax.jit(lambda i, q: clusters.search(i, q, rows, bias, **options))(index, some)
        if len(some) > 1:
            want = reference_search(index, some[1:], rows, bias, **options)
            np.testing.assert_array_equal(found.ids[1:], want)
        else:
            want = reference_search(index, some, rows, bias, **options)
            np.testing.assert_array_equal(found.ids, want)
        scores = np.einsum("bkd,bd->bk", rows[found.ids], some) + bias[found.ids]
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)
    if max_rows >= N:
        exact = topk.rows(jnp.array(queries), jnp.array(rows), jnp.array(bias), k=5)
        found = clusters.search(index, queries, rows, bias, **options)
        np.testing.assert_array_equal(found.ids, exact.ids)


def test_learned_lists_find_more_than_chance():
    rows, bias, queries = layer(num_rows=2000)
    exact = np.asarray(topk.rows(jnp.array(queries), jnp.array(rows), jnp.array(bias), k=5).ids)
    index = fit(rows, bias, queries, lists=64)
    found = clusters.search(index, queries, rows, bias, k=5, max_rows=200)
    recall = (np.asarray(found.ids)[:, :, None] == exact[:, None, :]).any(1).mean()
    assert recall > 0.75  # a tenth of the rows at random: .1


@functools.cache
def fitted() -> tuple[np.ndarray, np.ndarray, np.ndarray, clusters.ClusterIndex]:
    rows, bias, queries = layer()
    return rows, bias, queries, fit(rows, bias, queries)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), num_changed=st.integers(0, 40))
def test_update_equals_coding_all_rows_anew(seed, num_changed):
    rng = np.random.default_rng(seed)
    rows, bias, _, index = fitted()
    changed = rng.choice(N, num_changed, replace=False)
    moved = rows.copy()
    moved[changed] = rng.normal(size=(num_changed, D))
    ids = np.full(40, -1, np.int32)
    ids[rng.permutation(40)[:num_changed]] = changed
    partly = clusters.update(index, jnp.array(ids), jnp.array(moved), jnp.array(bias))
    everyone = jnp.arange(N, dtype=jnp.int32)
    leaves_equal(partly, clusters.update(index, everyone, jnp.array(moved), jnp.array(bias)))


def test_rows_that_are_not_finite_are_not_found(kernels):
    rows, bias, queries = layer()
    rows[7], rows[8, 3], rows[9] = np.nan, np.inf, 0
    index = fit(rows, bias, None)
    found = jax.jit(lambda i: clusters.search(i, queries, rows, bias, k=5, max_rows=N, rescored=N))(
        index
    )
    assert not np.isin(found.ids, [7]).any()
    assert np.isfinite(np.asarray(index.key_biases)).all()


def test_one_thread_or_two_give_the_same_bits():
    code = (
        "import jax, hashlib, numpy as np\n"
        "from sparse_jax import clusters, topk\n"
        "w = jax.random.normal(jax.random.key(0), (9_000, 32))\n"
        "h = jax.nn.relu(jax.random.normal(jax.random.key(1), (1000, 32)) + 1)\n"
        "index = clusters.fit(jax.random.key(2), w, w[:, 0], h, num_lists=64, iterations=3)\n"
        "digest = hashlib.sha256()\n"
        "for n in (1, 40):\n"
        "    found = clusters.search(index, h[:n], w, w[:, 0], k=5, max_rows=2000)\n"
        "    found = found, topk.rows(h[:n], w, w[:, 0], k=5)\n"
        "    for x in jax.tree.leaves((index, found)): digest.update(np.asarray(x).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, text=True,
            env=os.environ | {"NPROC": threads},
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1


def test_memory_is_predicted():
    rows, bias, _ = layer()
    index = fit(rows, bias)
    measured = sum(x.nbytes for x in jax.tree.leaves(index))
    assert measured == clusters.memory_bytes(N, D, num_lists=LISTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_lists": 0}, "num_lists must be in"),
        ({"num_lists": 601}, "num_lists must be in"),
        ({"sample": 0}, "sample must be >= 1"),
        ({"weights": jnp.ones((5, 1041)), "bias": jnp.ones(5)}, "1041 columns"),
        ({"bias": jnp.ones(5)}, r"must be \[N, d\] and \[N\]"),
        ({"queries": jnp.ones((5, 3))}, r"queries is \(5, 3\): must be \[S, 24\]"),
    ],
)
def test_errors_of_fit(change, message):
    rows, bias, queries = map(jnp.asarray, layer())
    given = {"weights": rows, "bias": bias, "queries": queries, "num_lists": 4}
    with pytest.raises(ValueError, match=message):
        clusters.fit(jax.random.key(0), **(given | change))


def test_errors_of_search_and_update():
    rows, bias, queries = map(jnp.asarray, layer())
    index = fit(rows, bias)
    with pytest.raises(ValueError, match=r"rescored must be >= 5.*at least k"):
        clusters.search(index, queries, rows, bias, k=5, max_rows=9, rescored=4)
    with pytest.raises(ValueError, match="max_rows must be >= 1"):
        clusters.search(index, queries, rows, bias, k=5, max_rows=0)
    with pytest.raises(ValueError, match=r"queries is \(50, 23\)"):
        clusters.search(index, queries[:, 1:], rows, bias, k=5, max_rows=9)
    with pytest.raises(ValueError, match=r"weights is \(599, 24\): must be \(600, 24\)"):
        clusters.update(index, jnp.zeros(1, jnp.int32), rows[1:], bias[1:])
