"""The key-value memory of the language model: attention over what the LSH index finds."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly

from sparse_jax import lm, rowwise
from sparse_jax.lm import batching, evaluate, generate, keyvalue, model, sparse_head, training
from sparse_jax.lm.text import DOCUMENT, SPECIAL, Corpus, WordVocabulary
from sparse_jax.retrieval import index
from sparse_jax.runtime import checkpoint

V, RUNS, LENGTH = 40, 4, 8
# Attention over one word is that word's value: without the memory this trunk is linear.
OFF = model.Config(
    vocabulary=V,
    rows=0,
    window=2,
    recent=1,
    attention=4,
    embed=8,
    hidden=16,
    blocks=0,
    out=16,
    evidence=False,
)
ON = dataclasses.replace(OFF, pairs=256, pair_candidates=8)
TX = rowwise(optax.scale_by_adam())


pytestmark = pytest.mark.usefixtures("quick_compiles")


def make_corpus() -> Corpus:
    """A loop of 300 arbitrary words: the next one follows from the last two, but not linearly."""
    loop = np.random.default_rng(0).integers(4, V, 300)
    return Corpus(np.array([*np.tile(loop, 8), DOCUMENT], np.int32), 1, 0)


TEXT = make_corpus()


@functools.cache
def batches(config, epoch=0):
    source = batching.batches(TEXT, RUNS, LENGTH, config.history, seed=0, epoch=epoch)
    return [(jnp.asarray(batch.tokens), jnp.asarray(batch.since)) for batch in source]


def training_batch(config, at=0, epoch=0):
    return training.TrainingBatch(*batches(config, epoch)[at], jnp.float32(1))


@functools.cache
def fresh(config):
    counts = np.bincount(TEXT.tokens, minlength=V)
    return jax.jit(
        lambda counts: training.init_state(jax.random.key(0), TX, counts, config=config, popular=8)
    )(counts)


@functools.cache
def compiled(config):
    step = training.make_step(TX, active_size=V, learning_rate=3e-2, config=config)
    return jax.jit(step, donate_argnums=0).lower(fresh(config), training_batch(config)).compile()


def run(state, config, steps, start=0):
    """(state, losses) after some more steps; the state given is not donated."""
    state, losses = jax.tree.map(jnp.copy, state), []
    for number in range(start, start + steps):
        epoch, at = divmod(number, len(batches(config)))
        state, seen = compiled(config)(state, training_batch(config, at, epoch))
        state = training.maintain(state, config=config)
        losses.append(float(seen.loss))
    return state, losses


@functools.cache
def trained(config, steps=300):
    return run(fresh(config), config, steps)


def same(a, b):
    """Whether two states are equal to the bit."""
    plain = lambda x: (  # noqa: E731
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(plain(x), plain(y)) for x, y in pairs)


def reference(keys, values, queries, places):
    """`attend`, a query at a time in float64."""
    out = np.zeros((len(queries), values.shape[1]))
    for i, (query, own) in enumerate(zip(queries, places, strict=True)):
        own = own[own >= 0]
        if own.size:
            score = keys[own].astype(np.float64) @ query / np.sqrt(query.size)
            weight = np.exp(score - score.max())
            out[i] = (weight / weight.sum()) @ values[own]
    return out


def draw_pairs(slots=20, width=6, queries=9):
    rng = np.random.default_rng(3)
    shapes = ((slots, width), (slots, width), (queries, width))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_attention_equals_a_reference():
    keys, values, queries = draw_pairs()
    rng = np.random.default_rng(4)
    places = np.stack([rng.permutation(20)[:5] for _ in queries]).astype(np.int32)
    places[0], places[1, 2:] = -1, -1
    got = jax.jit(keyvalue.attend)(*map(jnp.asarray, (keys, values, queries, places)))
    np.testing.assert_allclose(got, reference(keys, values, queries, places), atol=1e-5)
    assert not np.any(got[0])


def test_all_slots_as_candidates_give_full_attention_and_its_gradient():
    keys, values, queries = map(jnp.asarray, draw_pairs())
    places = jnp.broadcast_to(jnp.arange(20, dtype=jnp.int32), (9, 20))

    def full(keys, values, queries):
        return jax.nn.softmax(queries @ keys.T / jnp.float32(6**0.5), axis=1) @ values

    def ours(keys, values, queries):
        return keyvalue.attend(keys, values, queries, places)

    def squares(attend):
        total = lambda *args: jnp.sum(attend(*args) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(keys, values, queries)

    (one, grads), (other, expected) = squares(ours), squares(full)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_look_up_names_the_candidates_of_the_index():
    keys = jax.random.normal(jax.random.key(0), (512, 16))
    lsh = index.init(jax.random.key(1), keys, config=keyvalue.index_config(512, 8))
    found = keyvalue.look_up(lsh, keys[:30] * 2, candidates=8)
    expected = index.candidates(lsh, keys[:30] * 2, config=keyvalue.index_config(512, 8)).ids
    ids, places = np.asarray(found.ids), np.asarray(found.inverse)
    np.testing.assert_array_equal(np.where(places < 0, -1, ids[places]), expected)
    # A key shares every bucket with itself.
    assert np.asarray(expected)[:, 0].tolist() == list(range(30))
    assert np.unique(ids[ids >= 0]).size == (ids >= 0).sum()


@pytest.mark.slow
def test_off_is_the_model_without():
    off, on = fresh(OFF), fresh(ON)
    assert off.lsh is None
    assert set(on.params) - set(off.params) == {"keys", "values"}
    assert same(off.params, {k: on.params[k] for k in off.params})
    assert same(off.key, on.key)
    # Values begin as zeros, so the first step is the same, too, but for the new rows.
    after_off, lost_off = run(off, OFF, 1)
    after_on, lost_on = run(on, ON, 1)
    assert lost_off == lost_on
    assert same(after_off.params, {k: after_on.params[k] for k in off.params})
    step = jax.jit(training.make_step(TX, config=OFF, active_size=V))
    lowered = step.lower(off, training_batch(OFF)).as_text()
    assert "tables_query" not in lowered and "bag_forward" not in lowered


def test_only_slots_that_were_read_change():
    before, _ = run(fresh(ON), ON, 3)
    batch = batches(ON)[3]

    @jax.jit
    def slots_of(state, tokens, since):
        at = batching.positions(tokens, since)
        _, inputs = training.find_inputs(None, at, config=ON, claim=False)
        rows = training.read(state.params, None, inputs)
        return training.read_pairs(state.params, state.lsh, rows, inputs, config=ON)[1].pairs.ids

    read = np.zeros(ON.pairs, bool)
    read[[i for i in np.asarray(slots_of(before, *batch)).tolist() if i >= 0]] = True
    assert 0 < read.sum() < ON.pairs
    after, _ = compiled(ON)(jax.tree.map(jnp.copy, before), training_batch(ON, 3))
    for name in ("keys", "values"):
        moved = np.any(np.asarray(after.params[name]) != np.asarray(before.params[name]), axis=1)
        np.testing.assert_array_equal(moved, read)
    np.testing.assert_array_equal(
        np.asarray(after.lsh.changed), np.asarray(before.lsh.changed) | read
    )


def test_changed_keys_are_hashed_anew_on_schedule():
    state, _ = run(fresh(ON), ON, 99)
    assert int(state.lsh.rehashed) == 0 and bool(jnp.any(state.lsh.changed))
    state, _ = run(state, ON, 1, start=99)
    assert int(state.lsh.rehashed) > 0 and not bool(jnp.any(state.lsh.changed))
    config = keyvalue.index_config(ON.pairs, ON.pair_candidates)
    drift = index.measure_drift(state.lsh, state.params["keys"], config=config)
    assert float(drift) == 0


@pytest.mark.slow
def test_training_with_it_lowers_the_loss():
    _, without = trained(OFF)
    state, with_it = trained(ON)
    assert np.mean(with_it[-50:]) < 0.8 * np.mean(without[-50:])
    # The layer is the reason: without its values the score is worse.
    score = functools.partial(evaluate.score, memory=None, corpus=TEXT, config=ON, lsh=state.lsh)
    blank = state.params | {"values": jnp.zeros_like(state.params["values"])}
    assert score(state.params).nats < 0.9 * score(blank).nats


def test_evaluation_and_generation_look_up_the_same():
    state, _ = trained(ON)
    batch = batches(ON)[0]
    at = batching.positions(*batch)
    scored, _ = evaluate.log_likelihood(state.params, None, *batch, config=ON, lsh=state.lsh)
    next_log_probs = jax.jit(functools.partial(generate.next_log_probs, config=ON))
    log_p = next_log_probs(state.params, None, at.history, at.known, lsh=state.lsh)
    np.testing.assert_allclose(np.exp(np.asarray(log_p)).sum(axis=1), 1.0, atol=1e-5)
    expected = np.take_along_axis(np.asarray(log_p), np.asarray(at.targets)[:, None], 1)[:, 0]
    np.testing.assert_allclose(np.asarray(scored).ravel(), expected, atol=2e-5)
    # The loss of a training step over all words, at learning rate 0, is that of the exact score.
    still = training_batch(ON)._replace(scale=jnp.float32(0))
    _, seen = compiled(ON)(jax.tree.map(jnp.copy, state), still)
    assert float(seen.loss) == pytest.approx(-float(jnp.mean(scored)), rel=1e-5)
    greedy = generate.Sampling(temperature=0)
    texts = generate.stream(
        state.params, None, [TEXT.tokens[:2]], config=ON, how=greedy, lsh=state.lsh
    )
    found = generate.beam_search(
        state.params, None, TEXT.tokens[:2], config=ON, tokens=1, beams=1, lsh=state.lsh
    )
    first = next(texts).tolist()
    assert found[0][1] == [word for word in first if word != DOCUMENT]
    queries = sparse_head.sample_queries(state.params, None, *batch, config=ON, lsh=state.lsh)
    assert queries.shape == (RUNS * LENGTH, ON.out)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    half, _ = run(fresh(ON), ON, 180)
    checkpoint.save(tmp_path, half, step=180, extra={})
    state, _ = checkpoint.restore(tmp_path, fresh(ON))
    rest, _ = run(state, ON, 120, start=180)
    assert same(trained(ON)[0], rest)


def test_a_saved_model_brings_its_index(tmp_path):
    state, _ = trained(ON)
    words = WordVocabulary((*SPECIAL, *(f"w{n}" for n in range(V - len(SPECIAL)))))
    lm.save(lm.from_state(state, vocabulary=words, config=ON), tmp_path)
    assert same(lm.load(tmp_path).lsh, state.lsh)


@pytest.mark.slow
def test_the_step_makes_nothing_of_all_slots():
    config = dataclasses.replace(ON, pairs=50_021)
    state = jax.eval_shape(lambda: fresh.__wrapped__(config))
    step = training.make_step(TX, config=config, active_size=V)
    lowered = jax.jit(step, donate_argnums=0).lower(state, training_batch(config))
    whole = lowered.compile(quickly.fused())
    table = 50_021 * config.hidden * 4
    stats = whole.memory_analysis()
    assert stats.alias_size_in_bytes > 6 * table  # keys, values, two moments of each
    assert stats.temp_size_in_bytes < table / 8
    wide = re.findall(r"= \w+\[50021(?:,\d+)?\]\S* (\w[\w-]*)\(", whole.as_text())
    # Custom calls are the kernel that adds rows in place; copies would show in the bytes above.
    allowed = {"parameter", "scatter", "fusion", "get-tuple-element", "custom-call"}
    assert wide and set(wide) <= allowed


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match="pairs = 4"):
        model.Config(vocabulary=9, pairs=4)
    with pytest.raises(ValueError, match="lsh is None with pairs = 256"):
        evaluate.score(fresh(ON).params, None, TEXT, config=ON)
