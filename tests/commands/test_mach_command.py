"""`xmc train --buckets` as a user runs it: trained, asked, evaluated, updated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from in_process import call

from sparse_jax import data, xmc
from sparse_jax.commands.xmc import evaluate, inspect, predict, train, update

pytestmark = pytest.mark.usefixtures("lean_compiles")
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
HASHED = ["--buckets", "128", "--repetitions", "2", "--hidden", "64"]


@pytest.mark.slow
def test_a_model_of_shared_rows_goes_through_all_commands(tmp_path, capsys):
    model, more = str(tmp_path / "model"), str(tmp_path / "more.txt")
    options = [TRAIN, TEST, *HASHED, "--epochs", "12", "--lr", "1e-2", "--model", model]
    status, out, err = call(train, capsys, *options)
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["p@1"] > 0.2
    assert xmc.load(model).output.shape == (256, 64)
    status, out, _ = call(inspect, capsys, model)
    assert status == 0 and "labels share 256 rows" in out
    status, out, _ = call(predict, capsys, model, TEST, "--top-k", "3")
    assert status == 0 and all(len(line.split("\t")) == 6 for line in out.splitlines())
    status, _, err = call(predict, capsys, model, TEST, "--threshold", "0.5")
    assert status == 0 and "order labels but are no chances" in err
    points = data.read_xmc(TRAIN)
    few = points.take(slice(0, 200))
    new = data.XmcData(
        few.feature_offsets,
        few.feature_ids,
        few.feature_values,
        np.arange(201),
        np.full(200, points.num_labels, np.int32),
        num_features=points.num_features,
        num_labels=points.num_labels + 1,
    )
    data.write_xmc(more, new)
    status, _, err = call(update, capsys, model, more)
    assert status == 0, err
    assert xmc.load(model).num_labels == points.num_labels + 1
    status, _, err = call(evaluate, capsys, model, more)
    assert status == 0, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--buckets", "100"], "--buckets = 100: must be a power of two"),
        (["--buckets", "64", "--repetitions", "0"], "--repetitions 0: must be at least 1"),
        (["--repetitions", "2"], "--repetitions 2: no effect without --buckets"),
        (["--buckets", "64", "--strategy", "lsh"], "--strategy lsh: can't go with --buckets"),
        (["--buckets", "64", "--loss", "bce"], "--loss bce: can't go with --buckets"),
        (["--buckets", "64", "--bits", "5"], "--bits"),
        (["--buckets", "64", "--preset", "fast"], "no effect with --preset fast"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    with pytest.raises(SystemExit):
        train.parse_args([TRAIN, *options])
    assert message in capsys.readouterr().err
