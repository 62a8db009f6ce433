"""Labels hashed to buckets, against a reference in NumPy with Python's integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops.mach import Buckets, bucket_rows, mach_topk

topk = jax.jit(mach_topk, static_argnames=("buckets", "probes", "k"))


def mix(h: int) -> int:
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def bucket(label: int, repetition: int, buckets: Buckets) -> int:
    key = mix(label >> buckets.bits ^ mix(buckets.seed ^ mix(repetition)))
    half = (buckets.bits + 1) // 2
    x = (label ^ key) % buckets.size * 0x9E3779B1 % buckets.size
    x ^= x >> half
    x = (x ^ mix(key)) % buckets.size * 0x85EBCA6B % buckets.size
    return x ^ x >> half


def rows_of(buckets: Buckets) -> np.ndarray:
    """[N, R]."""
    return np.array(
        [
            [r * buckets.size + bucket(label, r, buckets) for r in range(buckets.repetitions)]
            for label in range(buckets.num_labels)
        ]
    )


def reference(logits: np.ndarray, buckets: Buckets, probes: int, k: int) -> list[list[int]]:
    """All labels' scores; those outside the best buckets left out."""
    rows, found = rows_of(buckets), []
    for own in np.where(np.isnan(logits), -np.inf, logits).astype(np.float32):
        probed = np.zeros(own.size, bool)
        for r in range(buckets.repetitions):
            part = slice(r * buckets.size, (r + 1) * buckets.size)
            best = np.argsort(-own[part], kind="stable")[:probes]
            probed[part][best[own[part][best] > -np.inf]] = True
        scores = np.zeros(buckets.num_labels, np.float32)
        for column in rows.T:
            scores = scores + own[column]
        scores[~probed[rows].any(1)] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        kept = [int(i) for i in order if scores[i] > -np.inf]
        found.append(kept + [-1] * (k - len(kept)))
    return found


@pytest.mark.parametrize("size", [2, 4, 32, 512])
def test_each_block_is_permuted(size: int) -> None:
    buckets = Buckets(3 * size, size, repetitions=3, seed=5)
    rows = np.asarray(bucket_rows(jnp.arange(3 * size, dtype=jnp.int32), buckets))
    np.testing.assert_array_equal(rows, rows_of(buckets))
    for r in range(3):
        for block in rows[:, r].reshape(3, size):
            assert sorted(block) == list(range(r * size, (r + 1) * size))
    assert bucket_rows(jnp.array([-1, -9], jnp.int32), buckets).tolist() == [[-1] * 3] * 2


def test_a_labels_rows_do_not_depend_on_how_many_there_are() -> None:
    ids = jnp.arange(100, dtype=jnp.int32)
    few, many = Buckets(100, 16, seed=3), Buckets(10**7, 16 << 6, seed=3)
    more = Buckets(10**7 // 2**6, 16, seed=3)
    assert bucket_rows(ids, few).tolist() == bucket_rows(ids, more).tolist()
    assert bucket_rows(ids, few).tolist() != bucket_rows(ids, many).tolist()


# Few shapes: each compiles anew.
SHAPES = [(1, 2, 1, 3, 2), (90, 8, 3, 2, 5), (37, 16, 2, 17, 40), (64, 16, 4, 1, 3)]


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
def test_topk_equals_the_reference(shape: tuple[int, int, int, int, int], seed: int) -> None:
    num_labels, size, repetitions, probes, k = shape
    buckets = Buckets(num_labels, size, repetitions, 7)
    rng = np.random.default_rng(seed)
    values = np.array([-np.inf, np.nan, -1, -0.0, 0, 0.5, 2], np.float32)
    logits = rng.choice(values, (3, buckets.num_rows), p=[0.02, 0.02, 0.2, 0.1, 0.2, 0.3, 0.16])
    scores, ids = topk(jnp.asarray(logits), buckets, probes=probes, k=k)
    assert ids.tolist() == reference(logits, buckets, probes, k)
    assert np.isneginf(np.asarray(scores)).tolist() == (np.asarray(ids) < 0).tolist()


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((5, 3), "buckets = 3"),
        ((5, 1), "buckets = 1"),
        ((5, 2**31), "buckets"),
        ((5, 4, 0), "repetitions = 0"),
        ((5, 2**29, 4), "repetitions = 4"),
        ((0, 4), "num_labels = 0"),
        ((2**31, 4), "num_labels"),
        ((2**31 - 1, 4), "buckets = 4: must be more"),
        ((5, 4, 2, -1), "seed = -1"),
        ((5, 4, 2, 2**32), "seed = 4294967296"),
    ],
)
def test_sizes_out_of_range(sizes: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Buckets(*sizes)


def test_what_an_error_advises_is_accepted() -> None:
    with pytest.raises(ValueError, match="take ") as error:
        Buckets(2**31 - 1, 4)
    Buckets(2**31 - 1, int(str(error.value).split()[-1]))
