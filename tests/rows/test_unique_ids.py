"""Unique ids, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.ops import ffi
from sparse_jax.rows import unique_ids

pytestmark = pytest.mark.usefixtures("quick_compiles")

_unique = jax.jit(unique_ids, static_argnames=("num_rows", "size"))


def check_unique(ids, num_rows, size):
    unique, inverse, count = (
        np.asarray(x) for x in _unique(jnp.asarray(ids), num_rows=num_rows, size=size)
    )
    assert unique.dtype == inverse.dtype == count.dtype == np.int32
    assert unique.shape == (size,) and inverse.shape == ids.shape
    valid = (ids >= 0) & (ids < num_rows)
    expected = np.unique(ids[valid])
    assert count == len(expected)
    kept = expected[:size]
    np.testing.assert_array_equal(unique[: len(kept)], kept)
    np.testing.assert_array_equal(unique[len(kept) :], -1)
    found = valid & np.isin(ids, kept)
    np.testing.assert_array_equal(inverse[~found], -1)
    np.testing.assert_array_equal(unique[inverse[found]], ids[found])


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(-2, 41), min_size=12, max_size=12),
    # Few sizes: each compiles once.
    num_rows=st.sampled_from([1, 7, 40]),
    size=st.sampled_from([1, 5, 12, 50]),
)
def test_unique_ids_equals_numpy(ids, num_rows, size):
    check_unique(np.asarray(ids, np.int32), num_rows, size)


def test_unique_ids_at_size():
    rng = np.random.default_rng(0)
    ids = (rng.zipf(1.3, 20_000) % 38_000).astype(np.int32)
    ids[rng.random(20_000) < 0.1] = -1
    check_unique(ids, 38_000, 20_000)
    check_unique(ids, 38_000, 100)
    check_unique(np.full(16, -1, np.int32), 5, 4)
    check_unique(np.zeros(0, np.int32), 5, 4)


@pytest.mark.parametrize("size", [3, 60])
@pytest.mark.parametrize("num_rows", [40, 2**31 - 1])
def test_few_ids_of_many_rows_are_sorted_and_others_mapped(num_rows, size, monkeypatch):
    """Both fallbacks, and the kernel where there is one, give the same."""
    rng = np.random.default_rng(num_rows % 97 + size)
    ids = rng.choice([*range(40), -1, -7, num_rows - 1], 60).astype(np.int32)
    present = sorted({int(i) for i in ids if 0 <= i < num_rows})
    expected = np.full(size, -1)
    expected[: min(size, len(present))] = present[:size]
    found = [jax.jit(lambda ids: unique_ids(ids, num_rows=num_rows, size=size))(ids)]
    monkeypatch.setattr(ffi, "AVAILABLE", False)
    found.append(jax.jit(lambda ids: unique_ids(ids, num_rows=num_rows, size=size))(ids))
    for unique, inverse, count in found:
        np.testing.assert_array_equal(unique, expected)
        assert count == len(present)
        kept = np.asarray(inverse) >= 0
        np.testing.assert_array_equal(np.asarray(unique)[np.asarray(inverse)[kept]], ids[kept])
        np.testing.assert_array_equal(kept, np.isin(ids, expected) & (ids >= 0))
