"""The softmax over words drawn: each probability and sign in NumPy, and its mean over draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.layers import sampled_softmax as S
from sparse_jax.layers.active import FILL, LABEL

pytestmark = pytest.mark.usefixtures("quick_compiles")

V, B, P, D, SIZE = 40, 5, 3, 6, 18


def inputs() -> tuple[jax.Array, ...]:
    """(unigram, popular, targets with padding, queries, output rows, bias)."""
    rng = np.random.default_rng(2)
    unigram, popular = S.unigram_start(np.sort(rng.integers(0, 90, V))[::-1].copy(), V, P)
    targets = jnp.asarray([7, 30, 7, -1, 0], jnp.int32)
    arrays = (rng.normal(size=shape) for shape in ((B, D), (V, D), V))
    return unigram, popular, targets, *(jnp.asarray(x, jnp.float32) for x in arrays)


def test_what_is_known_before_training():
    counts = np.array([3, 0, 9, 9, 1])
    share, popular = S.unigram_start(counts, 5, 3)
    np.testing.assert_allclose(share, (counts + 0.5) / (22 + 2.5), rtol=1e-6)
    assert popular.tolist() == [2, 3, 0]  # the first of equals
    assert S.unigram_start(counts, 5, 99)[1].tolist() == [2, 3, 0, 4, 1]
    with pytest.raises(ValueError, match=r"counts has shape \(5,\): must be \[6\]"):
        S.unigram_start(counts, 6, 3)


def test_the_words_drawn_and_the_chance_of_each():
    unigram, popular, targets, *_ = inputs()
    chosen = S.draw_words(jax.random.key(0), targets, unigram, popular, size=SIZE)
    ids, sources = np.asarray(chosen.words.ids), np.asarray(chosen.words.sources)
    certain = {0, 7, 30} | set(popular.tolist())
    assert set(ids[sources == LABEL].tolist()) == certain and len(set(ids.tolist())) == SIZE
    for target, place in zip(targets.tolist(), chosen.places.tolist(), strict=True):
        assert place == -1 if target < 0 else ids[place] == target
    fill = (SIZE - len(certain)) / (V - len(certain))
    p = np.asarray(unigram, np.float64)[ids]
    expected = np.log(1 - (1 - p) ** B * (1 - fill))
    expected[np.isin(ids, popular)] = 0
    whole = np.tile(expected, (B, 1))
    for b, place in enumerate(chosen.places.tolist()):
        if place >= 0:
            whole[b, place] = 0  # one's own target is in for certain
    np.testing.assert_allclose(chosen.correction, whole, rtol=1e-4, atol=1e-6)
    assert (sources == FILL).any() and (whole < -0.05).any()


def test_no_more_words_than_there_are():
    unigram, popular, targets, *_ = inputs()
    chosen = S.draw_words(jax.random.key(0), targets, unigram, popular, size=V + 9)
    assert sorted(chosen.words.ids.tolist()) == list(range(V))
    np.testing.assert_allclose(chosen.correction, 0, atol=2e-6)


def test_the_log_softmax_is_the_formula():
    unigram, popular, targets, query, out, bias = inputs()
    chosen = S.draw_words(jax.random.key(0), targets, unigram, popular, size=SIZE)
    ids = np.asarray(chosen.words.ids)
    found = S.sampled_log_softmax(query, chosen, out[ids], bias[ids])
    logits = np.asarray(query) @ np.asarray(out)[ids].T + np.asarray(bias)[ids]
    z = logits - np.asarray(chosen.correction)
    for b, target in enumerate(targets.tolist()):
        own = z[b, ids == target].sum() if target >= 0 else np.log(np.exp(z[b]).sum())
        assert float(found[b]) == pytest.approx(own - np.log(np.exp(z[b]).sum()), abs=1e-5)
    assert found[3] == 0 and (np.delete(np.asarray(found), 3) < 0).all()


def test_over_all_words_it_is_the_softmax():
    unigram, popular, targets, query, out, bias = inputs()
    chosen = S.draw_words(jax.random.key(0), targets, unigram, popular, size=V)
    rows = chosen.words.ids
    found = S.sampled_log_softmax(query, chosen, out[rows], bias[rows])
    whole = np.asarray(jax.nn.log_softmax(query @ out.T + bias[None], axis=1))
    for b, target in enumerate(targets.tolist()):
        assert float(found[b]) == pytest.approx(whole[b, target] if target >= 0 else 0, abs=1e-5)


def test_the_partition_function_is_unbiased_over_batches_and_draws():
    """Targets drawn from the unigram distribution stand for what they are drawn for."""
    unigram, popular, _, query, out, bias = inputs()
    logits = 0.5 * (np.asarray(query) @ np.asarray(out).T + np.asarray(bias))[0]
    draws = 20_000

    def one(key: jax.Array) -> jax.Array:
        drawn, key = jax.random.split(key)
        targets = jax.random.categorical(drawn, jnp.log(unigram), shape=(B,)).astype(jnp.int32)
        chosen = S.draw_words(key, targets, unigram, popular, size=SIZE)
        logs = S.unigram_log_inclusion(chosen.words, unigram, popular, B)
        terms = jnp.exp(jnp.asarray(logits)[chosen.words.ids] - logs)
        return jnp.sum(terms)

    sums = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), draws)))
    assert sums.mean() == pytest.approx(np.exp(logits).sum(), rel=0.02)
