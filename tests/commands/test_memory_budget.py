"""`xmc train --memory`: what it takes, what it refuses, and what it trains."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from in_process import call

from sparse_jax.commands.xmc import memory, train

pytestmark = pytest.mark.usefixtures("quick_compiles")

TRAIN = str(Path(__file__).parents[1] / "fixtures" / "xmc_tiny_train.txt")
SMALL = ("--hidden", "16", "--epochs", "1", "--batch-size", "256")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("200MiB", 200 * 2**20),
        ("12345", 12345),
        (".5kB", 500),
    ],
)
def test_sizes(text, size):
    assert memory.size_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "0GB", "-1GB", "8XB", "GB", "1.2.3GB", "nan", "0.1B", f"{10**400}"]
)
def test_no_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 8GB"):
        memory.size_of(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "fast"], "--memory: no effect with --preset fast"),
        (["--dtype", "bfloat16", "--optimizer", "adam"], "all that it chooses is given"),
        (["--strategy", "dense", "--optimizer", "adam"], "all that it chooses is given"),
        (
            ["--tables", "4", "--bits", "5", "--dtype", "float32", "--optimizer", "adam"],
            "all that it chooses is given",
        ),
        (["--target", "price"], "--memory: no effect with --target"),
    ],
)
def test_refused_where_it_has_no_effect(options, message, capsys):
    status, _, err = call(train, capsys, TRAIN, "--memory", "8GB", *options)
    assert status == 2 and message in err


def trained(capsys, *options):
    status, out, err = call(train, capsys, TRAIN, *SMALL, *options)
    assert status == 0, err
    return out, json.loads(out.splitlines()[-1])


def test_trains_what_it_chose(capsys):
    out, results = trained(capsys, "--memory", "500GB", "--optimizer", "row-scale")
    (line,) = (x for x in out.splitlines() if x.startswith("memory: "))
    assert line.startswith("memory: float32, --optimizer row-scale: ") and "of 500.00 GB" in line
    assert results["predicted_bytes"] > 0 and results["memory_bytes"] == 500 * 10**9
    assert ", predicted " in out
    _, alone = trained(capsys, "--optimizer", "row-scale")
    assert alone["weights_sha256"] == results["weights_sha256"]
    assert "predicted_bytes" not in alone


def test_too_little_is_told_in_a_line(capsys):
    status, _, err = call(train, capsys, TRAIN, *SMALL, "--memory", "1MB")
    assert status == 2
    assert err.startswith("error: --memory 1.0 MB: must be at least ") and err.count("\n") == 1
    assert "bfloat16 with --optimizer row-scale" in err and "no network is small enough" in err


def test_a_resumed_run_stays_as_it_was_chosen(capsys, tmp_path):
    place = ["--checkpoint", str(tmp_path / "c")]
    stored = ["--dtype", "bfloat16", "--optimizer", "row-scale"]
    _, whole = trained(capsys, *place, *stored)
    out, resumed = trained(capsys, *place, "--resume", "--memory", "500GB")
    assert "memory: bfloat16, --optimizer row-scale: " in out
    assert resumed["weights_sha256"] == whole["weights_sha256"]
