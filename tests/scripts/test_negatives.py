"""The study of negatives: its script on a tiny set, learned hashing, and its intervals."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call

from sparse_jax.retrieval import hashing, index
from sparse_jax.retrieval.hashing import simhash
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.runtime.loop import Clock
from sparse_jax.xmc import metrics, negatives, network
from sparse_jax.xmc import step as training

ROOT = Path(__file__).resolve().parents[2]

import compare_negatives  # noqa: E402
import learned_hashing  # noqa: E402
import negatives_table  # noqa: E402
import ranking_ways  # noqa: E402

TINY = str(ROOT / "tests" / "fixtures" / "xmc_tiny")
SMALL = ["--sets", TINY, "--active", "256", "--batch-size", "64", "--epochs", "4"]
SMALL += ["--candidates", "4", "--seeds", "0", "1", "--ways", "uniform", "learned"]


@pytest.mark.slow
def test_learned_functions_bring_a_query_to_its_rows():
    # A query is its row, six coordinates of sixteen negated: random signs tell little of it.
    keys = jax.random.normal(jax.random.key(0), (300, 16))
    queries = jnp.concatenate([-keys[:, :6], keys[:, 6:]], axis=1)
    drawn = simhash.init(jax.random.key(1), 16, num_tables=8, num_bits=4)
    own = jnp.arange(300, dtype=jnp.int32)[:, None]
    made = jax.jit(learned_hashing.fit)(jax.random.key(2), drawn, queries, keys, own)

    def met(params):
        codes, asked = hashing.hash(params, keys), hashing.hash(params, queries)
        others = jnp.roll(codes, 7, axis=0)
        return float((codes == asked).mean()), float((others == asked).mean())

    before, after = met(drawn), met(made)
    assert after[0] > 2 * before[0]
    assert after[0] - after[1] > 2 * (before[0] - before[1])
    directions = np.asarray(made.directions)
    assert directions.shape == drawn.directions.shape
    np.testing.assert_array_equal(directions, np.round(directions))
    assert np.abs(directions).max() <= 31


@pytest.mark.slow
def test_functions_are_learned_while_the_network_is(quick_compiles):
    args = compare_negatives.parse_args([*SMALL, "--runs", "unused"])
    train, _ = compare_negatives.load(TINY, args, 256)
    setting = compare_negatives.Setting(
        set="tiny",
        mode="shared",
        active=256,
        candidates=4,
        loss="softmax",
        batch_size=64,
        epochs=4,
        points=train.num_points,
    )
    run, seconds = compare_negatives.train_one(setting, "learned", 0, 110, train)
    assert (run.clock.step, int(run.state.index.rebuilds), run.next_learning) == (110, 1, 160)
    assert seconds > 0
    drawn = simhash.init(jax.random.key(0), 128, num_tables=16, num_bits=8)
    assert run.state.index.hash_params.directions.shape == drawn.directions.shape
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_few_examples_rank_all_rows_or_those_that_tables_find():
    rng = np.random.default_rng(0)
    params = network.init_params(jax.random.key(0), num_features=9, num_labels=200, hidden=16)
    params["output"] = jnp.asarray(rng.integers(-4, 5, (200, 16)), jnp.float32)
    hidden = jnp.asarray(rng.integers(-4, 5, (20, 16)), jnp.float32)
    # As many rows as buckets hold: the tables find all, and exact ranks are those of the search.
    tables = IndexConfig(num_tables=2, num_bits=1, capacity=200, max_candidates=3)
    config = training.Config(index=tables)
    made = index.init(jax.random.key(1), params["output"], params["output_bias"], config=tables)
    made = index.observe(made, hidden)
    logits = np.asarray(hidden[: negatives.RANKING] @ params["output"].T)
    best = -np.sort(-logits, axis=1)[:, : negatives.BEST]
    for way, given in (("exact", None), ("rescored", made)):
        find = ranking_ways.WAYS[way].find
        found = np.asarray(find(jax.random.key(2), given, params, hidden, config).ids)
        assert found.shape == best.shape
        got = np.take_along_axis(logits, np.maximum(found, 0), axis=1)
        if way == "exact":
            np.testing.assert_array_equal(got, best)
        else:  # a bucket of each table: most rows, not all
            assert (got[found >= 0] >= best.min()).mean() > 0.5
            assert (got == best).mean() > 0.5


class Guesses:
    """Stands in for a trained run: right for some points, more of them after more steps."""

    def __init__(self, way: str, seed: int, steps: int) -> None:
        self.clock = Clock(step=steps)
        self.right = 0.2 + 0.002 * steps + (0.2 if way == "learned" else 0)
        self.rng = np.random.default_rng(seed)

    def predict(self, test):
        found = np.full((test.num_points, 5), -1, np.int32)
        has = np.diff(test.label_offsets) > 0
        right = has & (self.rng.random(test.num_points) < self.right)
        found[right, 0] = test.label_ids[test.label_offsets[:-1][right]]
        return found


def test_compares_at_equal_steps_and_seconds_and_goes_on(tmp_path, capsys, monkeypatch):
    trained = []

    def train_one(setting, way, seed, steps, train):
        trained.append((way, seed, steps))
        return Guesses(way, seed, steps), steps * (1.0 if way == "uniform" else 4.0)

    monkeypatch.setattr(compare_negatives, "train_one", train_one)
    runs, out, plot = f"{tmp_path}/runs", f"{tmp_path}/t.json", f"{tmp_path}/t.png"
    command = [compare_negatives, capsys, *SMALL, "--runs", runs]
    status, told, errors = call(*command, "--json", out, "--plot", plot)
    assert status == 0, errors
    # The cheapest way isn't trained twice, and the other gets a quarter of the steps.
    each = [("uniform", 128), ("learned", 128), ("learned", 32)]
    assert sorted(trained) == sorted((way, seed, n) for way, n in each for seed in (0, 1))
    tables = {t["equal"]: t["ways"] for t in json.loads(Path(out).read_text())}
    assert tables["seconds"]["uniform"]["seconds"] == tables["seconds"]["learned"]["seconds"] == 128
    for equal, gap in (("steps", 0.2), ("seconds", 0.2 - 0.002 * 96)):
        row = tables[equal]["learned"]["P@1"]
        assert row["gap"] == pytest.approx(gap, abs=0.04)
        assert row["gap_low"] <= row["gap"] <= row["gap_high"]
        assert row["gap"] == pytest.approx(row["mean"] - tables[equal]["uniform"]["P@1"]["mean"])
    assert "| learned | 32 | 128.0 |" in told
    assert Path(plot).read_bytes()[:4] == b"\x89PNG"

    status, again, errors = call(*command)
    assert status == 0, errors
    assert len(trained) == 6  # nothing is trained twice
    assert again.splitlines()[-10:] == told.splitlines()[-10:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "3"], "--seeds 3: give at least two"),
        (["--ways", "lsh"], "--ways lsh: needs uniform"),
        (["--active", "8"], "active = 8: must be at least"),
    ],
)
def test_errors_name_the_option_and_the_cure(tmp_path, capsys, options, message):
    status, _, errors = call(
        compare_negatives, capsys, *SMALL, *options, "--runs", f"{tmp_path}/runs"
    )
    assert status == 2
    assert message in errors


def test_intervals():
    # 1.96 standard errors of 4,000 independent points; copies of them tell nothing new.
    gaps = np.random.default_rng(0).normal(0.1, 1, (4000, 1))
    low, high = negatives_table.bootstrap(gaps, np.arange(4000))
    half = 1.96 * gaps.std() / 4000**0.5
    np.testing.assert_allclose([low[0], high[0]], gaps.mean() + np.array([-half, half]), atol=3e-3)
    copies = negatives_table.bootstrap(np.repeat(gaps, 3, axis=0), np.repeat(np.arange(4000), 3))
    np.testing.assert_allclose(copies, (low, high), atol=1e-12)
    assert negatives_table.t_half(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.484, abs=1e-3)


def test_scores_of_points_average_to_the_metrics():
    args = compare_negatives.parse_args([*SMALL, "--runs", "unused"])
    train, test = compare_negatives.load(TINY, args, 256)
    inverse = metrics.inverse_propensities(train.label_offsets, train.label_ids, train.num_labels)
    rng = np.random.default_rng(0)
    found = np.stack([rng.permutation(test.num_labels)[:5] for _ in range(test.num_points)])
    found[:200] = Guesses("uniform", 0, 400).predict(test)[:200]  # right, and padded with -1
    scores, groups = compare_negatives.per_point(found.astype(np.int32), test, inverse)
    told = metrics.evaluate(found, test.label_offsets, test.label_ids, inverse)
    np.testing.assert_allclose(
        scores.mean(axis=0, dtype=np.float64), [told["p@1"], told["p@5"], told["psp@1"]], rtol=1e-5
    )
    sets = [frozenset(s.tolist()) for s in np.split(test.label_ids, test.label_offsets[1:-1])]
    assert len(set(sets)) == groups.max() + 1
    assert all((sets[i] == sets[0]) == (groups[i] == groups[0]) for i in range(len(sets)))
