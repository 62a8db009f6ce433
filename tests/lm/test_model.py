"""The language model: normalization, the training step, evaluation."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly
from small_lm import (
    CONFIG,
    TEST,
    TX,
    V,
    batches,
    compiled,
    histories,
    next_log_probs,
    trained,
    training_batch,
)

from sparse_jax.layers import sampled_softmax
from sparse_jax.lm import batching, evaluate, model, training
from sparse_jax.lm import memory as mem
from sparse_jax.lm.text import DOCUMENT
from sparse_jax.ops import ffi

pytestmark = pytest.mark.usefixtures("quick_compiles")

needs_kernels = pytest.mark.skipif(
    not ffi.AVAILABLE, reason="the fallback widens all of a bfloat16 table"
)


@pytest.mark.slow
def test_learns_and_beats_the_unigram_on_other_text():
    state, losses = trained()
    found = evaluate.score(state.params, state.memory, TEST, config=CONFIG)
    share = np.asarray(state.unigram)
    unigram = np.exp(-np.log(share[TEST.tokens]).mean())
    assert found.tokens == TEST.tokens.size
    assert found.perplexity < 0.35 * unigram
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_probabilities_of_the_whole_vocabulary_sum_to_one_and_agree_with_the_score():
    state, _ = trained()
    history, known, _ = histories()
    log_p = next_log_probs(state.params, state.memory, history, known, config=CONFIG)
    np.testing.assert_allclose(np.exp(np.asarray(log_p)).sum(axis=1), 1.0, atol=1e-5)
    batch = next(batches(CONFIG, corpus=TEST))
    at = batching.positions(*batch)
    scored, _ = evaluate.log_likelihood(state.params, state.memory, *batch, config=CONFIG)
    log_p = next_log_probs(state.params, state.memory, at.history, at.known, config=CONFIG)
    expected = np.take_along_axis(np.asarray(log_p), np.asarray(at.targets)[:, None], 1)[:, 0]
    np.testing.assert_allclose(np.asarray(scored).ravel(), expected, atol=2e-5)


def test_the_sampled_loss_over_all_rows_is_the_exact_one():
    run, state = compiled(CONFIG, V)
    batch = next(batches(CONFIG))
    exact, _ = evaluate.log_likelihood(state.params, state.memory, *batch, config=CONFIG)
    _, seen = run(jax.tree.map(jnp.copy, state), training_batch(CONFIG, scale=0.0))
    assert float(seen.loss) == pytest.approx(-float(jnp.mean(exact)), rel=1e-5)


def test_the_sampled_partition_function_is_unbiased():
    share = jnp.asarray(np.random.default_rng(0).dirichlet(np.full(V, 0.5)), jnp.float32)
    popular = jnp.argsort(-share)[:3].astype(jnp.int32)
    weights = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2, V), jnp.float32)

    @jax.jit
    def estimate(key):
        from sparse_jax.layers import active

        draw, sample = jax.random.split(key)
        labels = jax.random.categorical(draw, jnp.log(share), shape=(16,)).astype(jnp.int32)
        chosen = active.shared_set(sample, jnp.concatenate([labels, popular]), size=24, num_rows=V)
        log_q = sampled_softmax.unigram_log_inclusion(chosen, share, popular, 16)
        return jnp.sum(weights[chosen.ids] / jnp.exp(log_q))

    draws = jax.lax.map(estimate, jax.random.split(jax.random.key(0), 4000), batch_size=500)
    error = float(jnp.mean(draws)) - float(jnp.sum(weights))
    # The chance of the fill depends on how many labels coincide, which is a bias of about 1 %.
    assert abs(error) < 0.02 * float(jnp.sum(weights))


def test_nothing_before_a_documents_start_matters():
    state, _ = trained()
    history, _, _ = histories()
    known = jnp.full(history.shape[0], 2, jnp.int32)
    clean = jnp.where(jnp.arange(CONFIG.history)[None, :] < CONFIG.history - 2, DOCUMENT, history)
    since = jnp.full((history.shape[0], 1), 2, jnp.int32)
    targets = jnp.full((history.shape[0], 1), 7, jnp.int32)
    scores = [
        evaluate.log_likelihood(
            state.params, state.memory, jnp.concatenate([h, targets], 1), since, config=CONFIG
        )[0]
        for h in (history, clean)
    ]
    np.testing.assert_array_equal(*scores)
    del known


def test_what_was_counted_can_be_left_out_once():
    followers = jnp.zeros((2, 2), jnp.uint32)
    followers = followers.at[0, 0].set((7 << mem.COUNT_BITS) | 1)
    followers = followers.at[1].set(
        jnp.array([(7 << mem.COUNT_BITS) | 2, (8 << mem.COUNT_BITS) | 1], jnp.uint32)
    )
    contexts = mem.ContextRows(
        ids=jnp.array([3, 4], jnp.int32),
        inverse=jnp.array([[0, 1]], jnp.int32),
        counts=jnp.array([1, 3], jnp.int32),
        followers=followers,
    )
    gather = jax.jit(model.gather_evidence)
    first, second = gather(contexts, None), gather(contexts, jnp.array([7], jnp.int32))
    np.testing.assert_allclose(first.shares[0], [[1, 0], [2 / 3, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(second.shares[0], [[0, 0], [1 / 2, 1 / 2]], rtol=1e-6)
    assert second.known[0].tolist() == [False, True]


def test_a_memory_is_emptied_in_place_and_nothing_else_is():
    state = jax.tree.map(jnp.copy, trained(CONFIG, 1)[0])
    before = state.memory.rows.unsafe_buffer_pointer()
    empty = training.empty_memory(state)
    assert empty.memory.rows.unsafe_buffer_pointer() == before
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(empty.memory))
    assert dataclasses.replace(empty, memory=None) == dataclasses.replace(state, memory=None)
    without = dataclasses.replace(state, memory=None)
    assert training.empty_memory(without) is without


def test_a_later_pass_counts_each_token_once_as_the_first_did():
    once, thrice = trained(CONFIG, 1)[0], trained(CONFIG, 3)[0]
    counts = [int(np.asarray(state.memory.counts).sum()) for state in (once, thrice)]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)  # the order decides who owns a row
    assert not np.array_equal(once.memory.rows, thrice.memory.rows)


def test_the_memory_learns_at_one_rate_whatever_the_schedule_says():
    run, state = compiled(CONFIG)
    still = [
        run(jax.tree.map(jnp.copy, state), training_batch(CONFIG, scale=scale))[0]
        for scale in (0.0, 1.0)
    ]
    np.testing.assert_array_equal(still[0].memory.rows, still[1].memory.rows)
    assert np.asarray(still[0].memory.rows).any()
    np.testing.assert_array_equal(still[0].params["embed"], state.params["embed"])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"rows": 0, "evidence": False}, {"blocks": 2}])
def test_parts_can_be_left_out(change):
    config = dataclasses.replace(CONFIG, **change)
    state, losses = trained(config, 1)
    assert (state.memory is None) == (config.rows == 0)
    assert losses[-1] < losses[0]
    history, known, _ = histories()
    log_p = next_log_probs(state.params, state.memory, history, known, config=config)
    np.testing.assert_allclose(np.exp(np.asarray(log_p)).sum(axis=1), 1.0, atol=1e-5)


DTYPES = ["float32", pytest.param("bfloat16", marks=[needs_kernels, pytest.mark.slow])]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_step_copies_no_table_and_works_in_place(dtype):
    config = dataclasses.replace(CONFIG, rows=50_021, vocabulary=30_011, dtype=dtype)
    state = jax.eval_shape(
        lambda: training.init_state(
            jax.random.key(0), TX, jnp.ones(config.vocabulary), config=config
        )
    )
    step = training.make_step(TX, active_size=40, config=config)
    lowered = jax.jit(step, donate_argnums=0).lower(state, training_batch(config))
    compiled = lowered.compile(quickly.fused())
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.memory))
    stats = compiled.memory_analysis()
    assert stats.alias_size_in_bytes > size
    assert stats.temp_size_in_bytes < size / 4
    # Scatters of a few rows are all that may give a whole table.
    wide = re.findall(r"= \w+\[(?:50021|30011),\d+\]\S* (\w[\w-]*)\(", compiled.as_text())
    by_kernel = {"custom-call"} if dtype == "bfloat16" else set()
    in_place = {"parameter", "scatter", "fusion", "get-tuple-element"} | by_kernel
    assert wide and set(wide) <= in_place
    whole = re.findall(r"= \w+\[50021\]\S* (\w[\w-]*)\(", compiled.as_text())
    assert whole and set(whole) <= {"parameter", "scatter", "fusion", "get-tuple-element"}


@pytest.mark.slow
def test_rows_of_half_the_bytes_learn_as_well():
    half, losses = trained(dataclasses.replace(CONFIG, dtype="bfloat16"))
    whole, wholes = trained()
    assert half.memory.rows.dtype == jnp.bfloat16 and half.memory.scales.dtype == jnp.float32
    assert np.mean(losses[-20:]) == pytest.approx(np.mean(wholes[-20:]), rel=0.01)
    for name in ("tags", "counts", "followers"):  # what is counted follows the text alone
        np.testing.assert_array_equal(getattr(half.memory, name), getattr(whole.memory, name))
    assert not np.array_equal(half.memory.rows, whole.memory.rows)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="vocabulary = 0"):
        model.Config(vocabulary=0)
    with pytest.raises(ValueError, match="dtype = 'int8': must be float32 or bfloat16"):
        model.Config(vocabulary=9, dtype="int8")
    with pytest.raises(ValueError, match="ascending"):
        model.Config(vocabulary=9, orders=(2, 1))
    with pytest.raises(ValueError, match=r"counts has shape \(3,\)"):
        training.init_state(jax.random.key(0), optax.sgd(1.0), np.ones(3), config=CONFIG)
