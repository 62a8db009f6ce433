"""How a network is stored and learned within a budget: what is chosen, and what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sparse_jax.data import XmcData
from sparse_jax.xmc import fitting_memory
from sparse_jax.xmc.fitting_memory import Prediction, Probe
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

FIXTURE = Path(__file__).parents[1] / "fixtures" / "xmc_tiny_train.txt"
F, N, D = 6000, 4000, 64
WEIGHTS = (F + N) * D
ROWS = F + N
BIASES = N + D
PROCESS, TEMPORARIES = 500_000, 100_000
FLOAT32, BFLOAT16, ROW_SCALE = 12 * WEIGHTS, 10 * WEIGHTS, 2 * WEIGHTS + 4 * ROWS


def choose(budget, options=None, *, given=(), probe=None, **more):
    """The choice, and the options that were tried."""
    tried = []

    def measure(each):
        tried.append(each)
        return probe or Probe(PROCESS, TEMPORARIES)

    options = options or Options(hidden=D)
    found = fitting_memory.choose(options, F, N, budget, given=given, measure=measure, **more)
    return *found, tried


@pytest.mark.parametrize(
    ("state", "biases", "dtype", "optimizer"),
    [
        (FLOAT32, 12 * BIASES, "float32", "adam"),
        (BFLOAT16, 12 * BIASES, "bfloat16", "adam"),
        (ROW_SCALE, 8 * BIASES, "bfloat16", "row-scale"),
    ],
)
def test_the_first_that_fits_is_taken(state, biases, dtype, optimizer):
    needed = PROCESS + TEMPORARIES + state + biases
    for spare in (100, 200_000):  # the way before takes more than that
        chosen, predicted, _ = choose(needed + spare)
        assert (chosen.dtype, chosen.optimizer) == (dtype, optimizer)
        assert needed - 100 <= predicted.total <= needed + 100  # the optimizer's count of steps


def test_what_was_given_stays():
    spare = PROCESS + TEMPORARIES + 12 * BIASES + 1000
    kept, _, _ = choose(ROW_SCALE + 2 * WEIGHTS + spare, given=("dtype",))
    assert (kept.dtype, kept.optimizer) == ("float32", "row-scale")
    kept, _, _ = choose(BFLOAT16 + spare, given=("optimizer",))
    assert (kept.dtype, kept.optimizer) == ("bfloat16", "adam")
    with pytest.raises(ValueError, match="or leave out --optimizer"):
        choose(ROW_SCALE + spare, given=("optimizer",))
    dense = Options(hidden=D, strategy="dense")  # computes with whole tables, in float32
    kept, _, _ = choose(ROW_SCALE + 2 * WEIGHTS + spare, dense)
    assert (kept.dtype, kept.optimizer) == ("float32", "row-scale")


def test_what_the_process_has_held_before_counts():
    chosen, predicted, _ = choose(50_000_000, probe=Probe(PROCESS, TEMPORARIES, 40_000_000))
    assert (chosen.dtype, predicted.total) == ("float32", 40_000_000)
    with pytest.raises(ValueError, match="program and data are 60 MB; no network is small"):
        choose(50_000_000, probe=Probe(PROCESS, TEMPORARIES, 60_000_000))


def test_few_are_tried():
    """Each trial compiles: what can't fit by what the process holds is not tried."""
    _, _, tried = choose(BFLOAT16 + 12 * BIASES + PROCESS, process=PROCESS)
    assert [each.optimizer for each in tried] == ["row-scale"]
    lsh = Options(hidden=D, strategy="lsh")
    _, _, tried = choose(FLOAT32 + 6_000_000, lsh, given=("bits",))
    assert 1 <= len(tried) <= 3


def test_too_little_names_the_least_that_does():
    with pytest.raises(ValueError, match=r"smaller --hidden than 64, or --buckets") as caught:
        choose(1_000_000)
    least = float(str(caught.value).split("at least ")[1].split(" MB")[0])
    chosen, predicted, _ = choose(round(least * 1e6))
    assert chosen.optimizer == "row-scale" and predicted.total > 0.95e6 * least


@pytest.mark.slow
def test_tables_take_what_is_left():
    lsh = Options(hidden=D, strategy="lsh")
    fixed = PROCESS + TEMPORARIES + FLOAT32 + 12 * BIASES + 1000
    sizes = []
    for room in (600_000, 1_600_000, 8_000_000):
        chosen, predicted, _ = choose(fixed + room, lsh)
        assert chosen.dtype == "float32" and 0 < predicted.hash_tables <= room
        sizes.append((chosen.tables, predicted.hash_tables))
    assert sizes == sorted(sizes) and sizes[0][0] < sizes[1][0] < sizes[2][0]
    kept, _, _ = choose(fixed + 1_600_000, lsh, given=("tables", "bits"))
    assert (kept.tables, kept.bits) == (lsh.tables, lsh.bits)
    kept, _, _ = choose(fixed + 8_000_000, lsh, given=("bits",))
    assert kept.bits == lsh.bits and kept.tables > lsh.tables
    digits = Options(hidden=D, strategy="lsh", family="dwta")
    assert choose(fixed + 8_000_000, digits)[0].bits % 3 == 0


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return XmcData(
        np.arange(0, 2001, 4),
        np.concatenate([rng.permutation(150)[:4] for _ in range(500)]).astype(np.int32),
        np.full(2000, 0.5, np.float32),
        np.arange(501),
        rng.integers(0, 300, 500).astype(np.int32),
        num_features=150,
        num_labels=300,
    )


@pytest.mark.slow
def test_predicted_bytes_are_those_of_the_state(points):
    options = Options(strategy="lsh", hidden=16, epochs=1)
    runs = []

    def measure(tried):
        runs[:] = [NetworkRun(tried, points, begun=False)]
        return fitting_memory.probe(runs[0])

    chosen, predicted = fitting_memory.choose(
        options, 150, 300, 10**12, given=("tables", "bits"), measure=measure
    )
    (run,) = runs
    assert not hasattr(run, "state")
    compiled = (run.start, run.run_step, run.maintain)
    most = max(each.memory_analysis().temp_size_in_bytes for each in compiled)
    batch = _nbytes(next(run.batches(0)))
    assert most <= predicted.temporaries <= most + batch + 1000
    run.begin(jax.random.key(chosen.seed))
    assert predicted.weights == _nbytes(run.state.params)
    assert predicted.moments == _nbytes(run.state.opt_state)
    index = run.state.index
    assert predicted.hash_tables == _nbytes(index.tables) + _nbytes(index.hash_params)
    whole = NetworkRun(chosen, points)  # a run that begins later is the same run
    for name, table in whole.state.params.items():
        assert np.asarray(run.state.params[name]).tobytes() == np.asarray(table).tobytes(), name


def _nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_the_prediction_is_near_what_is_measured(tmp_path):
    """In a process of its own, whose peak is not that of other tests."""
    options = ["--memory", "4GB", "--hidden", "2000", "--epochs", "1", "--json", "r.json"]
    program = "import sys; from sparse_jax.commands.xmc import train; sys.exit(train.main())"
    command = [sys.executable, "-c", program, str(FIXTURE), *options]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=200)
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["memory_bytes"] == 4_000_000_000
    ratio = results["predicted_bytes"] / results["peak_rss_bytes"]
    assert 0.9 < ratio < 1.3


def test_in_words():
    predicted = Prediction(400_000_000, 80_000_000, 150_000_000, 0, 1_500_000)
    told = fitting_memory.in_words(Options(), predicted, 2_000_000_000)
    assert told == (
        "float32, --optimizer adam: 632 MB of 2.00 GB predicted "
        "(process 400 MB, weights 80 MB, moments 150 MB, temporaries 1.5 MB)"
    )
