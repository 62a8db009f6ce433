"""Where negatives come from, and each term and sign of the correction of a sampled loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sparse_jax import optim
from sparse_jax.layers import active
from sparse_jax.layers.active import CANDIDATE, FILL, LABEL
from sparse_jax.retrieval import index, schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.xmc import negatives, network
from sparse_jax.xmc import step as T

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D, B = 48, 6, 8
POINTS = synthetic.make_data(2 * B, num_features=30, num_labels=N, features=5)
BATCH = synthetic.make_batches(POINTS, B)[0]
# Buckets with room for all and as many candidates as rows: a row is found or it isn't.
INDEX = IndexConfig(num_tables=3, num_bits=3, capacity=N, max_candidates=N)


def config(**options: Any) -> T.Config:
    fixed = {"active": 30, "distinct_features": 30, "dropout": 0.0, "index": INDEX}
    return T.Config(**(fixed | options))


def arrays() -> tuple[network.Params, jax.Array]:
    """(params, hidden [B, D]) with a mean that hashing takes off."""
    rng = np.random.default_rng(3)
    params = network.init_params(jax.random.key(0), num_features=30, num_labels=N, hidden=D)
    params["output"] = jnp.asarray(rng.normal(size=(N, D)), jnp.float32)
    params["output_bias"] = jnp.asarray(rng.normal(size=N), jnp.float32)
    return params, jnp.asarray(np.abs(rng.normal(size=(B, D))) + 1, jnp.float32)


def indexed(params: network.Params, hidden: jax.Array, key: jax.Array) -> index.LshIndex:
    made = index.init(key, params["output"], params["output_bias"], config=INDEX)
    return index.observe(made, hidden)


def a_set() -> active.ActiveSet:
    """Two labels, three candidates and five of the fill."""
    ids = jnp.asarray([4, 9, 1, 20, 33, 2, 3, 5, 7, 40], jnp.int32)
    sources = jnp.asarray([LABEL] * 2 + [CANDIDATE] * 3 + [FILL] * 5, jnp.int8)
    return active.ActiveSet(ids, jnp.zeros(1, jnp.int32), sources, jnp.int32(0))


def logs_of(chosen: active.ActiveSet, tables: Any, **options: Any) -> Any:
    params, hidden = arrays()
    weights, bias = params["output"][chosen.ids], params["output_bias"][chosen.ids]
    return negatives.log_inclusion(
        params, tables, hidden, weights, bias, chosen, config=config(**options)
    )


def test_no_correction_and_the_fills():
    assert logs_of(a_set(), None, correction="none") is None
    expected = [0.0] * 5 + [np.log(5 / (N - 5))] * 5
    logs = logs_of(a_set(), None, strategy="uniform", correction="logq")
    np.testing.assert_allclose(logs, expected, rtol=1e-6)
    # With tables at hand, candidates stay certain.
    params, hidden = arrays()
    logs = logs_of(a_set(), indexed(params, hidden, jax.random.key(1)), correction="logq")
    np.testing.assert_allclose(logs, expected, rtol=1e-6)


def test_a_candidates_chance_is_that_of_the_tables_and_the_others_as_they_were():
    params, hidden = arrays()
    tables, chosen = indexed(params, hidden, jax.random.key(1)), a_set()
    logs = np.asarray(logs_of(chosen, tables, correction="lsh"))
    assert logs.shape == (B, chosen.ids.size) and (logs <= 0).all()
    expected = np.tile([0.0] * 5 + [np.log(5 / (N - 5))] * 5, (B, 1))
    # Rows and queries are hashed less their means.
    rows = np.asarray(params["output"], np.float64)
    rows, queries = rows - rows.mean(0), np.asarray(hidden, np.float64)
    queries = queries - queries.mean(0)
    for place in (2, 3, 4):
        row = rows[int(chosen.ids[place])]
        cosine = queries @ row / np.linalg.norm(queries, axis=1) / np.linalg.norm(row)
        agree = (1 - np.arccos(cosine) / np.pi) ** 3
        expected[:, place] = np.log(1 - (1 - agree) ** 3)
    np.testing.assert_allclose(logs, expected, rtol=1e-3, atol=1e-4)
    assert np.ptp(logs[:, 2:5], axis=0).min() > 0.1  # it is each example's own


def test_the_chance_is_how_often_the_tables_find_a_row():
    params, hidden = arrays()
    trials = 3000

    def found(key: jax.Array) -> jax.Array:
        ids = index.candidates(indexed(params, hidden, key), hidden, config=INDEX).ids
        rows = jnp.arange(B, dtype=jnp.int32)[:, None]
        at = jnp.where(ids < 0, N, ids)
        return jnp.zeros((B, N)).at[rows, at].set(1.0, mode="drop")

    keys = jax.random.split(jax.random.key(5), trials)
    share = np.asarray(jax.jit(lambda keys: jax.lax.map(found, keys))(keys)).mean(0)
    everyone = active.ActiveSet(
        jnp.arange(N, dtype=jnp.int32),
        jnp.zeros(1, jnp.int32),
        jnp.full(N, CANDIDATE, jnp.int8),
        jnp.int32(0),
    )
    tables = indexed(params, hidden, jax.random.key(1))
    chance = np.exp(logs_of(everyone, tables, correction="lsh"))
    assert share.min() < 0.05 and share.max() > 0.9
    # Directions are rounded to whole numbers, which moves the law by a little.
    error = 4 * np.sqrt(chance * (1 - chance) / trials) + 0.02
    assert (np.abs(share - chance) < error).all()


@pytest.mark.parametrize(
    ("strategy", "mode", "correction", "loss"),
    [
        ("uniform", "shared", "logq", "softmax"),
        ("uniform", "shared", "logq", "bce"),
        ("uniform", "per_example", "logq", "softmax"),
        pytest.param("uniform", "per_example", "logq", "bce", marks=pytest.mark.slow),
        ("lsh", "shared", "lsh", "softmax"),
        pytest.param("lsh", "shared", "lsh", "bce", marks=pytest.mark.slow),
        pytest.param("lsh", "shared", "logq", "softmax", marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_a_step_is_the_corrected_one(strategy, mode, correction, loss):
    """NumPy's loss over the very set that the step draws, logits less the log chances."""
    index_config = IndexConfig(
        num_tables=3,
        num_bits=3,
        capacity=N,
        max_candidates=2,
        rehash=schedules.fixed(9),
        rebuild=schedules.fixed(9),
    )
    settings = config(
        strategy=strategy, mode=mode, correction=correction, loss=loss, index=index_config
    )
    tx = optim.rowwise(optax.sgd(0.0))
    state = synthetic.start(POINTS, tx, config=settings, hidden=D)
    params = state.params | {"output": arrays()[0]["output"]}
    _, drawn, _, _ = jax.random.split(state.key, 4)
    hidden = network.encode(params, BATCH)
    tables = None if state.index is None else index.observe(state.index, hidden)
    chosen = negatives.choose(drawn, params, tables, BATCH, hidden, config=settings)
    weights, bias = params["output"][chosen.ids], params["output_bias"][chosen.ids]
    logs = negatives.log_inclusion(params, tables, hidden, weights, bias, chosen, config=settings)
    shape = (B, chosen.ids.shape[-1])
    assert (np.broadcast_to(chosen.sources, shape) == FILL).any()
    logs = np.broadcast_to(np.asarray(logs, np.float64), shape)
    ids = np.broadcast_to(chosen.ids, shape)
    logits = np.einsum("bd,bad->ba", hidden, np.asarray(params["output"])[ids])
    logits = logits + np.asarray(params["output_bias"])[ids]
    expected = []
    for b in range(B):
        labels = BATCH.label_ids[(BATCH.label_rows == b) & (BATCH.label_ids >= 0)]
        own = np.isin(ids[b], labels)
        if loss == "softmax":
            z = logits[b] - logs[b]
            each = np.log(np.exp(z).sum()) - z[own].mean()
            expected.append(each * np.sqrt(labels.size))
        else:
            terms = np.log1p(np.exp(logits[b])) - own * logits[b]
            expected.append((terms * np.exp(-logs[b])).sum())
    step = jax.jit(T.make_step(tx, config=settings))
    told = step(T.TrainState(state.step, params, state.opt_state, state.index, state.key), BATCH)[1]
    np.testing.assert_allclose(told.loss, np.mean(expected), rtol=1e-5)


def test_the_oracle_finds_the_best_and_padding_finds_nothing():
    params, hidden = arrays()
    settings = config(strategy="oracle", index=IndexConfig(max_candidates=4), active=N - 1)
    find = negatives.STRATEGIES["oracle"].find
    found = find(jax.random.key(0), None, params, hidden, settings)
    logits = np.asarray(hidden) @ np.asarray(params["output"]).T + params["output_bias"][None]
    np.testing.assert_array_equal(found.ids, np.argsort(-logits, axis=1)[:, :4])
    np.testing.assert_array_equal(found.counts, np.tile([4, 3, 2, 1], (B, 1)))
    for most, kept in ((D + 3, D + 3), (N + 9, N)):
        wider = dataclasses.replace(settings, index=IndexConfig(max_candidates=most))
        more = find(jax.random.key(0), None, params, hidden, wider)
        np.testing.assert_array_equal(more.ids, np.argsort(-logits, axis=1)[:, :kept])
    # Examples that are padding bring no candidates.
    half = dataclasses.replace(BATCH, row_mask=np.arange(B) < 2)
    chosen = negatives.choose(jax.random.key(0), params, None, half, hidden, config=settings)
    candidates = set(np.asarray(chosen.ids)[np.asarray(chosen.sources) == CANDIDATE].tolist())
    labels = set(BATCH.label_ids.tolist())
    assert candidates == set(np.asarray(found.ids)[:2].ravel().tolist()) - labels


@pytest.mark.parametrize("mode", ["shared", "per_example"])
def test_ranked_takes_the_best_of_a_run_and_runs_cover_all_labels(monkeypatch, mode):
    monkeypatch.setattr(negatives, "RUN", 20)  # of 48: three runs of 16
    monkeypatch.setattr(negatives, "RANKING", 3)
    monkeypatch.setattr(negatives, "BEST", 2)
    params, hidden = arrays()
    settings = config(strategy="ranked", mode=mode)
    logits = np.asarray(hidden) @ np.asarray(params["output"]).T + params["output_bias"][None]
    examples = B if mode == "per_example" else 3
    runs = set()
    for seed in range(12):
        find = negatives.STRATEGIES["ranked"].find
        found = find(jax.random.key(seed), None, params, hidden, settings)
        (run,) = set((np.asarray(found.ids) // 16).ravel().tolist())
        best = np.argsort(-logits[:examples, 16 * run : 16 * (run + 1)], axis=1)[:, :2]
        np.testing.assert_array_equal(found.ids, 16 * run + best)
        np.testing.assert_array_equal(found.counts, np.tile([2, 1], (examples, 1)))
        runs.add(run)
    assert runs == {0, 1, 2}
    assert negatives.STRATEGIES["ranked"].scored(B, N) == 3 * 16
    # Points that are padding rank nothing; where all labels are in, none are sought.
    half = dataclasses.replace(BATCH, row_mask=np.arange(B) < 2)
    chosen = negatives.choose(jax.random.key(5), params, None, half, hidden, config=settings)
    assert 0 < np.sum(np.asarray(chosen.sources) == CANDIDATE) <= 4
    settings = config(strategy="ranked", mode=mode, active=N)
    chosen = negatives.choose(jax.random.key(5), params, None, BATCH, hidden, config=settings)
    assert not np.any(np.asarray(chosen.sources) == CANDIDATE)


def test_every_strategy_says_what_it_is_for():
    assert set(negatives.STRATEGIES) == {"lsh", "uniform", "ranked", "oracle", "dense"}
    assert all(strategy.about for strategy in negatives.STRATEGIES.values())
    assert [n for n, s in negatives.STRATEGIES.items() if s.uses_index] == ["lsh"]
    assert [n for n, s in negatives.STRATEGIES.items() if s.whole_layer] == ["dense"]
