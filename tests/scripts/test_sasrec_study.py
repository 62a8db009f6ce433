"""The study of SASRec, on a small set."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sasrec
from walks import chains

pytestmark = [pytest.mark.usefixtures("quick_compiles"), pytest.mark.slow]


@pytest.fixture
def file(tmp_path):
    histories = chains(200)
    lines = (
        " ".join([f"u{user}", *(histories.item_names[i] for i in histories.of(user))])
        for user in range(histories.num_users)
    )
    (tmp_path / "h.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "h.txt")


def test_training_keeps_and_tells(file, tmp_path):
    options = ("--checkpoint", str(tmp_path / "c.npz"), "--json", str(tmp_path / "r.json"))
    assert sasrec.main(["train", file, "--max-cpu-seconds", "0.01", *options]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["ended"] == "processor seconds" and found["epochs"] == 1 and "hr@10" in found
    with np.load(tmp_path / "c.npz") as kept:
        assert len(kept.files) == 16


def test_searching_tells_validation_alone(file, tmp_path):
    options = ("--first", "1", "--max-cpu-seconds", "0.01", "--json", str(tmp_path / "r.json"))
    assert sasrec.main(["search", file, *options]) == 0
    (found,) = json.loads((tmp_path / "r.json").read_text()).values()
    assert found["validation_ndcg@10"] >= 0 and "hr@10" not in found


def test_steps_by_turns(tmp_path):
    options = ("--items", "3000", "--turns", "2", "--json", str(tmp_path / "r.json"))
    assert sasrec.main(["step", *options]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["fast ms an example"] > 0 and len(found["ratios"]) == 2
