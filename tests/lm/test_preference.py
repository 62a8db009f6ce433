"""Preference fine-tuning: losses against NumPy, the reference of touched rows, the script."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_process import call
from topic_questions import questions

from sparse_jax import lm, optim
from sparse_jax.lm import model, training
from sparse_jax.lm.preference import dpo, pairs, policy, reference, reward, tuning
from sparse_jax.lm.text import DOCUMENT, WordVocabulary
from sparse_jax.rows import add_rows, take_rows

ROOT = Path(__file__).resolve().parents[2]

from sparse_jax.commands import preference as finetune_preference  # noqa: E402

DATA = Path(os.environ.get("SPARSE_JAX_DATA", ROOT.parent / "shared" / "data"))
CONFIG = model.Config(
    vocabulary=60,
    rows=512,
    width=4,
    orders=(1, 2),
    window=3,
    recent=6,
    embed=4,
    hidden=8,
    inner=8,
    out=8,
)


pytestmark = pytest.mark.usefixtures("quick_compiles")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# Losses -----------------------------------------------------------------------------------------


def test_dpo_is_rafailovs_equation_and_gradient():
    rng = np.random.default_rng(0)
    log_p, log_ref = rng.normal(-30, 4, (2, 10)).astype(np.float32)
    beta = 0.3
    ratio = log_p - log_ref
    margin = beta * (ratio[0::2] - ratio[1::2])
    value, grad = jax.value_and_grad(dpo.loss)(
        jnp.asarray(log_p), jnp.asarray(log_ref), jnp.float32(0), beta=beta
    )
    np.testing.assert_allclose(value, -np.log(sigmoid(margin)).mean(), rtol=1e-5)
    # Equation 7's gradient: β σ(−margin) up for the chosen, down for the rejected.
    weight = beta * sigmoid(-margin) / 5
    np.testing.assert_allclose(grad, np.stack([-weight, weight], 1).ravel(), rtol=1e-4)
    # Two runs of ordinary text behind the pairs add their mean loss a token and no more.
    more = [jnp.asarray(np.append(x, [-7.0, -5.0]).astype(np.float32)) for x in (log_p, log_ref)]
    held = dpo.loss(*more, jnp.float32(6), beta=beta, ordinary=2, anchor=3.0)
    np.testing.assert_allclose(held - value, 3 * 12 / 6, rtol=1e-4)
    np.testing.assert_allclose(
        dpo.margins(jnp.asarray(log_p), jnp.asarray(log_ref), beta=beta), margin, rtol=1e-4
    )


def test_bradley_terry_is_the_log_likelihood_of_the_choices():
    scores = np.array([2.0, 1.0, -1.0, 3.0], np.float32)
    expected = -np.mean([np.log(sigmoid(1.0)), np.log(sigmoid(-4.0))])
    np.testing.assert_allclose(reward.loss(jnp.asarray(scores)), expected, rtol=1e-6)


def test_leave_one_out_baseline_and_its_gradient():
    rng = np.random.default_rng(1)
    rewards, log_p, log_ref = rng.normal(size=(3, 6)).astype(np.float32)
    whole = rewards - 0.5 * (log_p - log_ref)
    expected = np.empty(6)
    for i in range(6):
        group = [j for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        expected[i] = whole[i] - whole[group].mean()
    made = policy.leave_one_out(jnp.asarray(whole.reshape(2, 3)))
    np.testing.assert_allclose(made.ravel(), expected, rtol=1e-5, atol=1e-6)
    grad = jax.grad(policy.loss)(
        jnp.asarray(log_p), jnp.asarray(log_ref), jnp.asarray(rewards), beta=0.5, answers=3
    )
    np.testing.assert_allclose(grad, -expected / 6, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="1 answer a prompt: needs at least 2"):
        policy.leave_one_out(jnp.ones((2, 1)))


# The reference ----------------------------------------------------------------------------------


def test_kept_rows_are_the_first_ones_whatever_comes_after():
    rng = np.random.default_rng(2)
    first = rng.normal(size=(50, 3)).astype(np.float32)
    table, kept = jnp.asarray(first), reference.init(jnp.asarray(first), 4)
    touched: set[int] = set()
    keep = jax.jit(lambda kept, ids, table: reference.keep(kept, ids, take_rows(table, ids)))
    for _ in range(6):
        ids = rng.permutation(50)[:5].astype(np.int32)
        ids[rng.integers(5)] = -1
        touched |= set(ids.tolist()) - {-1}
        kept = reference.make_room(kept, 5)
        kept, old = keep(kept, ids, table)
        np.testing.assert_array_equal(old, np.where(ids[:, None] < 0, 0, first[ids]))
        table = add_rows(table, jnp.asarray(ids), jnp.ones((5, 3)))
    assert int(kept.count) == len(touched) < 50
    assert set(np.asarray(kept.ids).tolist()) - {-1} == touched
    swapped, old = reference.swap(kept, table)
    np.testing.assert_array_equal(old, first)
    _, again = reference.swap(swapped, old)
    np.testing.assert_array_equal(again, table)


TX = optim.rowwise(optax.scale_by_adam())


@functools.partial(jax.jit, static_argnames="config")
def first_state(counts: jax.Array, config: model.Config) -> training.LMState:
    return training.init_state(jax.random.key(0), TX, counts, config=config, popular=8)


@functools.cache
def make_base() -> training.LMState:
    """A model whose memory has rows, counts and vectors; not to be donated."""
    base = first_state(np.arange(60, 0, -1), CONFIG)
    step = jax.jit(training.make_step(TX, config=CONFIG, active_size=32))
    rng = np.random.default_rng(3)
    for _ in range(8):
        tokens = rng.integers(4, 12, (4, CONFIG.history + 8)).astype(np.int32)
        since = np.tile(np.arange(6, 14, dtype=np.int32), (4, 1))
        batch = training.TrainingBatch(tokens, since, jnp.float32(1))
        base, _ = step(base, batch)
    return base


def test_a_key_value_memory_is_refused():
    config = dataclasses.replace(CONFIG, pairs=64)
    tx, counts = optax.identity(), np.ones(60, np.float32)
    base = jax.eval_shape(
        lambda: training.init_state(jax.random.key(0), tx, counts, config=config, popular=8)
    )
    with pytest.raises(ValueError, match=r"key-value memory.*--pairs 0"):
        tuning.init_policy(base, TX)


def make_batch(seed: int = 4) -> pairs.Batch:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(4, 12, int(n)).astype(np.int32) for n in rng.integers(3, 7, 8)]
    prompts = [t[:2] for t in texts]
    return pairs.pack(prompts, texts, history=CONFIG.history, length=6)


def make_dpo(base: training.LMState, **options):
    def loss(log_p, log_ref):
        return dpo.loss(log_p, log_ref, jnp.float32(0), beta=0.1)

    return tuning.make_step(
        loss,
        TX,
        config=CONFIG,
        unigram=base.unigram,
        popular=base.popular,
        learning_rate=0.05,
        memory_learning_rate=0.5,
        active_size=32,
        **{"counted": False} | options,
    )


@pytest.mark.slow
def test_the_reference_scores_as_a_frozen_copy_does_to_the_bit():
    base = make_base()
    frozen = jax.tree.map(jnp.copy, (base.params, base.memory))
    batch = make_batch()
    before = tuning.log_probs(*frozen, batch, config=CONFIG, runs=8)
    tuned = tuning.init_policy(base, TX, room=8)
    run = jax.jit(make_dpo(base))
    ratios = []
    for _ in range(6):
        tuned = tuning.make_room(tuned, batch.since.size, config=CONFIG)
        tuned, seen = run(tuned, tuning.TuningBatch(*batch, jnp.float32(1)))
        ratios.append(float(seen.log_ratio))
    # The first step's policy is its reference, and then no longer.
    assert ratios[0] == 0.0 and all(r != 0 for r in ratios[1:])
    after = tuning.log_probs(tuned.params, tuned.memory, batch, config=CONFIG, runs=8)
    old = tuning.swap(jax.tree.map(jnp.copy, tuned))
    np.testing.assert_array_equal(
        tuning.log_probs(old.params, old.memory, batch, config=CONFIG, runs=8), before
    )
    for a, b in zip(
        jax.tree.leaves((old.params, old.memory.rows)),
        jax.tree.leaves((frozen[0], frozen[1].rows)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    new = tuning.swap(old)
    np.testing.assert_array_equal(
        tuning.log_probs(new.params, new.memory, batch, config=CONFIG, runs=8), after
    )
    margin = (after - before)[0::2] - (after - before)[1::2]
    assert np.mean(margin > 0) >= 0.75  # it learned what it was shown
    assert int(tuned.rows.count) < CONFIG.rows / 2


@pytest.mark.slow
@pytest.mark.parametrize("counted", [False, True])
def test_a_step_moves_touched_rows_alone(counted):
    base = make_base()
    first = jax.tree.map(np.asarray, (base.params, base.memory))
    tuned = tuning.init_policy(base, TX, room=256)
    batch = make_batch()
    step = jax.jit(make_dpo(base, counted=counted))
    tuned, _ = step(tuned, tuning.TuningBatch(*batch, jnp.float32(1)))
    words = set(batch.tokens.ravel().tolist())
    moved = np.flatnonzero((np.asarray(tuned.params["embed"]) != first[0]["embed"]).any(1))
    assert moved.size and set(moved.tolist()) <= words
    rows = np.flatnonzero((np.asarray(tuned.memory.rows) != first[1].rows).any(1))
    kept = set(np.asarray(tuned.rows.ids).tolist()) - {-1}
    assert rows.size and set(rows.tolist()) <= kept
    for name in ("out", "bias", "copyable"):
        np.testing.assert_array_equal(tuned.params[name], first[0][name])
    for name in ("tags", "counts", "followers"):
        np.testing.assert_array_equal(getattr(tuned.memory, name), getattr(first[1], name))


@pytest.mark.slow
def test_a_step_copies_no_table():
    config = model.Config(vocabulary=60, rows=1 << 20, width=16, orders=(1, 2), window=3, recent=6)

    def shapes():
        base = training.init_state(jax.random.key(0), TX, jnp.ones(60), config=config, popular=8)
        return tuning.init_policy(base, TX, room=256)

    tuned = jax.eval_shape(shapes)
    step = tuning.make_step(
        lambda p, r: dpo.loss(p, r, jnp.float32(0), beta=0.1),
        TX,
        config=config,
        unigram=jnp.ones(60) / 60,
        popular=jnp.arange(8, dtype=jnp.int32),
        learning_rate=1e-3,
        memory_learning_rate=0.1,
        counted=True,
        active_size=32,
    )
    shapes_of_runs = (8, config.history + 6), (8, 6)
    runs = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes_of_runs)
    batch = tuning.TuningBatch(*runs, jnp.float32(1))
    compiled = jax.jit(step, donate_argnums=0).lower(tuned, batch).compile()
    used = compiled.memory_analysis()
    table = (1 << 20) * 16 * 4
    assert used.temp_size_in_bytes < table / 4
    assert used.alias_size_in_bytes > table


# The reward model -------------------------------------------------------------------------------


def test_the_reward_model_learns_what_answers_which_question():
    data = pairs.from_questions(questions(60))
    vocabulary = WordVocabulary.fit(data.texts, min_count=1)
    train, _ = pairs.encode(data.train, vocabulary, history=8, length=6)
    test, _ = pairs.encode(data.test, vocabulary, history=8, length=6)
    embed = jax.random.normal(jax.random.key(0), (vocabulary.size, 4))
    state = reward.init_state(TX, width=4, rows=1 << 10)
    first = reward.score(state.params, embed, test)
    np.testing.assert_array_equal(first, 0)
    step = jax.jit(reward.make_step(TX, learning_rate=0.05))
    for _ in range(20):
        state, _ = step(state, reward.RewardBatch(embed, *train, jnp.float32(1)))
    scores = reward.score(state.params, embed, test)
    assert np.mean(scores[0::2] > scores[1::2]) > 0.9
    changed = np.count_nonzero(np.asarray(state.params["pairs"]))
    assert 0 < changed < 1 << 10
    # Padding and what stands before a short prompt have no say.
    other = test.tokens.copy()
    other[:, 8:][test.since < 0] = 5
    np.testing.assert_array_equal(
        reward.score(state.params, embed, pairs.Batch(other, test.since)), scores
    )


@pytest.mark.slow
def test_drawn_answers_end_with_their_document():
    base = make_base()
    prompts = [np.array([4, 5]), np.array([6])]
    made = policy.draw(
        base.params, base.memory, prompts, config=CONFIG, answers=3, length=5, seed=0
    )
    assert made.tokens.shape == (6, CONFIG.history + 5)
    for tokens, since in zip(made.tokens[:, CONFIG.history :], made.since, strict=True):
        ends = np.flatnonzero(tokens[since >= 0] == DOCUMENT)
        assert ends.size == 0 or ends.tolist() == [np.sum(since >= 0) - 1]


# The script -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_script_end_to_end(tmp_path, capsys):
    fixture = DATA / "fixtures" / "pref_tiny.jsonl"
    if not fixture.exists():
        pytest.skip(f"{fixture} is missing: set SPARSE_JAX_DATA to the folder of the data")
    small = ["--rows", "4096", "--epochs", "1", "--length", "8", "--max-seconds", "1"]
    saved = ["--json", f"{tmp_path}/r.json", "--save", f"{tmp_path}/m"]
    status, out, err = call(finetune_preference, capsys, str(fixture), *small, *saved)
    assert status == 0, err
    found = json.loads((tmp_path / "r.json").read_text())
    assert json.loads(out.splitlines()[-1]) == found
    for name in ("reward", "dpo"):
        assert 0 <= found[name]["win_rate_before"] <= 1 and 0 <= found[name]["win_rate_after"] <= 1
    for name in ("dpo", "rloo"):
        assert found[name]["steps"] >= 1 and np.isfinite(found[name]["kl"])
        assert found[name]["perplexity_before"] == found["perplexity_before"] > 1
        assert found[name]["perplexity_after"] > 1
    assert lm.load(f"{tmp_path}/m").config.vocabulary == found["vocabulary"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["x", "--beta", "0"], "--beta 0.0: must be above 0"),
        (["x", "y", "--checkpoint", "z"], "give one of them"),
        (["x", "--method", "reward", "--save", "z"], "--save saves a tuned language model"),
        (["x", "--seed", "-1"], "--seed -1: must be at least 0"),
    ],
)
def test_errors_name_the_cause(options, message, capsys):
    status, _, err = call(finetune_preference, capsys, *options)
    assert status == 2 and message in err
