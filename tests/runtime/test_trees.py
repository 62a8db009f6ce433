"""Arrays of JAX's own: copies that may be donated, made without compiling."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest

from sparse_jax.runtime import trees
from sparse_jax.runtime.trees import owned


@pytest.fixture
def compiled():
    """The programs that are compiled from here on."""
    found = []

    def hear(event, seconds, **_):
        found.extend([event] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(hear)
    yield found
    jax.monitoring.unregister_event_duration_listener(hear)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool, ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", [0, 7, 100_003])
def test_a_copy_is_made_without_compiling(dtype, size, compiled):
    given = np.arange(size + 1).astype(dtype)[1:]
    kept = given.copy()
    found = jax.block_until_ready(owned(given))
    assert not compiled
    given[:] = 0
    assert found.dtype == kept.dtype and np.asarray(found).tobytes() == kept.tobytes()
    jax.jit(lambda x: x + 1 if dtype is not bool else ~x)(found)
    assert compiled  # the ear hears


def aligned(size: int, offset: int) -> np.ndarray:
    """Zeros at a place that XLA would share, or some bytes behind it."""
    memory = np.zeros(4 * size + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + 4 * size].view(np.float32)


@pytest.mark.parametrize("offset", [0, 4, 16, 32])
@pytest.mark.parametrize("size", [1, 1024, trees._LARGE // 4, trees._LARGE // 4 + 1])
def test_a_copy_can_be_donated_and_its_source_is_untouched(size, offset):
    """Wherever NumPy put it: memory that is shared would be copied by the first step."""
    add = jax.jit(lambda x: x + np.float32(1), donate_argnums=0)
    for _ in range(3):
        given = aligned(size, offset)
        found = owned(given)
        place = found.unsafe_buffer_pointer()
        assert place != given.ctypes.data
        more = add(found)
        assert found.is_deleted() and more.unsafe_buffer_pointer() == place
        assert not given.any()
