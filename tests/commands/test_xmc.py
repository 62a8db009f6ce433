"""`sparse-jax xmc ...`: train, predict, evaluate, update and inspect, as a person uses them."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from in_process import call

from sparse_jax import data, xmc
from sparse_jax.commands import main as program
from sparse_jax.commands.xmc import points

pytestmark = pytest.mark.usefixtures("quick_compiles")

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))


def run(capsys, *options: str) -> tuple[int, str, str]:
    return call(program, capsys, "xmc", *options, whole=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with names of labels and features, as the command trains it."""
    place = tmp_path_factory.mktemp("xmc")
    (place / "labels.txt").write_text("".join(f"package-{i}\n" for i in range(500)))
    words = "".join(f"word{i}\n" for i in range(4000))
    (place / "words.txt.gz").write_bytes(gzip.compress(words.encode()))
    status = program.main(
        [
            *("xmc", "train", TRAIN, "--test", TEST, "--model", str(place / "m")),
            *("--labels", str(place / "labels.txt")),
            *("--vocabulary", str(place / "words.txt.gz"), "--json", str(place / "r.json")),
        ]
    )
    assert status == 0
    return place


def test_training_reports_and_keeps_a_model(folder):
    results = json.loads((folder / "r.json").read_text())
    assert results["preset"] == "fast" and results["p@1"] > 0.45 and results["ece"] < 0.06
    assert 0 < results["madds"] and results["dense_madds"] > 0
    model = xmc.load(folder / "m")
    predicted = xmc.predict(model, data.read_xmc(TEST))
    assert xmc.evaluate(predicted, data.read_xmc(TEST))["p@1"] == results["p@1"]


def test_predictions_in_every_format_are_those_of_the_library(folder, capsys):
    here = xmc.predict(xmc.load(folder / "m"), data.read_xmc(TEST), k=3)
    status, out, _ = run(capsys, "predict", str(folder / "m"), TEST, "--top-k", "3")
    lines = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and len(lines) == 500
    assert [line[::2] for line in lines] == [
        [f"package-{i}" for i in row] for row in here.labels.tolist()
    ]
    found = np.array([line[1::2] for line in lines], float)
    np.testing.assert_allclose(found, here.scores, rtol=1e-5)
    status, out, _ = run(capsys, "predict", str(folder / "m"), TEST, "--top-k", str(10**12))
    assert status == 0 and [x.split("\t")[:6] for x in out.splitlines()] == lines

    status, out, _ = run(
        capsys, "predict", str(folder / "m"), TEST, "--top-k", "3", "--format", "jsonl"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["labels"] for row in rows] == here.labels.tolist()
    assert rows[0]["names"][0] == f"package-{here.labels[0, 0]}"

    npz = folder / "p.npz"
    status, out, _ = run(
        capsys,
        "predict",
        str(folder / "m"),
        TEST,
        "--top-k",
        "3",
        "--format",
        "npz",
        "--output",
        str(npz),
    )
    assert status == 0 and out == ""
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(arrays["labels"], here.labels)
        np.testing.assert_array_equal(arrays["scores"], here.scores)

    data.write_xmc(folder / "long.txt", data.concatenate(*[data.read_xmc(TEST)] * 3))
    long = [str(folder / "long.txt"), "--top-k", "3", "--format", "npz", "--output", str(npz)]
    assert run(capsys, "predict", str(folder / "m"), *long)[0] == 0  # not all read at once
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(arrays["labels"], np.tile(here.labels, (3, 1)))


def test_a_threshold_leaves_out_what_is_less_likely(folder, capsys):
    _, out, _ = run(capsys, "predict", str(folder / "m"), TEST, "--threshold", "0.5")
    scores = [float(x) for line in out.splitlines() for x in line.split("\t")[1::2]]
    assert len(out.splitlines()) == 500 and scores and min(scores) >= 0.5


def test_texts_are_read_by_their_words(folder, capsys, monkeypatch):
    model = xmc.load(folder / "m")
    texts = "word12 word40, word7!\n\nnothing known\n"
    (folder / "t.txt").write_text(texts)
    expected = xmc.predict(
        model, data.Vocabulary(model.about.feature_names).transform(texts.splitlines()), k=2
    )
    for path in (str(folder / "t.txt"), "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(texts.encode())))
        status, out, _ = run(capsys, "predict", str(folder / "m"), path, "--top-k", "2")
        assert status == 0
        names = [line.split("\t")[::2] for line in out.splitlines()]
        assert names == [[f"package-{i}" for i in row] for row in expected.labels.tolist()]


@pytest.mark.parametrize("at_once", [1, 7, 500, 1024])
def test_a_stream_holds_what_the_file_does(folder, at_once):
    model = xmc.load(folder / "m")
    whole = data.read_xmc(TEST)
    parts = list(points.stream(TEST, model, at_once=at_once))
    assert max(p.num_points for p in parts) <= at_once
    joined = data.concatenate(*parts)
    for name in ("feature_offsets", "feature_ids", "feature_values", "label_ids"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"3 5 2\n1 0:1\n0 1:1\n", "ends after 2 rows, but the header promises 3"),
        (b"1 5 2\n1 0:1\n0 1:1\n", "more rows follow than the 1"),
        (b"3 5 2\n1 0:1\n0 1:x\n0 1:1\n", "line 3: feature value 'x' is not a number"),
        (b"\xff\xfe1\n", "no UTF-8"),
    ],
)
def test_a_malformed_stream_names_the_line(folder, capsys, tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    status, _, err = run(capsys, "predict", str(folder / "m"), str(tmp_path / "bad.txt"))
    assert status == 2 and message in err and "bad.txt" in err


def test_evaluates_and_inspects_a_kept_model(folder, capsys):
    status, out, _ = run(capsys, "evaluate", str(folder / "m"), TEST)
    trained = json.loads((folder / "r.json").read_text())
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == trained["p@1"]
    status, out, _ = run(capsys, "inspect", str(folder / "m"))
    assert status == 0 and "500" in out and "TF-IDF" in out and "labels and features" in out


def test_updates_a_kept_model_in_place_or_elsewhere(folder, capsys, tmp_path):
    more = data.read_xmc(TRAIN).take(slice(0, 50))
    more = dataclasses.replace(
        more,
        label_offsets=np.arange(51),
        label_ids=np.full(50, 500, np.int32),
        num_labels=501,
    )
    data.write_xmc(tmp_path / "more.txt", more)
    status, out, _ = run(
        capsys,
        "update",
        str(folder / "m"),
        str(tmp_path / "more.txt"),
        "--output",
        str(tmp_path / "n"),
    )
    assert status == 0 and "1 new labels" in out
    assert xmc.load(tmp_path / "n").about.label_names[500] == "label 500"
    assert xmc.load(folder / "m").num_labels == 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "fast", "--hidden", "7"], "--hidden: no effect with --preset fast"),
        (["--preset", "fast", "--lr", "100", "--loss", "bce"], "--loss, --lr: no effect"),
        (["--preset", "accurate", "--strategy", "lsh"], "--strategy: no effect"),
        (["--strategy", "uniform", "--tables", "4"], "--tables: no effect with --strategy uniform"),
        (["--strategy", "dense", "--active", "64"], "--active: no effect with --strategy dense"),
        (["--save-every", "5"], "--save-every has no effect without --checkpoint"),
        (["--labels", "x"], "--labels has no effect without --model"),
        (["--resume"], "--resume needs --checkpoint"),
        (["--max-seconds", "nan"], "--max-seconds nan: must be above 0"),
        (["--max-seconds", "0"], "--max-seconds 0.0: must be above 0"),
        (["--hidden", "0"], "--hidden 0: must be at least 1"),
        (["--lr", "nan"], "--lr nan: must be above 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
    ],
)
def test_options_without_effect_are_refused(options, message, capsys):
    status, _, err = run(capsys, "train", TRAIN, TEST, *options)
    assert status == 2 and message in err


def test_resume_with_nothing_to_resume_says_so(capsys, tmp_path):
    for options in ([], ["--hidden", "8"]):
        status, _, err = run(
            capsys, "train", TRAIN, TEST, *options, "--resume", "--checkpoint", str(tmp_path / "c")
        )
        assert status == 2 and "nothing is saved in" in err


def test_resume_on_other_data_or_options_is_refused(capsys, tmp_path):
    place = ["--checkpoint", str(tmp_path / "c")]
    assert run(capsys, "train", TRAIN, *place)[0] == 0
    other = data.read_xmc(TRAIN)
    shuffled = other.take(np.arange(other.num_points)[::-1])
    data.write_xmc(tmp_path / "other.txt", shuffled)
    status, _, err = run(capsys, "train", str(tmp_path / "other.txt"), *place, "--resume")
    assert status == 2 and "resume with the same data" in err
    status, _, err = run(capsys, "train", TRAIN, *place, "--resume", "--seed", "1")
    assert status == 2 and "other options (seed was 0, is 1): resume with the same ones" in err


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("0 20 6", "", "has no points: must"),
        ("2 5 3", " 0:1\n 1:1\n", "has no labels: labels"),
    ],
)
def test_nothing_to_train_on(capsys, tmp_path, header, rows, message):
    (tmp_path / "t.txt").write_text(f"{header}\n{rows}")
    status, _, err = run(capsys, "train", str(tmp_path / "t.txt"))
    assert status == 2 and message in err


def test_a_test_file_without_points_or_labels_is_named_before_training(capsys, tmp_path):
    train = data.read_xmc(TRAIN)
    (tmp_path / "none.txt").write_text(f"0 {train.num_features} {train.num_labels}\n")
    status, out, err = run(capsys, "train", TRAIN, str(tmp_path / "none.txt"))
    assert status == 2 and "none.txt has no points" in err and "training points" not in out


def test_the_program_names_its_commands(capsys):
    status, out, _ = call(program, capsys, "--help", whole=True)
    assert status == 0
    for name in program.COMMANDS:
        assert f"sparse-jax {name}" in out
    status, _, err = call(program, capsys, "xmc", "trian", whole=True)
    assert status == 2 and "did you mean `sparse-jax xmc train`" in err
    assert call(program, capsys, "xmc", whole=True)[0] == 2
    status, out, _ = call(program, capsys, "xmc", "predict", "--help", whole=True)
    assert status == 0 and "usage: sparse-jax xmc predict" in out and "default: 5" in out
