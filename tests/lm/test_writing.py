"""Writing text by a language model, and its softmax through hash tables."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lm import CONFIG, TEST, V, batches, histories, next_log_probs, trained

from sparse_jax.lm import evaluate, generate, sparse_head
from sparse_jax.lm.text import DOCUMENT
from sparse_jax.retrieval import index

pytestmark = pytest.mark.usefixtures("quick_compiles")


def take(count, **options):
    state, _ = trained()
    prompts = [TEST.tokens[:4], []]
    texts = generate.stream(state.params, state.memory, prompts, config=CONFIG, **options)
    return np.stack([next(texts) for _ in range(count)])


def test_a_seed_gives_one_text_and_another_seed_another():
    np.testing.assert_array_equal(take(12, seed=1), take(12, seed=1))
    assert not np.array_equal(take(12, seed=1), take(12, seed=2))


def test_temperature_zero_and_one_beam_and_top_1_agree():
    greedy = take(8, how=generate.Sampling(temperature=0))
    np.testing.assert_array_equal(greedy, take(8, how=generate.Sampling(top_k=1), seed=5))
    state, _ = trained()
    found = generate.beam_search(
        state.params, state.memory, TEST.tokens[:4], config=CONFIG, tokens=8, beams=1
    )
    expected = greedy[:, 0].tolist()
    expected = expected[: expected.index(DOCUMENT)] if DOCUMENT in expected else expected
    assert found[0][1] == expected


def test_wider_beams_find_likelier_text():
    state, _ = trained()
    run = functools.partial(
        generate.beam_search, state.params, state.memory, [9], config=CONFIG, tokens=5
    )
    one, many = run(beams=1), run(beams=8)
    assert many[0][0] >= one[0][0] - 1e-5
    scores = [score for score, _ in many]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(words) for _, words in many}) == len(many)


def test_top_p_keeps_the_smallest_likely_set():
    log_p = jnp.log(jnp.array([[0.05, 0.5, 0.3, 0.1, 0.05]], jnp.float32))
    none = jnp.zeros((1, 2), jnp.int32), jnp.zeros(1, jnp.int32)
    adjust = functools.partial(generate.adjust, log_p, *none)
    kept = lambda **how: np.flatnonzero(  # noqa: E731
        np.isfinite(np.asarray(adjust(generate.Sampling(**how)))[0])
    ).tolist()
    assert kept(top_p=0.75, unknown=True) == [1, 2]
    assert kept(top_p=0.4, unknown=True) == [1]
    assert kept(top_k=3, unknown=True) == [1, 2, 3]
    assert kept() == [1, 2, 3, 4]


def test_repetition_penalty_acts_on_known_history_alone():
    log_p = jnp.full((1, 6), -2.0)
    history = jnp.array([[3, 4, 5]], jnp.int32)
    how = generate.Sampling(repetition_penalty=float(np.e), unknown=True)
    got = generate.adjust(log_p, history, jnp.array([2], jnp.int32), how)
    assert got[0].tolist() == [-2, -2, -2, -2, -3, -3]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"repetition_penalty": 0.5}],
)
def test_sampling_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate.Sampling(**wrong)


# The softmax through tables ---------------------------------------------------------------------


def make_head(popular, candidates):
    state, _ = trained()
    batch = next(batches(CONFIG))
    queries = sparse_head.sample_queries(state.params, state.memory, *batch, config=CONFIG)
    tables = index.IndexConfig(num_tables=4, num_bits=2, max_candidates=candidates)
    head = sparse_head.init(
        jax.random.key(0),
        state.params,
        state.unigram,
        queries,
        config=tables,
        popular=popular,
        floor=1e-4,
    )
    return head, state, queries


def test_scoring_every_word_gives_the_exact_model():
    head, state, queries = make_head(V, 4)
    ids, logits = sparse_head.scored(head, state.params, queries)
    assert sorted(np.asarray(ids)[0, :V].tolist()) == list(range(V))
    assert (np.asarray(ids)[:, V:] == -1).all() and np.isneginf(np.asarray(logits)[:, V:]).all()
    found, words = sparse_head.score(head, state.params, state.memory, TEST, config=CONFIG)
    exact = evaluate.score(state.params, state.memory, TEST, config=CONFIG)
    assert words == V
    assert found.perplexity == pytest.approx(exact.perplexity, rel=1e-3)


@pytest.mark.slow
def test_the_sparse_softmax_is_normalized():
    head, state, queries = make_head(5, 16)
    ids, logits = sparse_head.scored(head, state.params, queries)
    for row in np.asarray(ids):
        own = row[row >= 0]
        assert np.unique(own).size == own.size
    whole = sparse_head.log_softmax(head, state.params, queries)
    np.testing.assert_allclose(jnp.exp(whole).sum(axis=1), 1.0, atol=1e-5)
    targets = jnp.arange(queries.shape[0], dtype=jnp.int32) % V
    own = sparse_head.log_softmax_of(head, ids, logits, targets)
    np.testing.assert_allclose(own, whole[jnp.arange(targets.size), targets], atol=1e-5)
    history, known, _ = histories()
    log_p = next_log_probs(state.params, state.memory, history, known, head, config=CONFIG)
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=1), 1.0, atol=1e-5)
