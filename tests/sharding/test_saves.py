"""Saves in a directory that another run has used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparse_jax.sharding import mesh, saves, shard_rows


def save(directory: Path, value: float, step: int) -> None:
    rows = shard_rows(np.full(3, value, np.float32), mesh(1))
    saves.save(directory, rows.array, rows.dealing, step=step, extra={"value": value})


def restore(directory: Path) -> tuple[float, float]:
    """The value of the last save, by its rows and by its note."""
    like = shard_rows(np.zeros(3, np.float32), mesh(1))
    found = saves.restore(directory, like.array, like.dealing, mesh(1))
    assert found is not None
    return float(np.asarray(found.state).max()), found.extra["value"]


def test_a_new_run_s_saves_stay_and_those_of_later_steps_go(tmp_path: Path) -> None:
    for step in (20, 30):
        save(tmp_path, 1, step)
    for step in (8, 16, 24):
        save(tmp_path, 2, step)
        assert saves.last_step(tmp_path) == step and restore(tmp_path) == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000016", "000000024"]


def test_a_save_that_is_replaced_is_none_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 4)
    save(tmp_path, 1, 8)

    def killed(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(saves, "write_json", killed)  # after the rows, which are the new run's
        with pytest.raises(OSError, match="killed"):
            save(tmp_path, 2, 8)
    assert saves.last_step(tmp_path) == 4 and restore(tmp_path) == (1, 1)
