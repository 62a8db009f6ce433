"""The study of thumbs: what its user likes, errs at, and how a choice is judged."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

import thumbs

from sparse_jax.search.thumbs import read_thumbs


def asked(count: int) -> list[dict]:
    """Questions with four answers, the first the longest, of which the last two name the topic."""
    found = []
    for number in range(count):
        told = [
            ["It is long and says much.", "It goes on and on."],
            ["It is short."],
            ["Zorn is long and says much here."],
            ["Zorn is short."],
        ]
        answers = [{"s": one, "src": ["d"] * len(one), "text": " ".join(one)} for one in told]
        found.append({"question": f"Q{number}?", "title": "Zorn disease", "answers": answers})
    return found


def test_the_taste_likes_the_topic_and_dislikes_length():
    likes = [thumbs.taste("Zorn disease", one["s"]) for one in asked(1)[0]["answers"]]
    assert likes == sorted(likes) and likes[3] == 1 - 3 / 60 and likes[1] == -3 / 60
    told = (["Zorn is (so)."], ["Zorn has 3."], ["It has 3."], ["Zorn has."], ["It has."])
    assert [thumbs.taste("Zorn", one, "plain") for one in told] == [0, 0, -1, 1, 0]


def test_the_user_errs_at_a_tenth(tmp_path):
    thumbs.give_thumbs(tmp_path, asked(100), which="short", seed=0)
    given = np.array([one.is_up for one in read_thumbs(tmp_path)]).reshape(100, 4)
    wrong = given != np.array([False, False, True, True])
    assert 0.06 < wrong.mean() < 0.14
    thumbs.give_thumbs(
        tmp_path, asked(100), which="short", seed=1
    )  # in the place of the ones before
    again = np.array([one.is_up for one in read_thumbs(tmp_path)]).reshape(100, 4)
    assert (again != given).any()


def test_choices_are_judged_by_the_taste_against_the_first_answer(tmp_path, monkeypatch):
    thumbs.give_thumbs(tmp_path, asked(80), "short", 0)
    count = len(thumbs.pair_up(read_thumbs(tmp_path), seed=0).test)
    monkeypatch.setattr(thumbs.search, "load", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(thumbs, "answer", lambda *_: None)
    for scores, told, completed in (
        ([0, 0, 0, 1], 1.0, ["Zorn is short."]),
        ([1, 0, 0, 0], 0.5, asked(1)[0]["answers"][0]["s"]),
    ):
        judge = SimpleNamespace(score=lambda *_, scores=scores: np.array(scores))
        judge = judge if any(scores[1:]) else None  # without one the completed answer is shown
        monkeypatch.setattr(
            thumbs, "complete", lambda *_, text=completed: SimpleNamespace(sentences=text)
        )
        tuned = SimpleNamespace(judge=judge, model=SimpleNamespace(vocabulary=None))
        found = thumbs.judge_run(asked(80), tmp_path, tuned, "short", 0, 5)
        assert found["judge"] == told == found["tuned"]
        assert 0.8 < found["taste"] <= 1 and 0.3 < found["length"] < found["taste"]
        assert found["judge_interval"] == thumbs.interval(told, count)
