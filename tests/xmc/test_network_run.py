"""A network on its way: its optimizers, and what a run leaves for the next."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import data
from sparse_jax.runtime import checkpoint
from sparse_jax.xmc.network_options import FORMER, OPTIMIZERS, Options
from sparse_jax.xmc.network_run import NetworkRun

pytestmark = pytest.mark.usefixtures("quick_compiles")

LARGE = {"optimizer": "row-scale", "dtype": "bfloat16", "epochs": 6, "hidden": 32}


@pytest.fixture(scope="module")
def points():
    """Each label is told by a feature of its own, among noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 1000).astype(np.int32)
    noise = np.stack([rng.permutation(100)[:4] + 50 for _ in labels])
    features = np.concatenate([labels[:, None], noise], axis=1).astype(np.int32)
    return data.XmcData(
        np.arange(0, features.size + 1, 5),
        features.reshape(-1),
        np.full(features.size, 0.4, np.float32),
        np.arange(1001),
        labels,
        num_features=150,
        num_labels=50,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(points, name):
    run = NetworkRun(Options(optimizer=name, epochs=6, hidden=32), points)
    run.fit()
    assert np.mean(run.predict(points, k=1)[:, 0] == points.label_ids) > 0.95


@pytest.mark.slow
def test_tables_of_half_the_bytes_with_a_number_a_row_learn_and_resume(points, tmp_path):
    whole = NetworkRun(Options(**LARGE), points)
    whole.fit()
    assert np.mean(whole.predict(points, k=1)[:, 0] == points.label_ids) > 0.95
    slots = sum(x.nbytes for x in jax.tree.leaves(whole.state.opt_state))
    assert slots <= 4 * (150 + 50 + 50 + 32 + 1)
    assert whole.state.params["output"].dtype == jnp.bfloat16

    first = NetworkRun(Options(**LARGE), points, directory=str(tmp_path), save_every=11)
    with pytest.raises(KeyboardInterrupt):
        first.fit(progress=_stop_at(25))
    rest = NetworkRun(Options(**LARGE), points, directory=str(tmp_path), begun=False)
    assert rest.resume()
    assert 0 < rest.clock.step < whole.clock.step
    rest.fit()
    for name, table in whole.state.params.items():
        assert np.asarray(rest.state.params[name]).tobytes() == np.asarray(table).tobytes(), name
    seen = [[(at["step"], at["loss"], at["p@1"]) for at in run.history] for run in (whole, rest)]
    assert seen[0] == seen[1] and [step for step, *_ in seen[0]] == [25, 48]


def test_a_single_step_trains(points):
    run = NetworkRun(Options(epochs=1, hidden=8, batch_size=1000, active=50), points)
    before = {name: np.asarray(table) for name, table in run.state.params.items()}
    run.fit()
    assert run.clock.step == 1
    assert not np.array_equal(run.state.params["output"], before["output"])


def test_a_run_saved_before_an_option_could_be_chosen_goes_on(points, tmp_path):
    options = Options(epochs=1, hidden=8)
    run = NetworkRun(options, points, directory=str(tmp_path))
    run.save(run.state)
    extra = checkpoint.read_extra(tmp_path)
    for name in FORMER:
        del extra["options"][name]
    checkpoint.save(tmp_path, run.state, step=0, extra=extra)
    assert run.resume()
    other = NetworkRun(replace(options, optimizer="row-scale"), points, directory=str(tmp_path))
    with pytest.raises(ValueError, match="optimizer was adam, is row-scale"):
        other.resume()


def test_a_run_whose_data_chose_another_number_of_labels_does_not_go_on(points, tmp_path):
    run = NetworkRun(Options(epochs=1, hidden=8), points, directory=str(tmp_path))
    run.save(run.state)
    assert run.resume()
    extra = checkpoint.read_extra(tmp_path)
    chosen = extra["options"]["active"]
    assert chosen == run.config.active
    extra["options"]["active"] = None  # as versions wrote it that chose more
    checkpoint.save(tmp_path, run.state, step=0, extra=extra)
    with pytest.raises(ValueError, match=f"active was None, is {chosen}"):
        run.resume()


def _stop_at(number):
    def progress(_, step, *rest):
        if step >= number:
            raise KeyboardInterrupt

    return progress


def test_an_optimizer_that_there_is_not(points):
    with pytest.raises(ValueError, match="optimizer = 'sgd': must be one of adam, row-scale"):
        NetworkRun(Options(optimizer="sgd"), points)
