"""Codes of sets and what they match: C++ against NumPy and JAX, threads, and wrong arguments."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops import ffi, minhash, text_features
from sparse_jax.retrieval import duplicates
from sparse_jax.retrieval.hashing import _common
from sparse_jax.retrieval.hashing import minhash as family

needs_kernels = pytest.mark.skipif(not ffi.AVAILABLE, reason="no kernels to compare with")
SETS = st.lists(st.sets(st.integers(0, 30), max_size=12), max_size=30)


def params_of(seed: int, tables: int, hashes: int, bits: int) -> tuple[minhash.Params, object]:
    drawn = family.init(jax.random.key(seed), num_tables=tables, num_bits=bits, num_hashes=hashes)
    arrays = (np.asarray(x) for x in (drawn.words, drawn.salts, drawn.strides))
    return minhash.Params(*arrays, bits, _common.next_prime(tables * hashes)), drawn


def csr(sets) -> tuple[np.ndarray, np.ndarray]:
    ids = [sorted(elements) for elements in sets]
    offsets = np.cumsum([0, *map(len, ids)])
    return offsets.astype(np.int64), np.array([x for one in ids for x in one], np.int32)


HASH = jax.jit(family.hash)
PARAMS = [params_of(*numbers) for numbers in ((0, 16, 5, 30), (1, 3, 1, 8), (2, 1, 2, 30))]


@settings(max_examples=25, deadline=None)
@given(SETS, st.sampled_from(range(len(PARAMS))))
def test_codes_are_those_of_the_family(sets, which):
    params, drawn = PARAMS[which]
    offsets, ids = csr([{x * 70_000_001 for x in elements} for elements in sets])
    padded = np.full((30, 12), -1, np.int32)  # of one size, to compile once
    for i, (a, b) in enumerate(itertools.pairwise(offsets)):
        padded[i, : b - a] = ids[a:b]
    expected = np.asarray(HASH(drawn, padded))[: len(sets)]
    found = minhash.codes(params, offsets, ids)
    assert found.dtype == np.int32 and found.shape == (len(sets), params.salts.size)
    np.testing.assert_array_equal(found, expected)
    slow = minhash._codes(params, offsets, ids)
    np.testing.assert_array_equal(slow, expected)


def brute(sets, codes, threshold, most):
    """The definition, by sets of Python: (number, similarity) of each."""
    kept, buckets, found = {}, {}, []
    for number, elements in enumerate(sets):
        keys = [("whole", frozenset(elements)), *enumerate(codes[number].tolist())]
        near = {at for key in keys for at in buckets.get(key, ())}
        alike = [(len(elements & kept[at]) / len(elements | kept[at]), -at) for at in near]
        best = max(alike, default=(0, 0))
        if elements and best[0] >= threshold:
            found.append((-best[1], best[0]))
            continue
        found.append((number, 1.0))
        if elements:
            kept[number] = elements
            for key in keys:
                bucket = buckets.setdefault(key, [])
                if len(bucket) < most:
                    bucket.append(number)
    return found


@settings(max_examples=50, deadline=None)
@given(
    SETS,
    st.integers(0, 30),
    st.sampled_from([0.2, 0.5, 0.7, 0.8, 1.0]),
    st.sampled_from([1, 2, 64]),
)
def test_matches_are_those_of_the_definition(sets, cut, threshold, most):
    offsets, ids = csr(sets)
    codes = minhash.codes(PARAMS[1][0], offsets, ids)
    expected = brute(sets, codes, threshold, most)
    cut = min(cut, len(sets))
    for kind in (minhash.Matcher, minhash._Matcher):
        matcher = kind(codes.shape[1], threshold, most)
        found = []
        for a, b in ((0, cut), (cut, len(sets))):  # a stream of two parts
            part = offsets[a : b + 1] - offsets[a]
            numbers, alike = matcher.add(part, ids[offsets[a] : offsets[b]], codes[a:b])
            assert numbers.dtype == np.int64 and alike.dtype == np.float64
            found += zip(numbers.tolist(), alike.tolist(), strict=True)
        assert found == expected


def test_many_sets_and_growing_tables():
    """More sets than the tables' first size, some of them long: as the definition has it."""
    rng = np.random.default_rng(0)
    sets = [set(rng.integers(0, 400, rng.integers(1, 90)).tolist()) for _ in range(900)]
    sets += [{*list(one)[1:], 500} for one in sets[::3]]
    offsets, ids = csr(sets)
    codes = minhash.codes(PARAMS[0][0], offsets, ids)
    numbers, alike = minhash.Matcher(16, 0.8, 64).add(offsets, ids, codes)
    found = list(zip(numbers.tolist(), alike.tolist(), strict=True))
    assert found == brute(sets, codes, 0.8, 64)
    assert sum(numbers < np.arange(numbers.size)) > 200


@needs_kernels
def test_bits_do_not_depend_on_threads(monkeypatch):
    texts = [f"text {i % 700} of {i % 350} words and {i % 3}" for i in range(3000)]
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(minhash, "num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(text_features, "num_threads", lambda threads=threads: threads)
        found.append(duplicates.find(texts))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0 < found[0].kept.sum() < len(texts)


@needs_kernels
@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": np.array([0, 5])},
        {"offsets": np.array([1, 3])},
        {"offsets": np.array([0, 3, 2, 3])},
        {"strides": np.array([0, 1, 1], np.int32)},
        {"strides": np.array([1, 1, 3], np.int32)},
        {"strides": np.array([1, 1], np.int32)},
        {"bits": 32},
        {"prime": 2},
    ],
)
def test_the_kernel_refuses_what_would_break_it(wrong):
    given_ = {
        "offsets": np.array([0, 3]),
        "ids": np.array([1, 2, 3], np.int32),
        "first": 1,
        "second": 2,
        "salts": np.array([1, 2, 3], np.uint32),
        "strides": np.array([1, 1, 2], np.int32),
        "bits": 30,
        "prime": 3,
    }
    assert ffi.native().minhash_codes(*given_.values(), 1).size == 3
    with pytest.raises(ValueError, match=r"offsets|parameters|stride"):
        ffi.native().minhash_codes(*(given_ | wrong).values(), 1)


@needs_kernels
def test_the_matcher_refuses_codes_of_another_number_of_tables():
    matcher = ffi.native().SetMatcher(3, 0.8, 64)
    with pytest.raises(ValueError, match="codes"):
        matcher.add(np.array([0, 1]), np.array([1], np.int32), np.array([1, 2], np.int32))
    with pytest.raises(ValueError, match="offsets"):
        matcher.add(np.array([0, 9]), np.array([1], np.int32), np.array([1, 2, 3], np.int32))
