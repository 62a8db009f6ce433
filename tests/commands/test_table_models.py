"""`xmc train --target`: a column of a table from the others, kept, asked and judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import call

from sparse_jax import xmc
from sparse_jax.commands import main as program
from sparse_jax.xmc import tabular


def run(capsys, *words):
    return call(program, capsys, "xmc", *(str(word) for word in words), whole=True)


def rows(count: int, seed: int) -> dict[str, list]:
    """A table whose items follow from shop and weekday, and whose prices from shop and size."""
    rng = np.random.default_rng(seed)
    shop, size = rng.integers(0, 4, count), np.round(rng.random(count) * 10, 2)
    day = rng.integers(0, 28, count)
    return {
        "shop": [f"shop {x}" for x in shop],
        "size": size.tolist(),
        "when": [f"2024-01-{x + 1:02}" for x in day],
        "item": [f"item {(x + (y % 7 > 4)) % 4}" for x, y in zip(shop, day, strict=True)],
        "tags": [f"s{x};d{y % 2}" for x, y in zip(shop, day, strict=True)],
        "price": [round(float(x * 3 + y), 2) for x, y in zip(shop, size, strict=True)],
    }


def write_csv(path, table) -> None:
    cells = [list(table), *zip(*table.values(), strict=True)]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in cells))


@pytest.fixture
def files(tmp_path):
    for name, count, seed in (("train", 600, 0), ("test", 200, 1)):
        write_csv(tmp_path / f"{name}.csv", rows(count, seed))
    return tmp_path


def test_classes(files, capsys):
    status, out, err = run(
        capsys,
        "train",
        files / "train.csv",
        "--target",
        "item",
        "--test",
        files / "test.csv",
        "--model",
        files / "m",
        "--json",
        files / "r.json",
    )
    assert status == 0, err
    results = json.loads((files / "r.json").read_text())
    assert results["task"] == "classes" and results["p@1"] > 0.9
    assert "shop: category" in out and "when: date" in out
    status, out, err = run(capsys, "evaluate", files / "m", files / "test.csv")
    assert status == 0 and json.loads(out.splitlines()[-1])["p@1"] == results["p@1"], err

    status, out, err = run(capsys, "predict", files / "m", files / "test.csv", "--top-k", 1)
    found = [line.split("\t")[0] for line in out.splitlines()]
    assert status == 0 and found[:3] == rows(200, 1)["item"][:3], err
    status, out, _ = run(capsys, "inspect", files / "m")
    assert status == 0 and "item: one of 4 classes" in out
    # What training printed as its schema may be given.
    (files / "s.json").write_text(json.dumps(results["schema"][:1]))
    again = ["train", files / "train.csv", "--target", "item", "--schema", files / "s.json"]
    status, out, err = run(capsys, *again)
    assert status == 0 and "shop" in out and "when" not in out, err


def test_several_classes_in_a_cell(files, capsys):
    status, _, err = run(
        capsys,
        "train",
        files / "train.csv",
        "--target",
        "tags",
        "--separator",
        ";",
        "--model",
        files / "m",
    )
    assert status == 0, err
    model = tabular.load_table(files / "m")
    assert model.classifier.about.label_names == ("d0", "d1", "s0", "s1", "s2", "s3")
    assert tabular.evaluate_table(model, rows(200, 1))["p@1"] > 0.95


@pytest.mark.parametrize("form", ["tsv", "jsonl", "npz"])
def test_numbers(files, capsys, form):
    status, out, err = run(
        capsys,
        "train",
        files / "train.csv",
        "--target",
        "price",
        "--test",
        files / "test.csv",
        "--model",
        files / "m",
    )
    assert status == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["task"] == "number" and results["rmse"] < 0.35 * results["mean_rmse"]
    assert "of the mean" in out
    given = ["predict", files / "m", files / "test.csv", "--format", form]
    status, out, err = run(capsys, *given, "--output", files / "out")
    assert status == 0, err
    expected = tabular.predict_table(tabular.load_table(files / "m"), rows(200, 1)).numbers
    content = (files / "out").read_bytes()
    if form == "npz":
        found = np.load(files / "out")["numbers"]
    else:
        read = float if form == "tsv" else lambda line: json.loads(line)["value"]
        found = [read(line) for line in content.splitlines()]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tsv"])
def test_other_kinds_of_tables_give_the_same_model(files, kind):
    from sparse_jax.commands.xmc import table as command

    table, path = rows(600, 0), files / f"t.{kind}"
    if kind == "jsonl":
        lines = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif kind == "tsv":
        write_csv(path, table)
        path.write_text(path.read_text().replace(",", "\t"))
    else:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(arrow.table(table), path)
    ours, theirs = (
        tabular.fit_table(command.read(str(p), "auto", "item"), "item")
        for p in (files / "train.csv", path)
    )
    asked = rows(50, 3)
    for a, b in zip(*(tabular.predict_table(m, asked) for m in (ours, theirs)), strict=True):
        assert a is None or np.array_equal(a, b)


def test_rows_without_a_target_are_left_out():
    table = rows(300, 0)
    some = table | {"item": [x if i % 3 else "" for i, x in enumerate(table["item"])]}
    model = tabular.fit_table(some, "item")
    assert model.classifier.about.notes["points"] == 200
    assert model.classifier.about.label_names == ("item 0", "item 1", "item 2", "item 3")
    with pytest.raises(ValueError, match="has no value in any row"):
        tabular.fit_table(table | {"item": [None] * 300}, "item")


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([1, 2, 3], "classes"),
        ([1.5, 2, 3], "number"),
        (list(range(51)), "number"),
        (["1", "2"], "classes"),
        (["1.5", "2"], "number"),
        (["a", "1"], "classes"),
        ([True, False], "classes"),
        ([None, 2.5], "number"),
    ],
)
def test_what_a_target_is(values, task):
    assert tabular.task_of(np.array(values, object)) == task


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--target", "colour"], "must be one of the table, shop, size, when"),
        (["--target", "item", "--text", "shop"], "--text: no effect with --target"),
        (["--target", "item", "--hidden", "8"], "--hidden: no effect with --target"),
        (["--target", "price", "--separator", ";"], "has no effect on numbers"),
        (["--task", "number"], "--task: no effect without --target"),
        (["--target", "item", "--schema", "none.json"], "none.json"),
        (["--target", "item", "--task", "number"], "must be a number or missing"),
    ],
)
def test_mistakes(files, capsys, words, why):
    status, _, err = run(capsys, "train", files / "train.csv", *words)
    assert status == 2 and why in err


def test_what_other_commands_say_of_such_a_model(files, capsys):
    train, test, model = files / "train.csv", files / "test.csv", files / "m"
    assert run(capsys, "train", train, "--target", "item", "--model", model)[0] == 0
    for words, why in (
        (["update", model, test], "by xmc train --target"),
        (["predict", model, test, "--text", "shop"], "--text: no effect"),
        (["evaluate", model, test, "--labels", "shop"], "--labels: no effect"),
        (["train", train, "--text", "shop", "--labels", "item", "--model", model], "'table'"),
    ):
        status, _, err = run(capsys, *words)
        assert status == 2 and why in err, err
    with pytest.raises(ValueError, match="kind 'table'"):
        xmc.load(model)
