"""`sparse-jax recommend ... --items FILE`: items by their texts, as a person tells them."""

from __future__ import annotations

import json

import pytest
from in_process import call
from walks import chains

from sparse_jax import recommend
from sparse_jax.commands import main as program

pytestmark = pytest.mark.usefixtures("quick_compiles")


def run(capsys, *options: str) -> tuple[int, str, str]:
    return call(program, capsys, "recommend", *options, whole=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Histories, items of which some have no event, and a model."""
    place = tmp_path_factory.mktemp("texts")
    histories = chains()
    lines = (
        " ".join([f"u{user}", *(histories.item_names[i] for i in histories.of(user))])
        for user in range(histories.num_users)
    )
    (place / "lines.txt").write_text("\n".join(lines) + "\n")
    rows = [f"i{i},word{i},group{i // 4}" for i in range(40)]
    (place / "items.csv").write_text(
        "\n".join(["item,title,kind", *rows, "n5,word5,group1"]) + "\n"
    )
    options = ("--preset", "linear", "--items", str(place / "items.csv"))
    given = ("recommend", "train", str(place / "lines.txt"), "--model", str(place / "m"))
    assert program.main([*given, *options]) == 0
    (place / "bare").mkdir()
    given = ("recommend", "train", str(place / "lines.txt"), "--model", str(place / "bare"))
    assert program.main([*given, "--preset", "linear"]) == 0
    return place


def test_items_without_events_come_out(folder, capsys, tmp_path):
    (tmp_path / "asked.txt").write_text("ann i3 i4\n")
    status, out, _ = run(capsys, "predict", str(folder / "m"), str(tmp_path / "asked.txt"))
    assert status == 0 and "n5" in out.split("\t")
    status, out, _ = run(capsys, "related", str(folder / "m"), "n5")
    assert status == 0 and "i5" in out.split("\t")


def test_training_tells_of_texts(folder, capsys, tmp_path):
    (tmp_path / "items.jsonl").write_text(
        '{"sku": "i1", "title": "a"}\n{"sku": "n", "name": "b"}\n'
    )
    options = ("--items", str(tmp_path / "items.jsonl"), "--item-column", "sku", "--text", "title")
    lines = str(folder / "lines.txt")
    more = ("--preset", "linear", "--hold-out", "last", "--json", str(tmp_path / "r.json"))
    status, out, _ = run(capsys, "train", lines, *more, *options, "--text", "name")
    assert status == 0 and "2 texts of items: 1 of those with events, 1 of others" in out
    assert json.loads((tmp_path / "r.json").read_text())["hr@10"] > 0.5


def test_texts_that_help_nothing_are_told(folder, capsys, tmp_path):
    """Items by other ids, and items whose words nobody knows."""
    (tmp_path / "other.csv").write_text("item,text\n" + "".join(f"x{i},a\n" for i in range(9)))
    lines, model = str(folder / "lines.txt"), str(tmp_path / "m")
    options = ("--preset", "linear", "--items", str(tmp_path / "other.csv"), "--model", model)
    status, _, err = run(capsys, "train", lines, *options)
    assert status == 0 and "has no text of 40 of 40 items with events, as 'i0'" in err
    assert "its first item is 'x0'" in err and "(--item-column)" in err
    assert "note: 9 items of no events have no text, or no word in common" in err
    recommend.save(recommend.load(folder / "m"), tmp_path / "m")
    (tmp_path / "new.csv").write_text("item,text\nn7,word7\nn8,unheard\nn9,\nn6,nan\n")
    status, _, err = run(capsys, "update", model, "--items", str(tmp_path / "new.csv"))
    assert status == 0 and "note: 3 items of no events" in err and "as 'n6'" in err
    assert "new.csv: 1 items have the text 'nan'" in err and "UserWarning" not in err
    status, _, err = run(capsys, "update", model, "--items", str(folder / "items.csv"))
    assert status == 0 and "has no text of" not in err


def test_updating_with_items(folder, capsys, tmp_path):
    model = recommend.load(folder / "m")
    recommend.save(model, tmp_path / "m")
    (tmp_path / "new.tsv").write_text("item\ttext\nn7\tword7 group1\nn8\t\n")
    items = ("--items", str(tmp_path / "new.tsv"))
    status, out, _ = run(capsys, "update", str(tmp_path / "m"), *items)
    assert status == 0 and "0 events in" in out and "2 new items" in out
    grown = recommend.load(tmp_path / "m")
    assert "n7" in grown.names(recommend.predict(grown, [["i5", "i6"]], k=12).items[0])
    (tmp_path / "today.txt").write_text("new i5 n9\n")
    (tmp_path / "new.tsv").write_text("item\ttext\nn9\tword7 group1\n")
    status, out, _ = run(capsys, "update", str(tmp_path / "m"), str(tmp_path / "today.txt"), *items)
    assert status == 0 and "2 events in" in out and "1 new users, 1 new items" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("train", "LINES", "--model", "X", "--text", "title"),
            "--text: no effect without --items",
        ),
        (("train", "LINES", "--model", "X", "--item-column", "a"), "--item-column: no effect"),
        (("train", "LINES", "--model", "X", "--items", "NONE"), "NONE"),
        (("train", "LINES", "--model", "X", "--items", "TWICE"), "line 3: item 'i1' comes twice"),
        (("train", "LINES", "--model", "X", "--items", "MARKS"), "without a word: must have some"),
        (("update", "m"), "give FILE, or --items FILE, or both"),
        (("update", "m", "--items", "ITEMS", "--kind", "csv"), "--kind: no effect without FILE"),
        (("update", "bare", "--items", "ITEMS"), "the model has no texts: must be trained with"),
    ],
)
def test_mistakes_end_with_a_line(folder, capsys, tmp_path, options, message):
    (tmp_path / "twice.csv").write_text("item,text\ni1,a\ni1,b\n")
    (tmp_path / "marks.csv").write_text("item,text\ni1,?\n")
    files = {
        "LINES": folder / "lines.txt",
        "ITEMS": folder / "items.csv",
        "TWICE": tmp_path / "twice.csv",
        "MARKS": tmp_path / "marks.csv",
        "X": tmp_path / "x",
        "m": folder / "m",
        "bare": folder / "bare",
    }
    status, _, err = run(capsys, *(str(files.get(option, option)) for option in options))
    assert status == 2 and message in err, err
    assert not (tmp_path / "x" / "model.json").exists()
