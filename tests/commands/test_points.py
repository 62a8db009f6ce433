"""Files of every kind through the xmc commands: one command each, and the same model from each."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from in_process import call
from point_files import KINDS, NEEDS, need, npz

from sparse_jax import data, xmc
from sparse_jax.commands import main as program
from sparse_jax.commands.xmc import train as train_command

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
KIND_OPTIONS = {"csv": ["--separator", ";"], "tsv": ["--separator", ";"]}
TEXT_KINDS = [name for name, kind in KINDS.items() if kind.write and kind.texts and name != "text"]
ID_KINDS = [name for name, kind in KINDS.items() if kind.write and not kind.texts]


def run(capsys, *options) -> tuple[int, str, str]:
    return call(program, capsys, *(str(option) for option in options), whole=True)


def some_texts(count: int, seed: int) -> dict[str, list]:
    """Texts of which some words tell the labels, and some don't."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(400)])
    texts, labels = [], []
    for _ in range(count):
        true = rng.choice(12, rng.integers(1, 3), replace=False)
        told = rng.integers(0, 8, 5) + 8 * rng.choice(true, 5)
        texts.append(" ".join(words[np.concatenate([told, rng.integers(100, 400, 6)])]) + ".")
        labels.append([f"topic-{i}" for i in true])
    return {"text": texts, "labels": labels}


def write(table, folder, name, kind):
    """A file, or two, of a kind, and how the command line names it."""
    paths = [str(folder / f"{name}-{side}.{kind}") for side in "ab"][: KINDS[kind].files]
    options = {"separator": ";"} if kind in KIND_OPTIONS else {}
    data.write(table, paths, kind, **options)
    return ",".join(paths)


@pytest.fixture(scope="module")
def texts():
    train = data.read(some_texts(5000, 0))
    return train, data.read(some_texts(500, 1), like=train)


@pytest.fixture(scope="module")
def expected(texts):
    """The model of Python lists, and its P@1."""
    train, test = texts
    model = xmc.fit(train.points, label_names=train.label_names, feature_names=train.feature_names)
    figures = xmc.evaluate(xmc.predict(model, test.points), test.points)
    return train_command.digest(model), figures["p@1"]


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_the_same_texts_train_the_same_model_from_every_kind(
    tmp_path, capsys, texts, expected, kind
):
    if kind in NEEDS:
        need(kind)
    train, test = (write(t, tmp_path, name, kind) for t, name in zip(texts, "xy", strict=True))
    options = KIND_OPTIONS.get(kind, [])
    status, out, err = run(
        capsys, "xmc", "train", train, "--test", test, "--model", tmp_path / "m", *options
    )
    assert status == 0, err
    results = json.loads(out.splitlines()[-1])
    assert (results["weights_sha256"], results["p@1"]) == expected
    assert results["p@1"] > 0.6
    model = xmc.load(tmp_path / "m")
    assert model.about.label_names == texts[0].label_names

    status, out, err = run(capsys, "xmc", "evaluate", tmp_path / "m", test, *options)
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == results["p@1"], err
    status, out, err = run(capsys, "xmc", "predict", tmp_path / "m", test, *options, "--top-k", 1)
    found = xmc.predict(model, texts[1].points, k=1).labels[:, 0]
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert status == 0 and names == [model.about.label_names[i] for i in found], err


def test_a_model_knows_the_columns_of_its_table(tmp_path, capsys):
    rows = [
        f"{i},{'red apple' if i % 2 else 'fast car'} {i % 5},{'food|x' if i % 2 else 'thing'}"
        for i in range(60)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["number,what is it,type", *rows]) + "\n")
    (tmp_path / "new.csv").write_text("what is it\na red apple\n")
    (tmp_path / "points.txt").write_text("1 9 3\n0 0:1\n")
    named = ["--text", "what is it", "--labels", "type", "--separator", "|"]
    table, model = tmp_path / "t.csv", tmp_path / "m"
    assert run(capsys, "xmc", "train", table, "--model", model, *named)[0] == 0
    assert xmc.load(model).about.label_names == ("food", "thing", "x")
    for words in (
        ["predict", model, tmp_path / "new.csv"],
        ["predict", model, table],
        ["predict", model, tmp_path / "points.txt"],
        ["evaluate", model, table],
        ["evaluate", model, table, *named],
        ["update", model, table],
    ):
        status, _, err = run(capsys, "xmc", *words)
        assert status == 0, err
    (tmp_path / "other.csv").write_text("question,type\nwhat,food\n")
    status, _, err = run(capsys, "xmc", "evaluate", model, tmp_path / "other.csv")
    assert status == 2 and "has no labels" in err and "--kind" in err


def test_the_classifier_of_scikit_learn_is_that_model(texts, expected):
    pytest.importorskip("sklearn")
    from sparse_jax.sklearn import SparseClassifier

    train, test = some_texts(5000, 0), some_texts(500, 1)
    classifier = SparseClassifier().fit(train["text"], train["labels"])
    score = classifier.score(test["text"], test["labels"])
    assert (train_command.digest(classifier.model_), score) == expected


@pytest.mark.parametrize("kind", ID_KINDS)
def test_points_by_id_of_every_kind(tmp_path, capsys, kind):
    paths = []
    for name, path in (("x", TRAIN), ("y", TEST)):
        points = data.read_xmc(path)
        if kind == "npz":
            points = data.from_csr(*data.to_csr(points))
        paths.append(write(data.Table(points, "xmc"), tmp_path, name, kind))
    train, test = paths
    status, out, err = run(capsys, "xmc", "train", train, "--test", test, "--model", tmp_path / "m")
    assert status == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures["p@1"] > 0.45
    status, out, err = run(capsys, "xmc", "evaluate", tmp_path / "m", test)
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == figures["p@1"], err
    alone = test.split(",")[0]  # predictions need no labels
    for path in {test, alone}:
        status, out, err = run(capsys, "xmc", "predict", tmp_path / "m", path, "--top-k", 1)
        assert status == 0 and len(out.splitlines()) == 500, err
    status, out, err = run(
        capsys, "xmc", "update", tmp_path / "m", test, "--output", tmp_path / "n"
    )
    assert status == 0 and "500 points, 0 new labels and 0 new features" in out, err


# ------------------------------------------------------------------------------- a small text model


LATER_ZIP = b"PK\3\4PK\1\2-\3\xff".ljust(50, b"\0")  # of version 25.5
LATER_ZIP += b"PK\5\6" + bytes(4) + b"\1\0\1\0\x2e\0\0\0\4".ljust(14, b"\0")
CSV = "question,type\n" + "red apple and pear,food\nfast car and bus,thing\n" * 30


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a table of texts, and the model it trains."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "t.csv").write_text(CSV)
    columns = ("--text", "question", "--labels", "type")
    status = program.main(
        ["xmc", "train", str(folder / "t.csv"), *columns, "--model", str(folder / "m")]
    )
    assert status == 0
    return folder


def feed(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_read_by_every_command(small, capsys, monkeypatch, tmp_path):
    columns = ("--text", "question", "--labels", "type")
    feed(monkeypatch, CSV.encode())
    status, _, err = run(capsys, "xmc", "train", "-", *columns, "--model", tmp_path / "m")
    assert status == 0, err
    one, two = (train_command.digest(xmc.load(f / "m")) for f in (small, tmp_path))
    assert one == two
    feed(monkeypatch, CSV.encode())
    status, out, err = run(capsys, "xmc", "evaluate", small / "m", "-", *columns)
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == 1, err
    feed(monkeypatch, b'{"question": "an apple"}\n{"question": "a bus"}\n')
    status, out, err = run(capsys, "xmc", "predict", small / "m", "-", "--text", "question")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["food", "thing"]
    feed(monkeypatch, CSV.encode())
    status, out, err = run(
        capsys, "xmc", "update", small / "m", "-", *columns, "--output", tmp_path / "n"
    )
    assert status == 0 and "60 points, 0 new labels and 0 new features" in out, err
    status, _, err = run(capsys, "xmc", "train", "-", "--test", "-")
    assert status == 2 and "can be read once" in err


def test_an_update_by_texts_brings_words_and_labels_by_name(small, capsys, tmp_path):
    rows = '{"question": "blue sky above the car", "type": ["place", "thing"]}\n' * 30
    (tmp_path / "more.jsonl").write_text(rows)
    options = ["--text", "question", "--labels", "type", "--output", tmp_path / "n"]
    status, out, err = run(capsys, "xmc", "update", small / "m", tmp_path / "more.jsonl", *options)
    assert status == 0 and "30 points, 1 new labels and 4 new features" in out, err
    before, after = xmc.load(small / "m").about, xmc.load(tmp_path / "n").about
    assert after.label_names == (*before.label_names, "place")
    assert after.feature_names == (*before.feature_names, "above", "blue", "sky", "the")
    (tmp_path / "new.txt").write_text("the blue sky\n")
    status, out, _ = run(capsys, "xmc", "predict", tmp_path / "n", tmp_path / "new.txt")
    assert status == 0 and out.startswith("place\t")


def test_labels_that_training_lacks_are_missed(small, capsys, tmp_path):
    (tmp_path / "t.csv").write_text("question,type\nan apple,fruit\na car,thing\n")
    columns = ("--text", "question", "--labels", "type")
    status, out, err = run(capsys, "xmc", "evaluate", small / "m", tmp_path / "t.csv", *columns)
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == 0.5
    assert "has 1 labels that the model doesn't know" in err
    status, out, err = run(capsys, "xmc", "train", small / "t.csv", tmp_path / "t.csv", *columns)
    results = json.loads(out.splitlines()[-1])
    assert status == 0 and results["p@1"] == 0.5, err


def test_weights_and_shifted_ids_are_warned_of(capsys, tmp_path):
    (tmp_path / "x").write_text("40 3\n" + "0:1\n1:1\n" * 20)
    (tmp_path / "y").write_text("40 2\n" + "0:0.5\n1:1\n" * 20)
    status, _, err = run(capsys, "xmc", "train", f"{tmp_path}/x,{tmp_path}/y")
    assert status == 0 and "warning:" in err and "how far each holds" in err
    (tmp_path / "s").write_text("1 1:1\n2 2:1\n" * 20)
    status, out, err = run(capsys, "xmc", "train", tmp_path / "s")
    assert status == 0 and "(--base 1)" in err and "3 features" in out
    status, out, err = run(capsys, "xmc", "train", tmp_path / "s", "--base", 1, "--label-base", 1)
    assert status == 0 and "warning" not in err and "2 features, 2 labels" in out


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"\n2 3 2\n0 1:1\n1 0:1\n", [], "a.txt: line 1: the header must be three whole"),
        ("a.csv", CSV.encode(), [], "a.csv: line 1: columns = question, type: must have 'text'"),
        (
            "a.csv",
            CSV.encode(),
            ["--text", "question"],
            "no labels: name the column of labels by --labels; columns = question, type",
        ),
        ("a.tsv", b"a b\tc\nd\te\nf\tg\n", [], "fits libmultilabel and tsv"),
        ("a.txt", b"red\ngreen\n", [], "has no labels: it was read as a text a line; if"),
        ("a.txt", b"3 2\n0:1\n1:1\n0:1\n", [], "give the file of labels, too, as X,Y"),
        ("a.txt", b"1 2 2\n0 1:1\n", ["--text", "a"], "--text: no effect on files of kind xmc"),
        ("a.txt", b"__label__a b\n", ["--labels", "c"], "--labels: no effect on files of kind"),
        ("a.txt", b"__label__a b\n", ["--kind", "xmc"], "line 1: the header must be three"),
        ("a.npz", b"PK\x03\x04", [], "holds no sparse matrix"),
        ("a.npz", LATER_ZIP, [], "holds no sparse matrix (zip file version 25.5"),
        ("a.csv", b"text,labels\na,b\n\n\na\n", [], "a.csv: line 5: has 1 cells"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line_with_a_cure(
    capsys, tmp_path, name, content, options, message
):
    (tmp_path / name).write_bytes(content)
    status, out, err = run(capsys, "xmc", "train", tmp_path / name, *options)
    assert status == 2 and message in err and not out
    assert len(err.splitlines()) == 1


def test_predictions_of_a_file_whose_header_is_not_first(small, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("\n1 3 2\n0 1:1\n")
    status, _, err = run(capsys, "xmc", "predict", small / "m", tmp_path / "a.txt")
    assert status == 2 and "line 1: is ''" in err and "delete the empty lines" in err
    assert "a.txt" in err


def test_predictions_of_texts_come_for_blank_lines_and_in_wide_characters(
    small, capsys, tmp_path, monkeypatch
):
    feed(monkeypatch, b"\n\n")
    status, out, err = run(capsys, "xmc", "predict", small / "m", "-", "--top-k", 1)
    assert status == 0 and len(out.splitlines()) == 2, err
    (tmp_path / "a.csv").write_bytes("question\nan apple\na bus\n".encode("utf-16"))
    status, out, err = run(
        capsys, "xmc", "predict", small / "m", tmp_path / "a.csv", "--text", "question"
    )
    assert status == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()] == ["food", "thing"]


def test_train_and_test_must_hold_the_same(small, capsys, tmp_path):
    columns = ("--text", "question", "--labels", "type")
    status, _, err = run(capsys, "xmc", "train", small / "t.csv", TEST, *columns)
    assert status == 2 and "is of kind xmc" in err and "sparse-jax convert" in err
    status, _, err = run(capsys, "xmc", "evaluate", small / "m", TEST)
    assert status == 2 and "warning" in err  # ids, which could mean other words
    assert run(capsys, "xmc", "train", TRAIN, "--model", tmp_path / "m")[0] == 0
    for command in ("evaluate", "update"):
        status, _, err = run(capsys, "xmc", command, tmp_path / "m", small / "t.csv", *columns)
        assert status == 2 and "doesn't know the words of its features" in err


def test_errors_of_options_are_short(capsys):
    for command in ("train", "predict", "evaluate", "update", "inspect"):
        status, _, err = run(capsys, "xmc", command, "--no-such-option", "a", "b")
        assert status == 2 and len(err) < 300 and f"sparse-jax xmc {command} --help" in err
        assert "usage" not in err
    _, _, err = run(capsys, "xmc", "train", TRAIN, "--hiden", "3")
    assert "did you mean --hidden?" in err


def test_help_names_every_kind(capsys):
    _, out, _ = run(capsys, "xmc", "train", "--help")
    for name, kind in KINDS.items():
        assert kind.memory or re.search(rf"^ +{name} +\S", out, re.M)


# ----------------------------------------------------------------------------------------- convert


def test_converts_texts_into_points_that_train_the_same_model(small, capsys, tmp_path):
    names = ["--label-names", tmp_path / "l.txt", "--words", tmp_path / "w.txt"]
    columns = ["--text", "question", "--labels", "type"]
    status, out, err = run(
        capsys, "convert", small / "t.csv", tmp_path / "t.txt", "--to", "xmc", *names, *columns
    )
    assert status == 0 and "60 points of kind csv" in out and not err
    names = ["--labels", tmp_path / "l.txt", "--vocabulary", tmp_path / "w.txt"]
    status, _, err = run(
        capsys, "xmc", "train", tmp_path / "t.txt", *names, "--model", tmp_path / "m"
    )
    assert status == 0, err
    one, two = xmc.load(small / "m"), xmc.load(tmp_path / "m")
    assert train_command.digest(one) == train_command.digest(two)
    assert one.about.feature_names == two.about.feature_names
    assert one.about.label_names == two.about.label_names == ("food", "thing")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("a.jsonl", []),
        ("a.csv.gz", []),
        ("a.ft", ["--to", "fasttext"]),
        ("a.json,b.json", ["--to", "raw"]),
    ],
)
def test_converts_there_and_back(small, capsys, tmp_path, target, options):
    target = ",".join(str(tmp_path / name) for name in target.split(","))
    columns = ["--text", "question", "--labels", "type"]
    assert run(capsys, "convert", small / "t.csv", target, *columns, *options)[0] == 0
    status, _, err = run(
        capsys,
        "convert",
        target,
        tmp_path / "back.csv",
        *("--text", "question", "--labels", "type"),
    )
    assert status == 0, err
    assert (tmp_path / "back.csv").read_text() == CSV


def test_converts_between_files_of_ids(capsys, tmp_path):
    pair = f"{tmp_path}/X.npz,{tmp_path}/Y.npz"
    assert run(capsys, "convert", TRAIN, pair)[0] == 0
    status, _, err = run(
        capsys, "convert", pair, tmp_path / "a.svm", "--base", 1, "--label-base", 1
    )
    assert status == 0, err
    found = data.read(tmp_path / "a.svm", base=1, label_base=1).points
    whole = data.read_xmc(TRAIN)
    np.testing.assert_array_equal(
        data.to_csr(data.with_sizes(found, whole.num_features, whole.num_labels)).features.data,
        data.to_csr(whole).features.data,
    )


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        (TRAIN, "a.csv", [], "these points have no texts"),
        (TRAIN, "a.txt", [], "must end in one of .svm"),
        (TRAIN, "a.txt", ["--to", "xmc", "--separator", ";"], "--separator: no effect on kind xmc"),
        (TRAIN, "a.npz", ["--words", "w"], "--words: no effect"),
        ("no-such-file", "a.npz", [], "No such file"),
    ],
)
def test_what_cannot_be_converted(capsys, tmp_path, source, target, options, message):
    status, out, err = run(capsys, "convert", source, tmp_path / target, *options)
    assert status == 2 and message in err and not out
    assert not (tmp_path / target).exists()


def test_a_pair_in_memory_is_the_pair_on_disk(tmp_path):
    X, Y = data.to_csr(data.read_xmc(TRAIN))
    (tmp_path / "X.npz").write_bytes(npz(X))
    (tmp_path / "Y.npz").write_bytes(npz(Y))
    one, two = data.read((X, Y)), data.read((tmp_path / "X.npz", tmp_path / "Y.npz"))
    np.testing.assert_array_equal(one.points.label_ids, two.points.label_ids)
