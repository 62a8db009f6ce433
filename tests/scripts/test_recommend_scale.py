"""Made-up histories of any size, and what the study of a recommender's growth tells."""

from __future__ import annotations

import json

import numpy as np
import pytest
import recommend_scale


def test_histories_follow_the_seed_and_the_sizes():
    first, again, other = (
        recommend_scale.make_histories(2000, 400, 12_000, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.items, again.items)
    assert not np.array_equal(first.items[:1000], other.items[:1000])
    assert first.num_items == 2000 and first.num_users == 400
    assert first.lengths.min() >= 3 and abs(len(first.items) / 12_000 - 1) < 0.05
    assert first.items.min() >= 0 and first.items.max() < 2000
    counts = np.sort(np.bincount(first.items, minlength=2000))[::-1]
    assert counts[:200].sum() > 0.5 * counts.sum()  # a power law


def test_users_stay_in_a_group_and_follow_their_last_items():
    histories = recommend_scale.make_histories(2000, 400, 12_000, seed=0)
    starts = np.zeros(len(histories.items), bool)
    starts[histories.offsets[:-1]] = True
    later = np.flatnonzero(~starts)
    group = histories.items // 500
    assert (group[later] == group[later - 1]).mean() > 0.85
    later = later[~starts[later - 1]]
    step = (histories.items[later] - histories.items[later - 2]) % 500
    assert np.isin(step, (1, 8, 15)).mean() > 0.12  # by chance about .02


def test_the_study_tells_its_figures(tmp_path, capsys):
    sizes = ["--items", "1000", "--users", "300", "--events", "6000"]
    assert recommend_scale.main([*sizes, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["hr@10"] > 0.1 and figures["markov_hr@10"] > 0.1
    assert figures["users_asked"] > 100 and figures["peak_rss_bytes"] >= figures["rss_before_bytes"]


def test_sizes_that_make_no_histories_are_refused(capsys):
    with pytest.raises(SystemExit):
        recommend_scale.main(["--users", "10", "--events", "20"])
    assert "--events four for each user" in capsys.readouterr().err
