"""Files of items' texts: kinds, columns, and what is wrong with a row."""

from __future__ import annotations

import decimal
import gzip
import io

import pytest

from sparse_jax import data


def read(content: str, **options) -> dict[str, str]:
    return data.read_item_texts(io.BytesIO(content.encode()), **options)


EXPECTED = {"7": "Toy Story comedy", "9": "Heat", "11": ""}


@pytest.mark.parametrize(
    "content",
    [
        "item,title,genre\n7,Toy Story,comedy\n9,Heat,\n11,,\n",
        "item_id:token\ttitle:token_seq\tgenre:token\n7\tToy Story\tcomedy\n9\tHeat\t\n11\t\t\n",
        '{"item": 7, "title": "Toy Story", "genre": ["comedy"]}\n{"item": "9", "title": "Heat"}\n'
        '{"item": 11.0, "title": null, "genre": []}\n',
        '{"asin": "7", "text": "Toy Story comedy", "price": 3}\n{"asin": "9", "text": " Heat "}\n'
        '{"asin": "11"}\n',
    ],
)
def test_kinds(content, tmp_path):
    assert read(content) == EXPECTED
    (tmp_path / "i.gz").write_bytes(gzip.compress(content.encode()))
    assert data.read_item_texts(tmp_path / "i.gz") == EXPECTED


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"item": [7, 9], "text": ["Toy Story", None], "tags": [["a"], ["b"]]})
    frame.to_parquet(tmp_path / "i.parquet")
    assert data.read_item_texts(tmp_path / "i.parquet") == {"7": "Toy Story", "9": ""}
    found = data.read_item_texts(tmp_path / "i.parquet", text=["tags", "text"])
    assert found == {"7": "a Toy Story", "9": "b"}


IDS = ["7", "9"]


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ("user,item\nu,7\nu,9\n", "item,title\n7.0,a\n9.0,b\n"),
        ("user,item\nu,7.0\nu,9\n", "item,title\n7.0,a\n9,b\n"),
        ("user,item\nu, 7\nu,9\n", '{"item": 7.0, "title": "a"}\n{"item": "9 ", "title": "b"}\n'),
    ],
)
def test_items_are_named_as_events_name_them(events, items):
    histories = data.read_histories(io.BytesIO(events.encode()))
    assert list(histories.item_names) == list(read(items)) == IDS


def test_ids_of_databases(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    ids = [decimal.Decimal(7), decimal.Decimal(9)]
    pandas.DataFrame({"item": ids, "text": ["a", "b"]}).to_parquet(tmp_path / "i.parquet")
    assert list(data.read_item_texts(tmp_path / "i.parquet")) == IDS


def test_what_programs_write_for_none_is_told():
    with pytest.warns(UserWarning, match="2 items have the text 'nan'"):
        assert read("item,text\na,nan\nb,nan\n") == {"a": "nan", "b": "nan"}
    with pytest.warns(UserWarning, match="1 rows have the item 'None'"):
        assert read("item,text\nNone,x\n") == {"None": "x"}


def test_no_files():
    for wrong in (None, {"7": "tea"}, ["a.csv", "b.csv"]):
        with pytest.raises(TypeError, match=r"path is a .*: must be a file"):
            data.read_item_texts(wrong)
    with pytest.raises(ValueError, match="text = no columns: must be some"):
        read("item,title\na,tea\n", text=[])


def test_named_columns():
    content = "id,sku,title,price\n1,a,Red tea,3\n2,b,Egg,4\n"
    assert read(content, item="sku", text=["title"]) == {"a": "Red tea", "b": "Egg"}
    assert read(content, item="sku", text=["title", "price"])["a"] == "Red tea 3"
    assert read(content, item="sku", text="title")["b"] == "Egg"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "line 1: the file is empty"),
        (" \n", {}, "line 1: the file is empty"),
        ("sku,title\na,tea\n", {}, "must have one column of items; say item=NAME"),
        ("item,asin,title\na,b,tea\n", {}, "must have one column of items; say item=NAME"),
        ("item,title\na,tea\n", {"item": "sku"}, "must have 'sku'; say item=NAME"),
        ("item,title\na,tea\n", {"text": ["name"]}, "must have 'name'; name the columns of texts"),
        ("item\na\n", {}, "must have one of texts, too; add it"),
        ("item,text\na,tea\n,egg\n", {}, "line 3: item is missing: must have a name or number"),
        ("item,text\na,tea\n\na,egg\n", {}, "line 4: item 'a' comes twice: must be once"),
        ("item,text\na,\nb,\n", {}, "columns text hold no text: must have some"),
        ("item,text\na,tea,egg\n", {}, "line 2"),
        ('{"item": "a", "text": "tea"}\n{"item": "b", ', {}, "line 2: is no JSON"),
        (
            '{"item": "a", "text": "tea"}\n{"item": "b", "text": {"x": 1}}\n',
            {},
            "line 2: a text is",
        ),
        ('{"item": "a", "text": "tea"}\n{"text": "egg"}\n', {}, "line 2: item is missing"),
        ('{"item": ["a"], "text": "tea"}\n', {}, "line 1: item = ['a']: must have a name"),
        ('[{"item": "a", "text": "tea"}]\n', {}, "line 1: is a JSON list: must be an object"),
        ("item,item:token,text\na,b,tea\n", {}, "line 1: two columns are named 'item'"),
    ],
)
def test_mistakes_are_named(content, options, message):
    with pytest.raises(data.FormatError) as caught:
        read(content, **options)
    assert message in str(caught.value)


def test_no_text_at_all(tmp_path):
    (tmp_path / "i.csv").write_bytes(b"item,text\n\xff\xfe,\x00\n")
    with pytest.raises(data.FormatError):
        data.read_item_texts(tmp_path / "i.csv")
    with pytest.raises(OSError):
        data.read_item_texts(tmp_path / "none.csv")
