"""Sizes that a file's first line promises: refused where no memory holds them, else any number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from in_process import call

from sparse_jax import data, xmc
from sparse_jax.commands.xmc import train, train_sharded
from sparse_jax.runtime import machine
from sparse_jax.xmc import sizes
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

pytestmark = pytest.mark.usefixtures("quick_compiles")

LABELS = "1 10 2000000000\n1999999999 3:1 4:1\n"
FEATURES = "1 2000000000 10\n3 1999999999:1 4:1\n"


@pytest.fixture
def memory(monkeypatch):
    """Gives the machine some memory."""

    def of(size):
        monkeypatch.setattr(sizes, "memory_bytes", lambda: size)

    return of


@pytest.fixture(scope="module")
def points():
    return data.XmcData(
        np.arange(0, 81, 2),
        np.array([[i % 4, 4 + i % 3] for i in range(40)], np.int32).ravel(),
        np.ones(80, np.float32),
        np.arange(41),
        np.arange(40, dtype=np.int32) % 4,
        num_features=8,
        num_labels=4,
    )


@pytest.mark.parametrize("content", [LABELS, FEATURES])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        (train, ["--preset", "fast"]),
        (train, ["--preset", "accurate", "--weighting", "none"]),
        (train, ["--hidden", "1"]),
        (train_sharded, ["--hidden", "8"]),
    ],
)
def test_forty_bytes_that_ask_for_all_memory_are_refused(
    content, module, options, memory, tmp_path, capsys
):
    memory(64_000_000_000)
    (tmp_path / "x.txt").write_text(content)
    status, _, err = call(module, capsys, str(tmp_path / "x.txt"), *options)
    assert status == 2 and "2,000,000,000" in err
    assert "must fit into memory, 64.0 GB, of which training takes at least" in err
    assert "the points use 1 labels and 2 features: correct the sizes" in err


def test_labels_that_no_point_has_are_welcome(points, memory):
    memory(100_000_000)
    many = dataclasses.replace(points, num_labels=200_000)
    found = xmc.predict(xmc.fit(many), points, k=1).labels[:, 0]
    assert (found == points.label_ids).all()


def test_a_network_is_refused_by_what_its_tables_take(points, memory):
    options = Options(hidden=16, epochs=1)
    floats = 3 * ((8 + 4) * 16 + 4 + 16)  # weights, and Adam's two moments
    memory(4 * floats - 1)
    with pytest.raises(ValueError, match=r"num_labels = 4, num_features = 8: must fit into"):
        NetworkRun(options, points)
    memory(4 * floats + 1000)  # a key, counts of steps
    NetworkRun(options, points)


def test_the_memory_of_this_machine_is_known():
    assert machine.rss_bytes() < machine.memory_bytes() < 1e15
