"""Finite or not, at every size: XLA:CPU's maximum loses NaN from 4,096 numbers on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.ops.finite import all_finite


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [1, 4_095, 4_096, 100_000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_seen_wherever_it_stands(bad, size, dtype):
    good = jnp.full(size, jnp.finfo(dtype).max, dtype)
    told = jax.jit(all_finite)
    assert told(good) and all_finite(good)
    for place in {0, size // 2, size - 1}:
        assert not told(good.at[place].set(bad))


def test_an_empty_array_and_both_infinities():
    assert all_finite(jnp.zeros((0, 3)))
    assert not all_finite(jnp.array([jnp.inf, -jnp.inf]))
