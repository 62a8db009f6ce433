"""Tables and matrices in memory."""

from __future__ import annotations

import gzip
import io
import re
import types

import numpy as np
import pytest
from point_files import IDS, LABELS, TEXTS, XMC, need, write_files
from points import assert_same, make_data

from sparse_jax import data


def test_matrices_in_memory():
    points = make_data(np.random.default_rng(0))
    X, Y = data.to_csr(points)
    table = data.read((X.tocoo(), Y.astype(bool)))
    assert table.kind == "csr" and table.label_weights is None
    assert_same(table.points, data.from_csr(X, Y))
    assert_same(data.read(X).points, data.from_csr(X))


class Column(list):
    """Of `datasets`: any iterable."""


def stand_in(columns, **features):
    """What a table of `datasets` shows of itself."""
    kinds = {name: types.SimpleNamespace(dtype="string") for name in columns} | features
    shown = {
        "column_names": list(columns),
        "features": kinds,
        "__getitem__": lambda self, name: Column(columns[name]),
    }
    return type("Dataset", (), shown)()


def frames(columns):
    for library in ("pandas", "polars", "arrow"):
        module = need(library)
        yield (module.table if library == "arrow" else module.DataFrame)(columns)
    yield columns
    yield stand_in(columns)


def test_tables_in_memory_of_every_library_give_the_same():
    columns = {"text": TEXTS, "labels": LABELS, "other": list(range(5))}
    for frame in frames(columns):
        table = data.read(frame)
        assert table.kind == "frame" and table.texts == tuple(TEXTS), type(frame)
        assert table.points.label_ids.tolist() == [i for row in IDS for i in row]
        assert table.columns == ("text", "labels", "other")


def test_several_tables_by_name_are_told_apart():
    """As `load_dataset` gives them where no split is asked for."""

    class DatasetDict(dict):
        pass

    splits = DatasetDict(train=stand_in({"text": ["a"], "label": ["x"]}), test=stand_in({}))
    with pytest.raises(ValueError, match=r"DatasetDict of train, test: .* source\['train'\]"):
        data.read(splits)
    assert data.read(splits["train"]).label_names == ("x",)


def test_tables_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    named = datasets.ClassLabel(names=["food", "thing"])
    kinds = {"text": datasets.Value("string"), "labels": datasets.Sequence(named)}
    columns = {"text": ["red apple", None, "fast car"], "labels": [[0, 1], [], [1]]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    for given in (table, table.with_format("numpy"), table.to_iterable_dataset()):
        found = data.read(given)
        assert found.label_names == ("food", "thing") and found.texts[1] == ""
        assert found.points.label_ids.tolist() == [0, 1, 1]
    assert data.read(table.select([2, 0])).texts == ("fast car", "red apple")
    with pytest.raises(ValueError, match="must be one table"):
        data.read(datasets.DatasetDict({"train": table}))


def test_numbers_and_gaps_in_columns_of_labels():
    for frame in frames({"text": ["a", "b", "c"], "label": [3.0, None, 10.0]}):
        table = data.read(frame)
        assert table.label_names == ("10", "3"), type(frame)
        assert table.points.label_offsets.tolist() == [0, 1, 1, 2]


def test_numbered_labels_of_datasets_have_their_names():
    names = types.SimpleNamespace(names=["food", "thing"])
    one = stand_in({"text": ["a", "b", "c"], "label": [1, 0, -1]}, label=names)
    assert data.read(one).label_names == ("food", "thing")
    assert data.read(one).points.label_ids.tolist() == [1, 0]
    many = stand_in(
        {"text": ["a", "b"], "labels": [[1, 0], []]},
        labels=types.SimpleNamespace(feature=names),
    )
    assert data.read(many).points.label_ids.tolist() == [1, 0]
    many = stand_in(  # as with_format("numpy") has them
        {"text": [np.str_("a"), np.str_("b")], "labels": [np.array([1, 0]), np.zeros(0, int)]},
        labels=types.SimpleNamespace(feature=names),
    )
    assert data.read(many).points.label_ids.tolist() == [1, 0]
    wrong = stand_in({"text": ["a"], "label": [2]}, label=names)
    with pytest.raises(ValueError, match="label = 2: must be below 2"):
        data.read(wrong)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "must be a path or two"),
        (["a", 3], TypeError, "must be a path or two"),
        ({"train": None}, data.FormatError, "columns = train: must have 'text'"),
        ({"text": ["a"], "labels": []}, data.FormatError, "must be equal"),
        ({"text": [["a"]]}, data.FormatError, "row 0: a text is ['a']"),
        ({"text": ["a"], "labels": [b"b"]}, data.FormatError, "row 0: labels are b'b'"),
        ({"text": ["a"], "labels": [{"b": 1}]}, data.FormatError, "row 0: labels are {'b': 1}"),
    ],
)
def test_what_is_no_table(source, error, message):
    with pytest.raises(error, match=re.escape(message)):
        data.read(source)


def test_labels_may_be_arrays_and_sets():
    arrays = [np.array(["b", "a"]), np.array([2, np.nan], np.float32), {"c", "b", "a"}]
    table = data.read({"text": ["x"] * 3, "labels": arrays})
    assert table.label_names == ("2", "a", "b", "c")
    assert table.points.label_ids.tolist() == [2, 1, 0, 1, 2, 3]


def test_like_something_that_knows_ids_alone_is_refused():
    by_id = data.Table(make_data(np.random.default_rng(0)), "xmc")
    with pytest.raises(ValueError, match=r"like.feature_names = None: must have names"):
        data.read({"text": TEXTS, "labels": LABELS}, like=by_id)


def test_several_columns_of_texts(tmp_path):
    rows = b"title,body,type\nred,apple,food\n,car,thing\n"
    table = data.read(write_files(tmp_path, [rows]), text=["title", "body"], labels="type")
    assert table.texts == ("red apple", "car")


def test_an_open_file_is_read():
    file = io.BytesIO(gzip.compress(XMC))
    assert data.read(file).points.num_points == 3
    with pytest.raises(data.FormatError, match=r"^<file>: line 1: the file is empty"):
        data.read(io.BytesIO(b""))
