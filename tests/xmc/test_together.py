"""The shares of several processes, joined, are what one process trains, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sparse_jax import data, xmc
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.sharding.gathering import gather_arrays
from sparse_jax.xmc import crew, linear_parts
from sparse_jax.xmc.crew import Crew, Parts
from sparse_jax.xmc.presets import PRESETS
from sparse_jax.xmc.progress import silent
from sparse_jax.xmc.soft_labels import Weighted

pytestmark = pytest.mark.usefixtures("quick_compiles")

TRAIN = Path(__file__).parents[1] / "fixtures" / "xmc_tiny_train.txt"


@pytest.fixture(scope="module")
def points() -> data.XmcData:
    return data.read_xmc(str(TRAIN)).take(np.arange(300))


def train(
    points: Weighted, process: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Parts, np.ndarray]:
    """What one of so many processes trains, the others' counts being known."""
    mine = Crew(process, count)
    owners = mine.owners(points)
    job = linear_parts.Job(
        PRESETS["fast"], 0, None, False, Interrupt(), silent, on_network=None, crew=mine
    )
    early = points.take(np.arange(0, points.points.num_points, 2))
    monkeypatch.setattr(Crew, "total", lambda self, name, value: 40_000_000)  # 5 epochs of 20
    before, linear = linear_parts.fit_wide_twice(job, points, early, owners, {})
    return Parts(before, linear, linear_parts.fit_trees(job, 3, early, points)), owners


def same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_shares_joined_are_the_whole(
    points: data.XmcData, soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of labels, too, which are drawn: the draws of a share are those of the whole."""
    weights = np.random.default_rng(0).random(points.label_ids.size, np.float32)
    given = Weighted(points, 0.2 + 0.8 * weights if soft else None)
    whole, owners = train(given, 0, 1, monkeypatch)
    shares = [train(given, process, 3, monkeypatch)[0] for process in range(3)]
    assert [sorted(share.trees) for share in shares] == [[0], [1], [2]]
    sent = [crew._pack(share) for share in shares]
    owners = Crew(0, 3).owners(given)
    monkeypatch.setattr(crew, "gather_arrays", lambda name, arrays: sent)
    joined = crew.bring_together(Crew(0, 3), shares[0], owners)
    assert joined is not None
    same(joined.before, whole.before)
    same(joined.linear, whole.linear)
    same(joined.trees, whole.trees)
    monkeypatch.setattr(crew, "gather_arrays", lambda name, arrays: None)
    assert crew.bring_together(Crew(1, 3), shares[1], owners) is None


def test_a_network_travels_whole() -> None:
    rng = np.random.default_rng(1)
    params = {
        "embedding": rng.random((4, 2), np.float32),
        "hidden_bias": rng.random(2, np.float32),
        "output": rng.random((5, 2), np.float32),
        "output_bias": rng.random(5, np.float32),
    }
    points = data.XmcData(
        np.arange(3), np.zeros(2, np.int32), np.ones(2, np.float32),
        np.arange(3), np.zeros(2, np.int32), num_features=4, num_labels=5,
    )  # fmt: skip
    linear = xmc.wide.zeros(points)
    parts = Parts(linear, linear, {}, (jax.tree.map(jax.numpy.asarray, params), {"steps": 3}))
    same(crew._unpack(crew._pack(parts)), parts)


def test_labels_are_dealt_evenly_by_frequency() -> None:
    frequency = np.array([1, 900, 5, 800, 5, 0, 2, 2])
    ids = np.repeat(np.arange(8, dtype=np.int32), frequency)
    empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
    offsets = np.zeros(ids.size + 1, np.int64), np.arange(ids.size + 1)
    points = data.XmcData(offsets[0], *empty, offsets[1], ids, num_features=1, num_labels=8)
    owners = Crew(0, 2).owners(Weighted(points))
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]


def test_who_trains_trees_and_the_network() -> None:
    def trees(count: int, beside_network: bool) -> list[int]:
        return [Crew(0, count).tree(n, beside_network=beside_network) for n in range(4)]

    assert trees(1, True) == [0, 0, 0, 0] and trees(2, True) == [0, 0, 0, 0]
    assert trees(2, False) == [0, 1, 0, 1] and trees(3, True) == [0, 1, 0, 1]
    assert [Crew(0, count).network(0) for count in (1, 2, 3)] == [0, 1, 2]
    assert Crew(0, 3).network(1) == 0


def test_a_process_alone_gathers_its_own() -> None:
    arrays = {"a": np.arange(3), "b": np.zeros(0, np.float32)}
    assert gather_arrays("mine", arrays) == [arrays]


def test_checkpoints_are_refused_among_others(
    points: data.XmcData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_jax.sharding.processes.here", lambda: (1, 2))
    with pytest.raises(ValueError, match=r"checkpoint_directory = 'saves' among 2 processes: must"):
        xmc.fit_together(points, checkpoint_directory="saves")
