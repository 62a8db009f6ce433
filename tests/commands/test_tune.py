"""`search tune`: pairs of thumbs, what is held out, and a taste that is learned."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from scipy import stats
from search_page import D, save
from small_writer import save_model

from sparse_jax import lm, search
from sparse_jax.commands import search as command
from sparse_jax.commands.search import tune, written
from sparse_jax.commands.search.thumb_pairs import MIN_QUESTIONS, interval, pair_up
from sparse_jax.lm.preference import judge
from sparse_jax.lm.text import read_texts
from sparse_jax.search.answers import answer
from sparse_jax.search.thumbs import FILE, Thumb, Thumbs

pytestmark = pytest.mark.usefixtures("quick_compiles")


def thumb(question: str, answer: str, is_up: bool) -> Thumb:
    return Thumb(question, answer, ("d",), is_up)


# ------------------------------------------------------------------------------------------- pairs


def usual(count: int = MIN_QUESTIONS) -> list[Thumb]:
    """So many questions, each with one answer that is liked and one that is not."""
    return [thumb(f"Q{n}?", text, text == "yes") for n in range(count) for text in ("yes", "no")]


def test_each_liked_answer_is_paired_with_each_other_one():
    log = [*usual(40), *(thumb("Q7?", text, text == "aye") for text in ("aye", "never"))]
    found = pair_up(log, seed=0)
    pairs = [pair[1:3] for pair in found.train + found.test if pair.prompt == "Q7?"]
    assert found.train_questions + len(found.test) == 40 == found.questions and found.thumbs == 82
    if len(pairs) > 1:
        assert pairs == [("yes", "no"), ("yes", "never"), ("aye", "no"), ("aye", "never")]
    whole = {pair.prompt: 0 for pair in found.train}
    for pair in found.train:
        whole[pair.prompt] += 1
    assert sorted(set(whole.values()) | {4}) == [1, 4]


def test_ties_give_none_and_the_newest_thumb_counts():
    log = usual()
    log += [thumb("tie?", "a", True), thumb("tie?", "b", True), thumb("alone?", "a", False)]
    log += [thumb("turn?", "a", True), thumb("turn?", "b", False)]
    log += [thumb(" TURN?", "a", False), thumb("turn?", "b", True)]  # a change of mind
    log += [thumb("undone?", "a", True), thumb("undone?", "b", False), thumb("undone?", "b", True)]
    found = pair_up(log, seed=0)
    pairs = {pair.prompt.strip().casefold(): pair[1:3] for pair in found.train + found.test}
    assert not {"tie?", "alone?", "undone?"} & set(pairs)
    assert pairs["turn?"] == ("b", "a") and len(pairs) == MIN_QUESTIONS + 1
    assert (found.thumbs, found.questions) == (2 * MIN_QUESTIONS + 7, MIN_QUESTIONS + 4)


def test_whole_questions_are_held_out_and_judge_with_one_pair_each():
    log = [thumb(f"Q{n}?", f"{m}", m < 2) for n in range(60) for m in range(4)]
    found = pair_up(log, seed=0)
    sides = [{pair.prompt for pair in side} for side in (found.train, found.test)]
    assert not sides[0] & sides[1] and len(sides[1]) == 15 == len(found.test)
    assert len(found.train) == 45 * 4
    assert len({pair[1:3] for pair in found.test}) > 1  # not always the first one
    again = pair_up(log, seed=1)
    assert {pair.prompt for pair in again.test} != sides[1]
    assert found == pair_up(log, seed=0)
    shuffled = random.Random(0).sample(log, len(log))
    assert {pair.prompt for pair in pair_up(shuffled, seed=0).test} == sides[1]


def test_too_few_thumbs_are_refused():
    assert pair_up(usual(), seed=0).test
    log = [*usual(MIN_QUESTIONS - 1), thumb("tie?", "a", True)]
    with pytest.raises(ValueError, match=r"thumbs = 19 questions .* of 20 with any: must be at"):
        pair_up(log, seed=0)


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (1, 5), (5, 5), (31, 40), (200, 400)])
def test_the_interval_is_exact(wins, count):
    known = stats.binomtest(wins, count).proportion_ci(0.95, method="exact")
    assert interval(wins / count, count) == pytest.approx((known.low, known.high))


def test_a_draw_widens_the_interval():
    assert interval(3.5 / 10, 10) == (interval(0.3, 10)[0], interval(0.4, 10)[1])


# ----------------------------------------------------------------------------------------- command

NOUNS = ("plum", "rot", "glim", "tin", "oak", "elm", "fir", "yew", "bay", "fig")
LIKED, OTHER = "bad but long", "good and fine"  # the model finds the other likelier


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An index whose thumbs like one kind of answer, and a model of its words."""
    folder = tmp_path_factory.mktemp("tune")
    texts = [f"The {noun} is {how}." for noun in NOUNS for how in (OTHER, LIKED)]
    save(folder / "i", [D(f"d{n}", text) for n, text in enumerate(texts)])
    save_model(folder / "m", [*texts, "What is a so near?"])
    thumbs = Thumbs(folder / "i")
    for noun in NOUNS:
        for other in NOUNS[:4]:
            for how in (LIKED, OTHER):
                question = f"What is a {noun} so near {other}?"
                thumbs.add(thumb(question, f"The {noun} is {how}.", how == LIKED))
    thumbs.close()
    return folder


@pytest.mark.slow
def test_a_taste_is_learned(place, tmp_path, capsys):
    options = ["--model", str(place / "m"), "--save", str(tmp_path / "t"), "--length", "8"]
    options += ["--epochs", "10", "--lr", "0.01", "--json", str(tmp_path / "r.json")]
    before = {path.name: path.read_bytes() for path in (place / "m").rglob("*") if path.is_file()}
    assert command.main(["tune", str(place / "i"), *options]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert json.loads(out.splitlines()[-1]) == found
    assert "80 thumbs on answers to 40 questions: 30 pairs of 30 questions" in out
    assert (found["thumbs"], found["test_questions"], found["train_pairs"]) == (80, 10, 30)
    for name in ("reward_win_rate", "win_rate_after", "log_prob_win_rate_after"):
        assert found[name] == 1.0, name
        assert found[f"{name}_interval"] == list(interval(1.0, 10))
    assert "  after         win rate 1.000 (0.692 to 1.000)\n" in out
    assert found["win_rate_before"] < 0.5 and found["perplexity_after"] > 1
    tuned, base = lm.load(tmp_path / "t"), lm.load(place / "m")
    assert list(tuned.record.pairs) == read_texts([str(place / "i" / FILE)]).sources
    texts = [f"What is a fir so near oak? The fir is {how}." for how in (LIKED, OTHER)]
    gained = tuned.score(texts).log10_p - base.score(texts).log10_p
    assert gained[0] > gained[1]
    after = {path.name: path.read_bytes() for path in (place / "m").rglob("*") if path.is_file()}
    assert after == before  # the model that it began with
    np.testing.assert_array_equal(tuned.params["out"], base.params["out"])
    judged_answers_come_first(place, tmp_path / "t")


def judged_answers_come_first(place: Path, tuned: Path) -> None:
    """What the tuned model writes is what was liked, and not what the base writes."""
    with search.load(place / "i", read_only=True) as index:
        known = [answer(index, f"What is a {noun}?", k=3) for noun in NOUNS]
    base, author = written.open_author(str(place / "m")), written.open_author(str(tuned))
    assert base.judge is None and author.judge is not None
    best = [written.write(author, one, max_words=12) for one in known]
    assert all(len(several) == 1 for several in best)
    assert sum(LIKED in several[0].sentences[0] for several in best) >= 9
    turned = {name: -array for name, array in author.judge.params.items()}
    other = author._replace(judge=dataclasses.replace(author.judge, params=turned))
    worst = [written.write(other, one, max_words=12)[0] for one in known]
    assert sum(LIKED in one.sentences[0] for one in worst) <= 1
    drafts = written.write(author, known[0], drafts=2, max_words=12)
    assert drafts[0] == best[0][0] and len({one.text for one in drafts}) == len(drafts) > 1
    other = shutil.copytree(tuned, tuned.parent / "other")
    lm.save(base.model, other)
    with pytest.raises(ValueError, match=r"judge was made for a model that was in .* tune anew"):
        written.open_author(str(other))


def test_a_judge_that_guesses_is_not_kept(tmp_path):
    params = {"match": np.zeros((2, 2), np.float32), "pairs": np.zeros(4, np.float32)}
    one = judge.Judge(params, np.ones((5, 2), np.float32), history=4, length=4)
    model = save_model(tmp_path / "m", ["plum"])
    for low, author in ((0.51, True), (0.5, False), (0.5, False), (0.51, True)):
        tune._keep_judge(one, model, low)
        assert (written.open_author(str(model)).judge is not None) is author


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "{place}/i"], "search index"),
        (["--model", "{place}/i"], "no model.json"),
        (["--lr", "0"], "--lr 0.0: must be above 0"),
        (["--epochs", "0"], "--epochs 0: must be above 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
    ],
)
def test_mistakes_are_said(place, tmp_path, capsys, options, message):
    given = ["--model", str(place / "m"), "--save", str(tmp_path / "t")]
    given += [one.format(place=place) for one in options]
    try:
        status = command.main(["tune", str(place / "i"), *given])
    except SystemExit as done:
        status = done.code
    out, err = capsys.readouterr()
    assert status == 2 and message in err and out == "" and not (tmp_path / "t").exists()


def test_an_index_without_thumbs_is_told_where_they_come_from(place, tmp_path, capsys):
    save(tmp_path / "i", [D("a", "plum"), D("b", "fig")])
    given = ["--model", str(place / "m"), "--save", str(tmp_path / "t")]
    assert command.main(["tune", str(tmp_path / "i"), *given]) == 2
    err = capsys.readouterr().err
    assert "thumbs = 0 questions" in err and "sparse-jax serve DIR --model LM" in err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        command.main(["tune", "--help"])
    out = capsys.readouterr().out
    assert "sparse-jax serve DIR --model TUNED" in out and "A quarter of" in out
