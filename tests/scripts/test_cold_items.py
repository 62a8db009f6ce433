"""The study of items that a model has never seen, on a small set."""

from __future__ import annotations

import json

import cold_items
import numpy as np
import pytest
from walks import chains

from sparse_jax import data

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_ranks_are_those_of_sorting():
    rng = np.random.default_rng(0)
    contexts = data.of_lists([["a", "b"], ["c"], ["d", "e", "f"]])
    scores, targets = rng.random((3, 6)).round(1), np.array([3, 4, 0])
    among = np.array([1, 1, 1, 1, 1, 0], bool)
    found = cold_items.ranks(lambda part: scores, contexts, targets, among)
    for user in range(3):
        left = [i for i in range(5) if i not in contexts.of(user)]
        assert found[user] == sum(scores[user, i] >= scores[user, targets[user]] for i in left)


def test_the_study_runs(tmp_path):
    histories = chains(400)
    lines = (
        " ".join([f"u{user}", *(histories.item_names[i] for i in histories.of(user))])
        for user in range(histories.num_users)
    )
    (tmp_path / "h.txt").write_text("\n".join(lines) + "\n")
    rows = (f"i{i},word{i} word{(i + 1) % 40} word{(i + 2) % 40}" for i in range(40))
    (tmp_path / "i.csv").write_text("\n".join(["item,text", *rows]) + "\n")
    files = (str(tmp_path / name) for name in ("h.txt", "i.csv"))
    assert cold_items.main([*files, "--json", str(tmp_path / "r.json")]) == 0
    (found,) = json.loads((tmp_path / "r.json").read_text())
    assert found["all: ours hr@10"] > found["all: random hr@10"]
    assert found["loss of ndcg@10"] < 0.05
