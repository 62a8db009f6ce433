"""One model from 1, 2 and 4 processes, bit for bit, and the points that it keeps."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharded_command

from sparse_jax import data, xmc
from sparse_jax.commands import launch
from sparse_jax.sharding import Dealing, mesh
from sparse_jax.xmc import memory, sharded_points, sharded_samples

PROGRAM = sharded_command.__file__
POINTS = 400


def write_points(path: Path) -> str:
    """Points of which no two are equal; the first line is as long as fifty others."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(POINTS):
        ids = np.unique(rng.integers(0, 60, 300 if row == 0 else 6))
        lines.append(f"{row % 7},{7 + row % 5} " + " ".join(f"{i}:{1 + row}" for i in ids))
    path.write_text("\n".join([f"{POINTS} 60 12", *lines]) + "\n")
    return str(path)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_one_two_and_four_processes_make_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight shards each: weights, what scores mean, and the memory are the same bytes."""
    path = write_points(tmp_path / "points.txt")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(PROGRAM).parent), *sys.path]))
    sizes = ["--hidden", "8", "--epochs", "2", "--batch-size", "16", "--shards", "8"]
    for count in (1, 2, 4):
        model = str(tmp_path / f"model{count}")
        program = [sys.executable, PROGRAM, path, "--model", model, *sizes]
        assert launch.launch(program, count, f"127.0.0.1:{launch.free_port()}") == 0
    one, *others = (files(tmp_path / f"model{count}") for count in (1, 2, 4))
    assert "model.json" in one and any(name.endswith(".npz") for name in one)
    assert all(other == one for other in others)
    # What a model of one machine would keep of the points, those of all processes.
    monkeypatch.setattr(memory, "KEPT", sharded_command.KEPT)
    expected = memory.keep(data.read_xmc(path), seed=0)
    found = xmc.load(str(tmp_path / "model4")).memory
    for name, array in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert found.label_offsets.size == 1 + sharded_command.KEPT


@pytest.mark.parametrize("kept", [POINTS, 60])
def test_what_is_kept_depends_on_all_points_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    path = write_points(tmp_path / "points.txt")
    monkeypatch.setattr(memory, "KEPT", kept)
    read = sharded_points.read(path, mesh(), sharded_points.Options(seed=3))
    found: Any = sharded_samples.gather(read.kept, mesh())
    assert found.num_points == kept
    expected = memory.keep(data.read_xmc(path), seed=3)
    for name, array in vars(memory.keep(found, seed=3)).items():
        np.testing.assert_array_equal(getattr(expected, name), array)


def test_owners_are_those_of_each_id_whatever_the_length() -> None:
    dealing = Dealing(60, 4, "hash")
    for count in (0, 5, 129):
        ids = np.random.default_rng(count).integers(0, 60, count, np.int32)
        found = sharded_points._owners(ids, dealing)
        np.testing.assert_array_equal(found, dealing.place(ids)[0])


@pytest.mark.parametrize("counts", [[200], [0, 200], [1, 0, 60, 139], [50] * 4])
def test_rows_of_all_are_those_of_the_shares(counts: list[int]) -> None:
    for chosen in (sharded_samples.held_out(200, 5), memory.sample(200, seed=5)):
        parts = sharded_samples.of_shares(chosen, counts)
        starts = np.cumsum([0, *counts[:-1]])
        assert all(((rows >= 0) & (rows < n)).all() for rows, n in zip(parts, counts, strict=True))
        moved = [rows + start for rows, start in zip(parts, starts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(moved), chosen)
