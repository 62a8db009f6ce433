"""The study of negatives: its script on a tiny set, learned hashing, and its intervals."""

from __future__ import annotations

import json
from pathlib import Path

import compare_negatives
import jax
import jax.numpy as jnp
import learned_hashing
import negatives_table
import numpy as np
import pytest
from in_process import call

from sparse_jax import hashing
from sparse_jax.hashing import simhash

TINY = str(Path(__file__).resolve().parent / "fixtures" / "xmc_tiny")
SMALL = ["--sets", TINY, "--active", "256", "--batch-size", "64", "--epochs", "4"]
SMALL += ["--candidates", "4", "--seeds", "0", "1", "--ways", "uniform", "learned"]


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


def test_compares_at_equal_steps_and_seconds_and_goes_on(tmp_path, capsys, quick_compiles):
    runs, out, plot = f"{tmp_path}/runs", f"{tmp_path}/t.json", f"{tmp_path}/t.png"
    status, told, errors = call(
        compare_negatives, capsys, *SMALL, "--runs", runs, "--json", out, "--plot", plot
    )
    assert status == 0, errors
    tables = {t["equal"]: t for t in json.loads(Path(out).read_text())}
    assert set(tables) == {"steps", "seconds"}
    assert tables["steps"]["ways"]["learned"]["steps"] == 4 * 32
    steps = [tables["seconds"]["ways"][way]["steps"] for way in ("uniform", "learned")]
    assert max(steps) == 4 * 32 and min(steps) < 4 * 32
    row = tables["steps"]["ways"]["learned"]["P@1"]
    assert row["mean"] > 0.1 and row["gap_low"] <= row["gap"] <= row["gap_high"]
    assert "| learned | 128 |" in told
    assert Path(plot).read_bytes()[:4] == b"\x89PNG"
    lines = Path(runs, "runs.jsonl").read_text()

    status, again, errors = call(compare_negatives, capsys, *SMALL, "--runs", runs)
    assert status == 0, errors
    assert Path(runs, "runs.jsonl").read_text() == lines  # nothing is run twice
    assert "| learned | 128 |" in again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "3"], "--seeds 3: give at least two"),
        (["--ways", "lsh"], "--ways lsh: needs uniform"),
        (["--active", "8"], "--active 8 is too small"),
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
