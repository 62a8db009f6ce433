"""The study of thumbs: what its user likes, errs at, and how a choice is judged."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

import thumbs
from small_writer import save_model

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


MEDQUAD = [
    {"id": f"d{n}", "title": title, "split": split, "question": f"What is {title}?"}
    | {"text": f"{title} type {n} is a stone. It is red. Old men dig {n} of it. It is sold."}
    for n in range(6)
    for title, split in (("zorn", "test"), ("quell", "train"))
]


def test_answers_are_made_once_of_an_index_that_lacks_some_topics(tmp_path, monkeypatch):
    model = save_model(tmp_path / "m", [row["text"] for row in MEDQUAD])
    monkeypatch.setattr(thumbs, "is_taken_out", lambda row: row["title"] == "quell")
    index, path = tmp_path / "i", tmp_path / "not" / "there" / "answers.jsonl"
    thumbs.make_index(index, MEDQUAD)
    with thumbs.search.load(index, read_only=True) as opened:
        assert set(thumbs.search.list_ids(opened)) == {f"d{n}" for n in range(6)}
    thumbs.make_answers(path, MEDQUAD, index, str(model), 1)
    (row,) = (json.loads(line) for line in path.read_text().splitlines())
    assert (row["question"], row["title"]) == ("What is zorn?", "zorn")
    texts = [one["text"] for one in row["answers"]]
    assert len(set(texts)) == len(texts) >= thumbs.LEAST
    for one in row["answers"]:
        assert len(one["src"]) == len(one["s"]) and one["text"].startswith(one["s"][0])
    before = path.read_bytes()
    thumbs.make_answers(path, [], index, "no model", 1)  # nor is one opened
    assert path.read_bytes() == before


def test_what_would_end_in_no_figure_is_refused_at_once(capsys):
    with pytest.raises(SystemExit):
        given = ["m", "--model", "l", "--answers", "a", "--dir", "d", "--completed", "0"]
        thumbs.parse_args(given)
    assert "--completed 0: must be above 0" in capsys.readouterr().err


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
