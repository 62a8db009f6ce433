"""Attention over recent words: layouts and sums against NumPy, bits at any thread count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.lm import attention

pytestmark = pytest.mark.usefixtures("quick_compiles")

band, unband = jax.jit(attention.band, static_argnums=1), jax.jit(attention.unband)
E, H, A, RECENT, SIZE = 3, 5, 4, 4, 6  # SIZE = C, places that a position may look at


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))
def test_band_is_a_window_that_moves_by_one_and_unband_its_inverse(runs, length, size):
    x = np.random.default_rng(0).normal(size=(runs, length, size + length - 1)).astype(np.float32)
    got = np.asarray(band(x, size))
    expected = np.stack([x[:, t, t : t + size] for t in range(length)], 1)
    np.testing.assert_array_equal(got, expected)
    wide = np.asarray(unband(got))
    np.testing.assert_array_equal(
        np.stack([wide[:, t, t : t + size] for t in range(length)], 1), got
    )
    assert np.count_nonzero(wide) <= got.size


def example(seed: int = 0):
    """Two runs of three positions; the second run's document starts inside its history."""
    rng = np.random.default_rng(seed)
    params = attention.init(jax.random.key(1), embed=E, hidden=H, width=A, recent=RECENT)
    params |= {
        name: jnp.asarray(rng.normal(size=params[name].shape), jnp.float32)
        for name in ("near", "out", "copy")
    }
    words = jnp.asarray(rng.normal(size=(2, SIZE + 2, E)), jnp.float32)
    known = jnp.array([[6, 6, 6], [1, 2, 3]], jnp.int32)
    h = jnp.asarray(rng.normal(size=(6, H)), jnp.float32)
    return params, words, jnp.asarray(rng.normal(size=E), jnp.float32), known, h


def test_what_is_read_is_numpys():
    params, words, start, known, h = example()
    look = jax.jit(lambda p, w, s, k, h: attention.read(p, attention.look_back(p, w, s, k), h))
    got = look(params, words, start, known, h)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    expected = np.zeros((6, H))
    for s in range(2):
        for t in range(3):
            n = int(known[s, t])
            own = [np.asarray(start, np.float64)] * 9
            own += list(np.asarray(words, np.float64)[s, SIZE + t - n : SIZE + t])
            q = np.asarray(h, np.float64)[s * 3 + t] @ p["query"]
            logits, values = [], []
            for age in range(min(n, RECENT), 0, -1):
                at = len(own) - age
                key = np.concatenate([own[at], own[at - 1], own[at - 2]]) @ p["key"]
                key /= np.sqrt(np.mean(key**2) + 1e-6)
                logits.append(key @ q / np.sqrt(A) + p["near"][RECENT - age])
                values.append(own[at] @ p["value"])
            share = np.exp(logits) / np.sum(np.exp(logits))
            expected[s * 3 + t] = (share @ np.array(values)) @ p["out"]
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


def test_the_latest_words_are_those_of_the_document():
    _, words, start, known, _ = example()
    got = np.asarray(attention.latest(words, start, known, 2)).reshape(2, 3, 2, E)
    np.testing.assert_array_equal(got[0, 1], words[0, SIZE - 1 : SIZE + 1])
    np.testing.assert_array_equal(got[1, 0], np.stack([start, words[1, SIZE - 1]]))


def test_a_document_without_words_before_reads_nothing():
    params, words, start, _, h = example()
    back = attention.look_back(params, words, start, jnp.zeros((2, 3), jnp.int32))
    np.testing.assert_array_equal(attention.weights(back, jnp.ones((2, 3, RECENT))), 0)
    np.testing.assert_array_equal(attention.read(params, back, h), 0)


BITS = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from sparse_jax.lm import attention
rng = np.random.default_rng(0)
params = attention.init(jax.random.key(1), embed=64, hidden=96, width=64, recent=64)
params["out"] = jnp.asarray(rng.normal(size=(64, 96)), jnp.float32)
words = jnp.asarray(rng.normal(size=(32, 97, 64)), jnp.float32)
h = jnp.asarray(rng.normal(size=(1024, 96)), jnp.float32)
known = jnp.asarray(np.sort(rng.integers(0, 66, (32, 32)), axis=1), jnp.int32)

@jax.jit
@jax.grad
def grads(given):
    params, words, start, h = given
    back = attention.look_back(params, words, start, known)
    near = attention.latest(words, start, known, 8)
    return jnp.sum(jnp.square(attention.read(params, back, h))) + jnp.sum(jnp.square(near))

start = jnp.asarray(rng.normal(size=64), jnp.float32)
for x in jax.tree.leaves(grads((params, words, start, h))):
    print(x.shape, hashlib.sha256(np.asarray(x).tobytes()).hexdigest())
"""


@pytest.mark.threads(BITS, counts=(1, 2))
def test_bits_do_not_depend_on_threads(printed):
    assert printed[1] == printed[2] != ""
