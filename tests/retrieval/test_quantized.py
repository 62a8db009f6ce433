"""The product-quantized index: against NumPy, with the kernels and without."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quickly
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops import ffi
from sparse_jax.ops.quantized import quantized_scan
from sparse_jax.retrieval import quantized, topk

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D, M = 600, 24, 8


def layer(seed: int = 0, num_rows: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows around a few directions, biases, and queries that share a mean."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, D))
    rows = centres[rng.integers(0, 12, num_rows)] + 0.6 * rng.normal(size=(num_rows, D))
    queries = np.maximum(centres[rng.integers(0, 12, 50)] + rng.normal(size=(50, D)), 0)
    return tuple(x.astype(np.float32) for x in (rows, 0.3 * rng.normal(size=num_rows), queries))  # type: ignore[return-value]


def fit(rows, bias, queries, *, subspaces=M, seed=3):
    # A new lambda, so that each implementation is traced.
    return jax.jit(
        lambda r, b: quantized.fit(jax.random.key(seed), r, b, queries, subspaces=subspaces)
    )(rows, bias)


update = jax.jit(quantized.update)


@functools.cache
def fitted() -> tuple[np.ndarray, np.ndarray, np.ndarray, quantized.QuantizedIndex]:
    rows, bias, queries = layer()
    return rows, bias, queries, fit(rows, bias, queries)


def unpacked(codes: np.ndarray, num_rows: int) -> np.ndarray:
    """The code of each row in each subspace, int [N, M]."""
    both = np.asarray(codes).transpose(0, 2, 1).reshape(-1, codes.shape[1])
    return np.stack([both & 15, both >> 4], axis=2).reshape(len(both), -1)[:num_rows]


def reference_scan(tables, below, steps, codes, scales, biases, limit):
    """The kernel in the open: ids [B, limit]."""
    out = np.full((len(tables), limit), -1, np.int32)
    chosen = unpacked(codes, len(biases))
    for b, table in enumerate(np.asarray(tables).astype(int)):
        sums = table[np.arange(table.shape[0])[None, :], chosen].sum(1) + below[b]
        scores = sums.astype(np.float32) * (steps[b] * scales) + biases
        ids = np.flatnonzero(scores > -np.inf)
        best = ids[np.lexsort((ids, -scores[ids]))][:limit]
        out[b, : len(best)] = best
    return out


SCANNED = [  # blocks of 32 rows, pairs of subspaces, queries, limit: each is compiled twice
    (1, 1, 1, 1),
    (1, 2, 8, 40),
    (2, 1, 9, 150),
    (3, 5, 20, 33),
    (7, 3, 2, 64),
    (8, 4, 8, 1),
    (16, 2, 1, 100),
    (33, 1, 20, 7),
    (47, 5, 9, 150),
    (64, 4, 2, 31),
    (70, 3, 1, 5),
    (70, 5, 8, 90),
]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), sizes=st.sampled_from(SCANNED))
def test_scan_equals_numpy(seed, sizes):
    blocks, pairs, num_queries, limit = sizes
    rng = np.random.default_rng(seed)
    most = rng.choice([2, 256])  # few different entries make ties
    tables = rng.integers(0, most, (num_queries, 2 * pairs, 16)).astype(np.uint8)
    codes = rng.integers(0, 256, (blocks, pairs, 32)).astype(np.uint8)
    biases = rng.integers(-2, 3, 32 * blocks).astype(np.float32)
    biases[rng.random(len(biases)) < 0.1] = rng.choice([-np.inf, np.nan])
    scales = rng.integers(-1, 3, 32 * blocks).astype(np.float32)
    below = rng.integers(-50, 50, num_queries).astype(np.int32)
    steps = rng.choice([0.0, 0.5, 1e-30], num_queries).astype(np.float32)
    want = reference_scan(tables, below, steps, codes, scales, biases, limit)
    for available in {False, ffi.AVAILABLE}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ffi, "AVAILABLE", available)
            found = scan_of(available, limit)(tables, below, steps, codes, scales, biases)
        np.testing.assert_array_equal(found, want)


@functools.cache
def scan_of(available, limit):
    """Compiled with the kernels or without, as `available` says and `ffi.AVAILABLE` is."""
    return jax.jit(lambda *given: quantized_scan(*given, limit))


def test_index_is_what_it_says(kernels):
    rows, bias, queries = layer()
    index = jax.tree.map(np.asarray, fit(rows, bias, queries))
    np.testing.assert_allclose(index.mean, queries.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        index.biases[:N], bias + rows @ queries.mean(0), rtol=1e-4, atol=1e-4
    )
    assert (index.biases[N:] == -np.inf).all()
    coordinates = (rows - index.centre) @ index.encoder
    lengths = np.linalg.norm(coordinates, axis=1)
    directions = (coordinates / lengths[:, None]).reshape(N, M, -1)
    apart = ((directions[:, :, None] - index.codebooks[None]) ** 2).sum(3)
    codes = unpacked(index.codes, N)
    chosen = np.take_along_axis(apart, codes[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen, apart.min(2), rtol=1e-3, atol=1e-5)
    books = np.stack([index.codebooks[m, codes[:, m]] for m in range(M)], axis=1)
    scales = lengths / (books * directions).sum((1, 2))
    np.testing.assert_allclose(index.scales[:N], scales, rtol=1e-3)


def logits_and_guesses(subspaces: int) -> tuple[np.ndarray, np.ndarray]:
    """What codes stand for, as rows, gives logits too; both less what all rows share."""
    rows, bias, queries = layer()
    index = jax.tree.map(np.asarray, fit(rows, bias, queries, subspaces=subspaces))
    words, codes = index.codewords.reshape(D, subspaces, 16), unpacked(index.codes, N)
    stood_for = np.stack([words[:, m, codes[:, m]] for m in range(subspaces)]).sum(0)
    centred = queries - index.mean
    return centred @ (rows - index.centre).T, centred @ (stood_for * index.scales[:N])


@pytest.mark.parametrize(("subspaces", "lost"), [(M, 0.3), (D, 0.02)])
def test_what_codes_stand_for_has_the_logits_of_the_rows(subspaces, lost):
    logits, guess = logits_and_guesses(subspaces)  # 16 levels of a normal lose .012
    assert ((logits - guess) ** 2).mean() < lost * (logits**2).mean()


def test_search_over_all_rows_is_exact_and_over_few_is_near(kernels):
    rows, bias, queries = layer()
    index = fit(rows, bias, queries)
    exact = np.asarray(topk.rows(jnp.array(queries), jnp.array(rows), jnp.array(bias), k=5).ids)
    for some in (queries, queries[:1]):
        found = jax.jit(lambda i, q: quantized.search(i, q, rows, bias, k=5, rescored=10 * N))(
            index, some
        )
        np.testing.assert_array_equal(found.ids, exact[: len(some)])
        scores = np.einsum("bkd,bd->bk", rows[found.ids], some) + bias[found.ids]
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)
    few = jax.jit(lambda i, q: quantized.search(i, q, rows, bias, k=5, rescored=30))(index, queries)
    recall = (np.asarray(few.ids)[:, :, None] == exact[:, None, :]).any(1).mean()
    assert recall > 0.8  # a twentieth of the rows at random: .05


@pytest.mark.skipif(not ffi.AVAILABLE, reason="no C++ kernels")
def test_fallback_gives_the_same_bits(monkeypatch):
    rows, bias, queries = layer()
    made = []
    for available in (True, False):
        monkeypatch.setattr(ffi, "AVAILABLE", available)
        index = fit(rows, bias, queries)
        search = jax.jit(lambda i: quantized.search(i, queries, rows, bias, k=5, rescored=40).ids)
        made.append((index, search(index)))
    for a, b in zip(jax.tree.leaves(made[0]), jax.tree.leaves(made[1]), strict=True):
        np.testing.assert_array_equal(a, b)


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
    partly = update(index, ids, moved, bias)
    whole = update(index, np.arange(N, dtype=np.int32), moved, bias)
    # A sum over 24 coordinates may end in another last bit, and a row between two codewords fall
    # to the other.
    assert (unpacked(partly.codes, N) != unpacked(whole.codes, N)).mean() < 1e-3
    np.testing.assert_allclose(partly.biases[:N], whole.biases[:N], rtol=1e-5, atol=1e-5)


def test_update_is_in_place_and_ignores_ids_out_of_range():
    rows, bias, _, index = fitted()
    ids = np.array([-1, N, N + 39, N + 40, 2**31 - 1], np.int32)
    same = update(index, ids, rows, bias)
    for a, b in zip(jax.tree.leaves(index), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    many = 200_000
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    big = jax.eval_shape(
        lambda w, b, q: quantized.fit(jax.random.key(0), w, b, q, subspaces=M),
        shape((many, D)),
        shape((many,)),
        shape((9, D)),
    )
    donated = jax.jit(quantized.update, donate_argnums=0)
    few = jax.ShapeDtypeStruct((8,), jnp.int32)
    compiled = donated.lower(big, few, shape((many, D)), shape((many,))).compile(quickly.fused())
    assert compiled.memory_analysis().temp_size_in_bytes < many


def test_rows_and_queries_that_are_not_finite(kernels):
    rows, bias, queries = layer()
    rows[7], rows[8, 3], rows[9], bias[10] = np.nan, np.inf, 0, np.nan
    queries[0], queries[1, 2] = np.nan, np.inf
    index = fit(rows, bias, layer()[2])
    found = jax.jit(lambda i: quantized.search(i, queries, rows, bias, k=5, rescored=N))(index)
    assert np.isfinite(np.asarray(index.codewords)).all()
    assert not np.isin(found.ids[2:], [7, 10]).any()
    assert (np.asarray(found.ids[2:]) >= 0).all()


def test_few_rows_and_wide_codes(kernels):
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    rows, queries, bias = (
        rows.astype(np.float32),
        queries.astype(np.float32),
        np.zeros(3, np.float32),
    )
    index = fit(rows, bias, queries, subspaces=8)  # more than coordinates
    found = jax.jit(lambda i: quantized.search(i, queries, rows, bias, k=4, rescored=9))(index)
    np.testing.assert_array_equal(found.ids[:, :3], np.argsort(-(queries @ rows.T), axis=1))
    assert (np.asarray(found.ids)[:, 3] == -1).all()


_BITS = """
import jax, hashlib, numpy as np
from sparse_jax.retrieval import quantized
w = jax.random.normal(jax.random.key(0), (90_000, 128))
h = jax.nn.relu(jax.random.normal(jax.random.key(1), (1000, 128)) + 1)
index = jax.jit(lambda w, h: quantized.fit(jax.random.key(2), w, w[:, 0], h))(w, h)
search = jax.jit(lambda i, h, w: quantized.search(i, h, w, w[:, 0], k=5))
digest = hashlib.sha256()
for n in (1, 40):
    found = search(index, h[:n], w)
    for x in jax.tree.leaves((index, found)): digest.update(np.asarray(x).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.threads(_BITS, counts=(1, 2))
def test_one_thread_or_two_give_the_same_bits(printed):
    assert printed[1] == printed[2] != ""


@pytest.mark.parametrize(("num_rows", "dim", "subspaces"), [(600, 24, 8), (33, 5, 4), (32, 6, 2)])
def test_memory_is_predicted(num_rows, dim, subspaces):
    rows = np.ones((num_rows, dim), np.float32)
    index = fit(rows, np.zeros(num_rows, np.float32), rows, subspaces=subspaces)
    measured = sum(x.nbytes for x in jax.tree.leaves(index))
    assert measured == quantized.memory_bytes(num_rows, dim, subspaces=subspaces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subspaces": 0}, "subspaces must be in"),
        ({"subspaces": 258}, "subspaces must be in"),
        ({"subspaces": 7}, "subspaces = 7: must be even"),
        ({"sample": 15}, "sample must be >= 16"),
        ({"iterations": 0}, "iterations must be >= 1"),
        ({"bias": jnp.ones(5)}, r"must be \[N, d\] and \[N\]"),
        ({"weights": jnp.ones((0, 24)), "bias": jnp.ones(0)}, "not empty"),
        ({"queries": jnp.ones((5, 3))}, r"queries is \(5, 3\): must be \[S, 24\]"),
        ({"queries": jnp.ones((0, 24))}, "S at least 1"),
    ],
)
def test_errors_of_fit(change, message):
    rows, bias, queries = map(jnp.asarray, layer())
    given = {"weights": rows, "bias": bias, "queries": queries, "subspaces": 4}
    with pytest.raises(ValueError, match=message):
        quantized.fit(jax.random.key(0), **(given | change))


def test_errors_of_search_and_update():
    rows, bias, queries, index = fitted()
    rows, bias, queries = map(jnp.asarray, (rows, bias, queries))
    with pytest.raises(ValueError, match=r"rescored must be >= 5.*at least k"):
        quantized.search(index, queries, rows, bias, k=5, rescored=4)
    with pytest.raises(ValueError, match="k must be >= 1"):
        quantized.search(index, queries, rows, bias, k=0)
    with pytest.raises(ValueError, match=r"queries is \(50, 23\)"):
        quantized.search(index, queries[:, 1:], rows, bias, k=5)
    with pytest.raises(ValueError, match=r"weights is \(500, 24\): must have 24 columns and 19"):
        quantized.update(index, jnp.zeros(1, jnp.int32), rows[:500], bias[:500])
