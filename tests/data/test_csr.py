"""Points from SciPy's matrices and back, joined and resized."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from points import assert_same, make_data

from sparse_jax.data import XmcData, concatenate, from_csr, to_csr, with_sizes


def raw(data, indices, indptr, shape, *, index_dtype=np.int32, dtype=np.float64):
    """A matrix with exactly these arrays, which SciPy's constructor would convert."""
    made = sp.csr_matrix(shape, dtype=dtype)
    made.data = np.array(data, dtype)
    made.indices = np.array(indices, index_dtype)
    made.indptr = np.array(indptr, index_dtype)
    return made


@st.composite
def matrices(draw):
    """CSR arrays with stored zeros, parts of entries, and ids in any order."""
    rows, width = draw(st.integers(0, 5)), draw(st.integers(1, 5))
    entries = [
        draw(st.lists(st.tuples(st.integers(0, width - 1), st.integers(-2, 3)), max_size=6))
        for _ in range(rows)
    ]
    return entries, width


INDICES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@settings(max_examples=200, deadline=None)
@given(matrices(), st.sampled_from(INDICES), st.sampled_from([np.float32, np.float64, np.int64]))
def test_means_what_scipy_means(case, index_dtype, dtype):
    entries, width = case
    flat = [e for row in entries for e in row]
    indptr = np.cumsum([0, *map(len, entries)])
    matrix = raw(
        [v for _, v in flat],
        [i for i, _ in flat],
        indptr,
        (len(entries), width),
        index_dtype=index_dtype,
        dtype=dtype,
    )
    before = [a.copy() for a in (matrix.data, matrix.indices, matrix.indptr)]
    dense = np.zeros((len(entries), width))
    for row, pairs in enumerate(entries):
        for i, v in pairs:
            dense[row, i] += v
    points = from_csr(matrix)
    assert (points.num_points, points.num_features, points.num_labels) == (*dense.shape, 0)
    assert points.label_ids.size == 0
    np.testing.assert_array_equal(to_csr(points).features.toarray(), dense)
    assert points.feature_values.all()  # no stored zeros
    assert_same(XmcData(**vars(points)), points)  # it would pass all checks
    for row in range(points.num_points):
        assert (np.diff(points.take([row]).feature_ids) > 0).all()
    for a, b in zip(before, (matrix.data, matrix.indices, matrix.indptr), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()

    counts = raw(np.abs(matrix.data), matrix.indices, indptr, matrix.shape, index_dtype=index_dtype)
    labelled = from_csr(matrix, counts)
    present = np.zeros(dense.shape, bool)
    for row, pairs in enumerate(entries):
        for i, v in pairs:
            present[row, i] |= v != 0
    np.testing.assert_array_equal(to_csr(labelled).labels.toarray(), present)


def test_a_label_is_a_value_above_0():
    X = sp.csr_array(np.ones((1, 2)))
    # Split in two, stored as 0, split in two that are nothing together.
    Y = raw([1, 1, 0, 2, -2], [3, 3, 1, 2, 2], [0, 5], (1, 4))
    assert from_csr(X, Y).label_ids.tolist() == [3]
    assert from_csr(X, Y.astype(np.int8)).num_labels == 4
    yes = sp.csr_array(np.array([[True, False]]))
    assert from_csr(X, yes).label_ids.tolist() == [0]
    # uint8 would wrap: 128 + 128 is no zero.
    wide = raw([128, 128], [0, 0], [0, 2], (1, 4), dtype=np.uint8)
    assert from_csr(X, wide).label_ids.tolist() == [0]
    assert from_csr(wide).feature_values.tolist() == [256]


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok"])
def test_any_format(kind):
    dense = np.array([[0, 1.5, 0], [2, 0, 3]])
    for make in (sp.csr_array, sp.csr_matrix):
        points = from_csr(make(dense).asformat(kind))
        assert points.feature_ids.tolist() == [1, 0, 2]
        assert points.feature_values.tolist() == [1.5, 2, 3]


def test_arrays_longer_than_what_they_hold():
    assert from_csr(raw([1, 2, 9], [0, 1, 7], [0, 2], (1, 2))).feature_ids.tolist() == [0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_round_trip(seed, count):
    points = make_data(np.random.default_rng(seed), points=count)
    matrices = to_csr(points)
    assert matrices.features.dtype == matrices.labels.dtype == np.float32
    assert matrices.features.has_sorted_indices
    again = from_csr(*matrices)
    assert (again.num_features, again.num_labels) == (points.num_features, points.num_labels)
    for row in range(count):
        a, b = points.take([row]), again.take([row])
        order = np.argsort(a.feature_ids)
        assert a.feature_ids[order].tolist() == b.feature_ids.tolist()
        assert a.feature_values[order].tolist() == b.feature_values.tolist()
        assert sorted(a.label_ids.tolist()) == b.label_ids.tolist()


ONE = sp.csr_array(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((np.ones((1, 2)),), TypeError, r"X = ndarray: must be .*; wrap it: scipy.sparse.csr"),
        ((ONE, [[1]]), TypeError, "Y = list: must be a SciPy sparse matrix"),
        ((sp.csr_array((2, 2**31)),), ValueError, r"X.shape\[1\] = 2147483648: must be at most"),
        ((ONE, sp.csr_array((1, 2**40))), ValueError, r"Y.shape\[1\] = 1099511627776: must be"),
        ((raw([1], [2**32], [0, 1], (1, 9), index_dtype=np.int64),), ValueError, "4294967296"),
        ((raw([1], [9], [0, 1], (1, 9)),), ValueError, r"X.indices = 9 to 9: must be in \[0, 9\)"),
        ((raw([1], [-1], [0, 1], (1, 9)),), ValueError, r"X.indices = -1 to -1"),
        ((raw([1], [0], [0, 2, 1], (2, 9)),), ValueError, "X.indptr = .*: must rise from 0"),
        ((raw([1], [0], [1, 1], (1, 9)),), ValueError, "X.indptr = .*: must rise from 0"),
        ((raw([1], [0], [0, 3], (1, 9)),), ValueError, "must end at the 1 stored"),
        ((ONE, sp.csr_array((2, 2))), ValueError, r"Y.shape\[0\] = 2: must be that of X, 1"),
        ((ONE, -ONE), ValueError, "Y = -1.0 at row 0, column 0: must be at least 0"),
        ((ONE * np.nan,), ValueError, "X = nan at row 0, column 0: must be finite"),
        ((raw([1, 1e39], [0, 3], [0, 0, 2], (2, 9)),), ValueError, "X = inf at row 1, column 3"),
        ((ONE, ONE * np.inf), ValueError, "Y = inf at row 0, column 0"),
        ((raw([np.inf, -np.inf], [1, 1], [0, 2], (1, 9)),), ValueError, "X = nan at row 0"),
        ((ONE * 1j,), ValueError, "X.dtype = complex128: must be of real numbers"),
        ((sp.coo_array(np.ones(3)),), ValueError, "X.ndim = 1: must be 2"),
    ],
)
def test_refused_by_name(given, error, message):
    with pytest.raises(error, match=message):
        from_csr(*given)


def test_concatenate():
    rng = np.random.default_rng(0)
    a = make_data(rng, points=7, features=50, labels=20)
    b = make_data(rng, points=5, features=90, labels=10)
    both = concatenate(a, b)
    assert (both.num_points, both.num_features, both.num_labels) == (12, 90, 20)
    assert_same(both.take(slice(0, 7)), with_sizes(a, 90, 20))
    assert_same(both.take(slice(7, None)), with_sizes(b, 90, 20))
    assert_same(XmcData(**vars(both)), both)
    assert_same(concatenate(a), a)
    assert_same(concatenate(a.take([]), a, a.take([])), a)
    assert concatenate(a, b, a).num_points == 19
    with pytest.raises(ValueError, match=r"parts = \(\): must be at least one"):
        concatenate()


def test_with_sizes():
    points = make_data(np.random.default_rng(0), features=50, labels=20)
    grown = with_sizes(points, num_labels=21)
    assert (grown.num_features, grown.num_labels) == (50, 21)
    assert grown.feature_ids is points.feature_ids
    assert_same(with_sizes(grown, None, 20), points)
    assert with_sizes(points.take([]), 0, 0).num_labels == 0
    largest = int(points.label_ids.max())
    with pytest.raises(
        ValueError, match=rf"num_labels = {largest}: must be at least {largest + 1}"
    ):
        with_sizes(points, 50, largest)
    with pytest.raises(ValueError, match="num_features = 2147483648: must be from 0 to 2147483647"):
        with_sizes(points, 2**31)
