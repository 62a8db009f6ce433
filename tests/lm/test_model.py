"""The language model: normalization, the training step, evaluation, generation, sparse head."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly

from sparse_jax import lm, rowwise
from sparse_jax.layers import sampled_softmax
from sparse_jax.lm import batching, evaluate, generate, model, sparse_head, text, training
from sparse_jax.lm import memory as mem
from sparse_jax.lm.corpus import Record
from sparse_jax.lm.text import DOCUMENT, SPECIAL, Corpus, WordVocabulary
from sparse_jax.ops import ffi
from sparse_jax.retrieval import index
from sparse_jax.runtime import saved

V, RUNS, LENGTH = 60, 4, 8
needs_kernels = pytest.mark.skipif(
    not ffi.AVAILABLE, reason="the fallback widens all of a bfloat16 table"
)
CONFIG = model.Config(
    vocabulary=V,
    rows=4096,
    width=8,
    orders=(1, 2, 3, 5),
    slots=3,
    window=3,
    recent=6,
    embed=8,
    hidden=16,
    inner=24,
    out=12,
)


@pytest.fixture(autouse=True)
def quick_compiles(request):
    """Tiny arrays: most of the time would go into LLVM."""
    if "full_compile" in request.keywords:
        yield
        return
    with quickly.compiled():
        yield


next_log_probs = jax.jit(generate.next_log_probs, static_argnames="config")


def make_corpus(seed: int, sentences: int = 150) -> Corpus:
    """Noisy repetitions of a few fixed sentences, three to a document."""
    fixed = np.random.default_rng(0).integers(4, V, (6, 9))
    rng = np.random.default_rng(seed)
    tokens = []
    for i in range(sentences):
        sentence = fixed[rng.integers(6)].copy()
        sentence[rng.random(9) < 0.1] = rng.integers(4, V)
        tokens += [*sentence, *([DOCUMENT] if i % 3 == 2 else [])]
    return Corpus(np.array([*tokens, DOCUMENT], np.int32), sentences // 3 + 1, 0)


# One for all: `rowwise` tries a transformation out once.
TX = rowwise(optax.scale_by_adam())
TRAIN, TEST = make_corpus(1), make_corpus(2, 30)


@functools.cache
def compiled(config: model.Config, active_size: int = 40):
    counts = np.bincount(TRAIN.tokens, minlength=config.vocabulary)
    state = jax.jit(
        lambda counts: training.init_state(jax.random.key(0), TX, counts, config=config, popular=8)
    )(counts)
    step = training.make_step(
        TX, active_size=active_size, learning_rate=1e-2, memory_learning_rate=0.2, config=config
    )
    run = jax.jit(step, donate_argnums=0).lower(state, training_batch(config)).compile()
    return run, state


def training_batch(config, epoch=0, scale=1.0):
    return training.TrainingBatch(
        *next(batches(config)), jnp.float32(scale), jnp.asarray(epoch > 0)
    )


def batches(config, epoch=0, corpus=TRAIN):
    for batch in batching.batches(corpus, RUNS, LENGTH, config.history, seed=0, epoch=epoch):
        yield jnp.asarray(batch.tokens), jnp.asarray(batch.since)


@functools.cache
def trained(config: model.Config = CONFIG, epochs: int = 3):
    """(state after some passes, losses); never donated, so it may be used again."""
    run, state = compiled(config)
    state, losses = jax.tree.map(jnp.copy, state), []
    for epoch in range(epochs):
        for batch in batches(config, epoch):
            whole = training.TrainingBatch(*batch, jnp.float32(1), jnp.asarray(epoch > 0))
            state, seen = run(state, whole)
            losses.append(float(seen.loss))
    return state, losses


def histories(corpus=TEST, most=24):
    at = batching.positions(*next(batches(CONFIG, corpus=corpus)))
    return at.history[:most], at.known[:most], at.targets[:most]


def test_learns_and_beats_the_unigram_on_other_text():
    state, losses = trained()
    found = evaluate.score(
        state.params, state.memory, TEST, config=CONFIG, runs=RUNS, length=LENGTH
    )
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


def test_a_second_pass_leaves_its_own_occurrence_out():
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


def test_repeated_passes_count_nothing_twice():
    once, _ = trained(CONFIG, 1)
    thrice, _ = trained(CONFIG, 3)
    for name in ("counts", "followers"):
        owned = np.asarray(once.memory.tags) != 0
        np.testing.assert_array_equal(
            np.asarray(getattr(once.memory, name))[owned],
            np.asarray(getattr(thrice.memory, name))[owned],
        )
    assert not np.array_equal(once.memory.rows, thrice.memory.rows)


@pytest.mark.parametrize("change", [{"rows": 0, "evidence": False}, {"blocks": 2}])
def test_parts_can_be_left_out(change):
    config = dataclasses.replace(CONFIG, **change)
    state, losses = trained(config, 1)
    assert (state.memory is None) == (config.rows == 0)
    assert losses[-1] < losses[0]
    history, known, _ = histories()
    log_p = next_log_probs(state.params, state.memory, history, known, config=config)
    np.testing.assert_allclose(np.exp(np.asarray(log_p)).sum(axis=1), 1.0, atol=1e-5)


DTYPES = ["float32", pytest.param("bfloat16", marks=needs_kernels)]


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


# Saving -----------------------------------------------------------------------------------------

RECORD = Record((text.Source("a.txt", "0" * 64, 7),), train_sha256="1" * 64)
WORDS = WordVocabulary((*SPECIAL, *(f"w{n}" for n in range(V - len(SPECIAL)))))


def finished(state=None, config=CONFIG) -> lm.LanguageModel:
    state = trained()[0] if state is None else state
    return lm.from_state(state, vocabulary=WORDS, record=RECORD, config=config)


def same(a: lm.LanguageModel, b: lm.LanguageModel) -> bool:
    return jax.tree.all(
        jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a.arrays(), b.arrays())
    )


def test_what_is_saved_comes_back(tmp_path):
    model_ = finished()
    lm.save(model_, tmp_path)
    found = lm.load(tmp_path)
    assert same(found, model_) and found.config == CONFIG and found.record == RECORD
    assert found.vocabulary.words == WORDS.words
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    manifest = tmp_path / saved.MANIFEST
    about = json.loads(manifest.read_text())
    assert about["config"]["model"].pop("dtype") == "float32"
    manifest.write_text(json.dumps(about))
    assert same(lm.load(tmp_path), model_)  # as one that was saved before there was a choice
    bare = dataclasses.replace(CONFIG, rows=0, evidence=False)
    lm.save(finished(compiled(bare)[1], bare), tmp_path)
    assert lm.load(tmp_path).memory is None
    assert len(list(tmp_path.iterdir())) == 2  # the model before is gone


@pytest.mark.parametrize("stage", ["write_stream", "write_atomically"])
def test_a_save_that_dies_leaves_the_model_before(tmp_path, monkeypatch, stage):
    first = finished()
    lm.save(first, tmp_path)

    def die(*_args):
        raise OSError("No space left on device")

    monkeypatch.setattr(saved, stage, die)
    with pytest.raises(OSError, match="No space"):
        lm.save(finished(compiled(CONFIG)[1]), tmp_path)
    assert same(lm.load(tmp_path), first)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model\.json"):
        lm.load(tmp_path)
    saved.save(tmp_path, kind="toy", config={}, arrays={})
    with pytest.raises(ValueError, match="kind 'toy'"):
        lm.load(tmp_path)
    lm.save(finished(), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["config"]["model"]["depth"] = 3
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"another version \(depth\)"):
        lm.load(tmp_path)
    about["config"]["model"].pop("depth")
    about["config"]["model"]["hidden"] = 32
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"must be float32 \(32, 64\)"):
        lm.load(tmp_path)


# Generation -------------------------------------------------------------------------------------


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
    exact = evaluate.score(
        state.params, state.memory, TEST, config=CONFIG, runs=RUNS, length=LENGTH
    )
    assert words == V
    assert found.perplexity == pytest.approx(exact.perplexity, rel=1e-3)


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
