"""`sparse-jax recommend ...`: train, predict, evaluate, relate, update, as a person uses them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from in_process import call
from walks import SMALL, chains

from sparse_jax import data, recommend
from sparse_jax.commands import main as program
from sparse_jax.commands.recommend import update as recommend_update
from sparse_jax.recommend import presets

pytestmark = pytest.mark.usefixtures("quick_compiles")


def run(capsys, *options: str) -> tuple[int, str, str]:
    return call(program, capsys, "recommend", *options, whole=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Histories as lines and as events, and a model that was not trained on the last ones."""
    place = tmp_path_factory.mktemp("recommend")
    histories = chains()
    lines, events = [], ["who,item,time"]
    for user in range(histories.num_users):
        items = [histories.item_names[i] for i in histories.of(user)]
        lines.append(" ".join([f"u{user}", *items]))
        events += [f"u{user},{item},{at}" for at, item in enumerate(items)]
    (place / "lines.txt").write_text("\n".join(lines) + "\n")
    (place / "events.csv").write_text("\n".join(events) + "\n")
    status = program.main(
        [
            *("recommend", "train", str(place / "lines.txt"), "--model", str(place / "m")),
            *("--preset", "linear", "--hold-out", "last", "--json", str(place / "r.json")),
        ]
    )
    assert status == 0
    return place


def test_training_reports_and_keeps_a_model(folder):
    results = json.loads((folder / "r.json").read_text())
    split = data.leave_one_out(data.read_histories(folder / "lines.txt"))
    found = recommend.evaluate(recommend.load(folder / "m"), split.contexts, split.targets)
    assert results["hr@10"] == found["hr@10"] > 0.5 and results["preset"] == "linear"
    assert results["peak_rss_bytes"] > 0 and results["train_seconds"] > 0


@pytest.mark.slow
def test_a_preset_with_an_encoder(folder, capsys, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "fast", SMALL)
    status, out, _ = run(
        capsys, "train", str(folder / "events.csv"), "--user", "who", "--hold-out", "8"
    )
    assert status == 0 and "HR@1/5/10/20" in out
    assert json.loads(out.splitlines()[-1])["users"] < 300


def test_predictions_are_those_of_the_library(folder, capsys):
    model = recommend.load(folder / "m")
    histories = data.read_histories(folder / "lines.txt")
    here = recommend.predict(model, histories, k=3)
    asked = ("predict", str(folder / "m"), str(folder / "lines.txt"), "--top-k", "3")
    status, out, _ = run(capsys, *asked)
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [row[0] for row in rows] == list(histories.user_names)
    assert [row[1::2] for row in rows] == [model.names(items) for items in here.items]
    np.testing.assert_allclose(np.array([row[2::2] for row in rows], float), here.scores, rtol=1e-5)


def test_formats_files_and_known_users(folder, capsys, monkeypatch, tmp_path):
    out = tmp_path / "p.jsonl"
    known = ("--known", "u3", "--known", "u1", "--format", "jsonl")
    options = ("predict", str(folder / "m"), *known, "--output", str(out), "--with-seen")
    status, _, _ = run(capsys, *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and [row["user"] for row in rows] == ["u3", "u1"]
    assert len(rows[0]["items"]) == len(rows[0]["scores"]) == 10

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ann i7 nothing\n")))
    status, text, _ = run(capsys, "predict", str(folder / "m"), "-", "--top-k", "1")
    assert status == 0 and text.split("\t")[:2] == ["ann", "i8"]


def test_evaluating_again_says_the_same(folder, capsys):
    status, out, _ = run(capsys, "evaluate", str(folder / "m"), str(folder / "lines.txt"))
    assert status == 0
    figures = json.loads(out.splitlines()[-1])
    assert figures["hr@10"] == json.loads((folder / "r.json").read_text())["hr@10"]
    assert figures["predict_us"] > 0


def test_related_items(folder, capsys):
    status, out, _ = run(capsys, "related", str(folder / "m"), "i7", "i9", "--top-k", "2")
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [row[0] for row in rows] == ["i7", "i9"]
    assert set(rows[0][1::2]) == {"i6", "i8"}


def test_trained_targets_and_events_given_twice_are_told(folder, capsys, tmp_path):
    log, kept = tmp_path / "log.txt", str(tmp_path / "m")
    log.write_text("".join(f"u{n} i{n % 7} i{n % 5 + 7} i{n % 3}\n" for n in range(40)))
    assert run(capsys, "train", str(log), "--model", kept, "--preset", "linear")[0] == 0
    status, out, err = run(capsys, "evaluate", kept, str(log))
    assert status == 0 and "warning: the model was trained on the held-out items of 40" in err
    assert json.loads(out.splitlines()[-1])["learned_targets"] == 40
    status, _, err = run(capsys, "update", kept, str(log))
    assert status == 2 and "must be new events alone" in err


def test_updating_a_kept_model(folder, capsys, tmp_path):
    recommend.save(recommend.load(folder / "m"), tmp_path / "m")
    (tmp_path / "new.txt").write_text("".join(f"new{n} i7 salt\n" for n in range(30)))
    status, out, _ = run(capsys, "update", str(tmp_path / "m"), str(tmp_path / "new.txt"))
    assert status == 0 and "60 events" in out and "30 new users, 1 new items" in out
    model = recommend.load(tmp_path / "m")
    assert "salt" in model.names(recommend.predict(model, [["i7"]], k=2).items[0])


def test_an_update_begins_with_what_the_last_one_kept(folder, capsys, monkeypatch, tmp_path):
    recommend.save(recommend.load(folder / "m"), tmp_path / "m")
    (tmp_path / "new.txt").write_text("mine i7 salt\n")
    taken = recommend_update.locked

    def after_another(directory):  # which ends just before this one has its turn
        events = data.of_lists([["i7", "pepper"]], users=["theirs"])
        recommend.save(recommend.update(recommend.load(directory), events), directory)
        return taken(directory)

    monkeypatch.setattr(recommend_update, "locked", after_another)
    status, _, _ = run(capsys, "update", str(tmp_path / "m"), str(tmp_path / "new.txt"))
    model = recommend.load(tmp_path / "m")
    assert status == 0 and {"salt", "pepper"} <= set(model.item_names)
    assert {"mine", "theirs"} <= set(model.recent.user_names)
    assert run(capsys, "update", str(tmp_path / "none"), str(tmp_path / "new.txt"))[0] == 2
    assert not (tmp_path / "none").exists()


def test_names_with_tabs_and_lines_keep_their_cells(capsys, tmp_path):
    rows = '{"user": "u\\t1", "item": "green\\ttea"}\n{"user": "u\\t1", "item": "two\\nlines"}\n'
    (tmp_path / "e.jsonl").write_text(rows)
    model, file = str(tmp_path / "m"), str(tmp_path / "e.jsonl")
    assert run(capsys, "train", file, "--preset", "linear", "--model", model)[0] == 0
    status, out, _ = run(capsys, "predict", model, file, "--with-seen", "--top-k", str(10**12))
    cells = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [sorted(row[1::2]) for row in cells] == [["green tea", "two lines"]]
    assert cells[0][0] == "u 1"
    status, out, _ = run(capsys, "related", model, "green\ttea", "--top-k", str(10**20))
    assert status == 0 and [line.split("\t")[:2] for line in out.splitlines()] == [
        ["green tea", "two lines"]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("predict", "{m}", "{none}"), "none.txt"),
        (("predict", "{m}"), "give FILE, or --known USER"),
        (("predict", "{m}", "{lines}", "--top-k", "0"), "--top-k 0: must be at least 1"),
        (("predict", "{m}", "--known", "nobody"), "--known nobody: must be a user"),
        (("predict", "{m}", "--known", "u1", "--user", "who"), "--user: no effect with --known"),
        (("predict", "{none}", "{lines}"), "no model.json"),
        (("related", "{m}", "nothing"), "item = 'nothing': must be one"),
        (("train", "{lines}"), "--model MODEL or --hold-out last: must have one"),
        (("train", "{lines}", "--hold-out", "soon"), "'soon': must be `last`, a number or a date"),
        (("train", "{lines}", "--hold-out", "7"), "histories have no times"),
        (("train", "{events}", "--model", "{new}"), "must have one column of users"),
        (("train", "{lines}", "--model", "{new}", "--user", "u"), "name the column of users"),
        (("update", "{m}", "{bad}"), "line 2: has a user, 'b', and no item"),
        (("forget",), "no command"),
    ],
)
def test_mistakes_end_with_a_line(folder, capsys, tmp_path, options, message):
    (tmp_path / "bad.txt").write_text("a i1\nb\n")
    names = {
        "m": folder / "m",
        "lines": folder / "lines.txt",
        "events": folder / "events.csv",
        "bad": tmp_path / "bad.txt",
        "none": tmp_path / "none.txt",
        "new": tmp_path / "new",
    }
    status, out, err = run(capsys, *(option.format(**names) for option in options))
    assert status == 2 and message in err and "Traceback" not in err and not out


def test_a_model_of_another_kind_stays(capsys, folder, tmp_path):
    from sparse_jax.runtime import saved

    saved.save(tmp_path, kind="xmc", config={}, arrays={"w": np.ones(1)})
    status, _, err = run(
        capsys, "train", str(folder / "lines.txt"), "--preset", "linear", "--model", str(tmp_path)
    )
    assert status == 2 and "holds a model of kind 'xmc'" in err
    status, _, err = run(capsys, "predict", str(tmp_path), str(folder / "lines.txt"))
    assert status == 2 and "must be 'recommend'" in err


def test_what_is_odd_is_told(capsys, tmp_path):
    (tmp_path / "e.csv").write_text("user,item,time\nu,a,1\nu,a,1\nu,b,2\n")
    options = ("--preset", "linear", "--model", str(tmp_path / "m"))
    status, _, err = run(capsys, "train", str(tmp_path / "e.csv"), *options)
    assert status == 0 and "1 events that come twice count once" in err


def test_items_that_the_model_does_not_know_are_spoken_of(folder, capsys, tmp_path):
    (tmp_path / "other.txt").write_text("u0 A.0 B.0\nu1 C.0\n")
    status, out, err = run(capsys, "predict", str(folder / "m"), str(tmp_path / "other.txt"))
    assert status == 0 and len(out.splitlines()) == 2
    assert "doesn't know the items of 3 of 3 events" in err and "as 'A.0'" in err
    status, _, err = run(capsys, "predict", str(folder / "m"), str(folder / "lines.txt"))
    assert (status, err) == (0, "")
