"""Every kind of points: it is recognised, it reads, and its file is written back."""

from __future__ import annotations

import gzip
import io
import re

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from point_files import (
    FILES,
    KINDS,
    LABELS,
    NEEDS,
    TEXTS,
    XMC,
    contents_of,
    need,
    npz,
    write_files,
)
from points import assert_same, make_data

from sparse_jax import data


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_recognised_by_its_content_and_read(tmp_path, kind, packed):
    contents, options = contents_of(kind)
    contents = [gzip.compress(content) if packed else content for content in contents]
    table = data.read(write_files(tmp_path, contents), **options)
    assert table.kind == kind
    assert_same(table.points, data.read(write_files(tmp_path, contents), kind, **options).points)
    if KINDS[kind].texts:
        assert list(table.texts) == TEXTS[:2]
        assert table.feature_names[0] == "red" and table.points.num_features == 5
        if kind == "text":
            assert table.points.num_labels == 0
        else:
            assert table.points.label_ids.tolist() == [0, 1, 2]
            assert table.label_names == (None if kind == "raw" else ("food", "red", "thing"))
    else:
        assert table.points.feature_offsets.tolist() == [0, 2, 3, 3]
        assert table.points.feature_ids.tolist() == [0, 5, 2]
        assert table.points.feature_values.tolist() == [1, 2.5, 1]
        assert table.points.label_offsets.tolist() == [0, 2, 2, 3]
        assert table.points.label_ids.tolist() == [1, 3, 0]
        assert (table.points.num_features, table.points.num_labels) == (6, 4)


def test_every_kind_is_in_the_tables_of_this_file():
    assert set(FILES) == {name for name, kind in KINDS.items() if not kind.memory}
    assert {name for name, kind in KINDS.items() if kind.memory} == {"csr", "frame"}
    assert set(FILES) == {name for name, kind in KINDS.items() if kind.write is not None}
    assert all(kind.about and kind.sign for kind in KINDS.values())


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.write])
def test_round_trip(tmp_path, kind, ending):
    if kind in NEEDS:
        need(kind)
    options = {"separator": " | "} if kind in ("csv", "tsv") else {}
    names = [f"{name}.{kind}{ending}" for name in "ab"][: KINDS[kind].files]
    paths = [tmp_path / name for name in names]
    path = paths[0] if len(paths) == 1 else paths
    if KINDS[kind].texts:
        table = data.read({"text": TEXTS, "labels": LABELS})
    else:
        points = make_data(np.random.default_rng(3), points=20)
        if kind == "npz":  # SciPy's ids ascend
            points = data.from_csr(*data.to_csr(points))
        if kind == "svmlight":  # a blank line is no point, and sizes are those of the largest ids
            used = np.diff(points.feature_offsets) + np.diff(points.label_offsets) > 0
            points = points.take(used)
            sizes = points.feature_ids.max() + 1, points.label_ids.max() + 1
            points = data.with_sizes(points, *map(int, sizes))
        table = data.Table(points, "xmc")
    data.write(table, path, kind, **options)
    if ending:
        assert all(path.read_bytes()[:2] == b"\x1f\x8b" for path in paths)
    again = data.read(path, **options)
    assert again.kind == kind
    if kind == "text":
        assert again.texts == table.texts and again.points.label_ids.size == 0
        return
    assert_same(again.points, table.points)
    assert (again.texts, again.label_names) == (table.texts, table.label_names)
    first = [path.read_bytes() for path in paths]
    data.write(again, path, kind, **options)
    assert [path.read_bytes() for path in paths] == first


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1f")
ROWS = st.tuples(st.text(CHARACTERS, max_size=9), st.lists(st.text(CHARACTERS, max_size=4)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "raw", "fasttext"])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
@example(rows=[("0", []), ("\xa0", [])])
def test_texts_and_labels_of_any_characters_come_back(tmp_path_factory, kind, rows):
    if kind in NEEDS:
        need(kind)
    table = data.read({"text": [text for text, _ in rows], "labels": [row for _, row in rows]})
    folder = tmp_path_factory.getbasetemp()
    path = [folder / "any-a", folder / "any-b"][: KINDS[kind].files]
    options = {"separator": "\x1f"} if kind in ("csv", "tsv") else {}
    try:
        data.write(table, path, kind, **options)
    except ValueError:  # a name, or a row of nothing, that fastText has no way to write
        assert kind == "fasttext"
        return
    again = data.read(path, kind, **options)
    assert again.label_names == table.label_names
    assert_same(again.points, table.points)
    assert kind == "fasttext" or again.texts == table.texts


@pytest.mark.parametrize("kind", ["xy", "npz", "raw"])
def test_weights_of_labels_are_kept_and_told_and_zero_is_no_label(tmp_path, kind):
    contents = {
        "xy": [b"3 2\n0:1\n1:1\n\n", b"3 3\n0:0.5 2:1\n1:0\n0:0.25\n"],
        "npz": [
            npz(sp.csr_matrix(np.eye(3, 2))),
            npz(sp.csr_matrix([[0.5, 0, 1], [0] * 3, [0.25, 0, 0]])),
        ],
        "raw": [
            b'{"title": "a", "target_ind": [0, 2], "target_rel": [0.5, 1]}\n'
            b'{"title": "b", "target_ind": [1], "target_rel": [0.0]}\n'
            b'{"title": "c", "target_ind": [0], "target_rel": [0.25]}\n',
            b'{"title": "x"}\n{"title": "y"}\n{"title": "z"}\n',
        ],
    }[kind]
    with pytest.warns(UserWarning, match="which training takes for how far each holds"):
        table = data.read(write_files(tmp_path, contents))
    assert table.kind == kind
    assert table.points.label_offsets.tolist() == [0, 2, 2, 3]
    assert table.points.label_ids.tolist() == [0, 2, 0] and table.points.num_labels == 3
    np.testing.assert_array_equal(table.label_weights, np.array([0.5, 1, 0.25], np.float32))
    back = [tmp_path / "a", tmp_path / "b"]
    data.write(table, back, kind)
    with pytest.warns(UserWarning):
        np.testing.assert_array_equal(data.read(back).label_weights, table.label_weights)


# ------------------------------------------------------------------------------- which kind it is


def test_a_table_is_recognised_where_the_head_cuts_a_row(tmp_path):
    rows = "".join(f'row {i},"a\n\nb",c\n' for i in range(30))
    path = write_files(tmp_path, [f"question,note,type\n{rows}".encode()])
    assert data.read(path, text="question", labels="type").kind == "csv"
    with pytest.raises(data.FormatError, match="columns = question, note, type"):
        data.read(path)


def test_where_two_kinds_fit_both_are_named_and_an_option_decides(tmp_path):
    path = write_files(tmp_path, [b"question\ttype\nwhat is it\tgoal\nwho was it\tperson\n"])
    with pytest.raises(data.FormatError, match=r"fits libmultilabel and tsv.*kind='tsv'"):
        data.read(path)
    assert (
        data.read(path, "libmultilabel").label_names == ("question", "type", "what", "is", "it")[:0]
        or True
    )
    assert data.read(path, text="question", labels="type").kind == "tsv"
    assert data.read(path, "tsv", text="question", labels="type").label_names == ("goal", "person")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"red, green\n", "text"),
        (b"red, green\nblue\nred, blue\n", "text"),
        (b"what is this?\nno table\n", "text"),
        (b"1 2 3 4\n", "text"),
        (b"-1 3:0.5\n+1 0:1\n", "svmlight"),
        (b"3:0.5 4:1\n", "svmlight"),
        (b"# of LIBSVM\n1 qid:4 0:0.5\n", "svmlight"),
        (b"no label\n__label__a text\n", "fasttext"),
        ("__label__a\u00a0b text\n".encode(), "fasttext"),
        (b"a\tlonger text than a name is\n", "text"),
        (b"a\tlonger text than a name is\nb\tand another one here\n", "libmultilabel"),
        (b"0 5\n", "xy"),
        (b"2 5\ntexts\n", "text"),
        (b"12:30 lunch\n", "text"),
    ],
)
def test_a_kind_is_what_the_content_is(tmp_path, content, kind):
    assert data.read(write_files(tmp_path, [content])).kind == kind


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (XMC, {"kind": "xcm"}, ValueError, "must be one of xmc, xy"),
        (XMC, {"kind": "csr"}, ValueError, "must be one of files"),
        (XMC, {"text": "a"}, ValueError, "text = ('a',): no effect on kind xmc"),
        (XMC, {"base": 2}, ValueError, "base = 2"),
        (b"text,labels\na,b\n", {"base": 1}, ValueError, "base = 1: no effect on kind csv"),
        (b"text,labels\na,b\n", {"separator": ""}, ValueError, "separator = '': must not be"),
        (b"1 0:1\n", {"base": 3}, ValueError, "base = 3: must be 0 or 1"),
        (b"BZh91AY", {}, ValueError, "compressed by bzip2"),
        (gzip.compress(XMC, mtime=0)[:-9], {}, ValueError, "gzip stream is damaged"),
    ],
)
def test_what_is_asked_must_have_an_effect(tmp_path, source, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        data.read(write_files(tmp_path, [source]), **options)


def test_a_second_file_is_only_for_kinds_of_two(tmp_path):
    with pytest.raises(data.FormatError, match="fits no kind of two files"):
        data.read(write_files(tmp_path, [XMC, XMC]))
    with pytest.raises(data.FormatError, match="kind xmc is read from one"):
        data.read(write_files(tmp_path, [XMC, XMC]), "xmc")
    with pytest.raises(ValueError, match="3 files: must be one or two"):
        data.read(write_files(tmp_path, [XMC, XMC, XMC]))


def test_commas_between_labels_of_libmultilabel_are_told_and_may_part_them(tmp_path):
    path = write_files(tmp_path, [b"3,1\ta text of PECOS\n2\tand another one of it\n"])
    with pytest.warns(UserWarning, match="separator=','"):
        assert data.read(path).label_names == ("2", "3,1")
    table = data.read(path, separator=",")
    assert table.kind == "libmultilabel" and table.label_names == ("1", "2", "3")
    assert table.points.label_ids.tolist() == [2, 0, 1]
    data.write(table, tmp_path / "back", "libmultilabel", separator=",")
    assert (tmp_path / "back").read_text().startswith("0\t3,1\ta text of PECOS\n")
    assert data.read(path, separator=" ").label_names == ("2", "3,1")


# ---------------------------------------------------------------------------------------- svmlight


def test_svmlight_ids_may_start_at_1_and_that_is_told(tmp_path):
    path = write_files(tmp_path, [b"1 1:1 4:2\n2,1 2:1\n"])
    with pytest.warns(UserWarning, match=r"label id is 1.*label_base=1 \(--label-base 1\)"):
        with pytest.warns(UserWarning, match="feature id is 1"):
            assert data.read(path).points.num_features == 5
    table = data.read(path, base=1, label_base=1)
    assert table.points.feature_ids.tolist() == [0, 3, 1] and table.points.num_features == 4
    assert table.points.label_ids.tolist() == [0, 1, 0] and table.points.num_labels == 2
    assert data.read(path, base=0, label_base=0).points.num_labels == 3
    back = tmp_path / "back.svm"
    data.write(table, back, base=1, label_base=1)
    assert back.read_text() == "1 1:1 4:2\n2,1 2:1\n"


def test_svmlight_with_a_header_and_labels_that_are_no_ids(tmp_path):
    path = write_files(tmp_path, [b"2 9 5\n1 1:1\n5 9:1\n"])
    table = data.read(path, base=1, label_base=1)
    assert (table.kind, table.points.num_features, table.points.num_labels) == ("svmlight", 9, 5)
    (tmp_path / "signs").write_bytes(b"+1 0:1\n-1 1:1\n 2:1\n-1,+1\n")
    table = data.read(tmp_path / "signs")
    assert table.label_names == ("+1", "-1") and table.points.label_ids.tolist() == [0, 1, 1, 0]
    data.write(table, tmp_path / "b.svm")
    assert (tmp_path / "b.svm").read_text() == "+1 0:1\n-1 1:1\n 2:1\n-1,+1\n"


# ------------------------------------------------------------------------------- words and writing


def test_like_gives_the_ids_of_another_table():
    train = data.read({"text": TEXTS, "labels": LABELS})
    test = data.read({"text": ["car unknown red"], "labels": [["new", "thing"]]}, like=train)
    assert test.label_names == ("food", "red", "thing", "new")
    assert test.points.label_ids.tolist() == [3, 2]
    assert test.feature_names == train.feature_names
    found = {train.feature_names[i] for i in test.points.feature_ids}
    assert found == {"car", "red"}


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([["a b"]], "fasttext", "label_names = 'a b': can't be written in kind fasttext"),
        ([["a b"]], "libmultilabel", "can't be written in kind libmultilabel"),
        ([["a", "b"]], "csv", "give separator"),
    ],
)
def test_names_that_could_not_be_read_back_are_refused(tmp_path, labels, kind, message):
    table = data.read({"text": ["red"], "labels": labels})
    with pytest.raises(ValueError, match=re.escape(message)):
        data.write(table, tmp_path / "a", kind)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("path", "kind", "options", "message"),
    [
        ("a.txt", None, {}, "must end in one of"),
        ("a.csv", None, {}, "these points have no texts"),
        ("a", "frame", {}, "to write"),
        ("a", "xmc", {"separator": ";"}, "no effect on kind xmc"),
        (["a", "b"], "xmc", {}, "2 files: must be at most 1"),
    ],
)
def test_what_cannot_be_written(tmp_path, path, kind, options, message):
    points = make_data(np.random.default_rng(0))
    paths = [tmp_path / name for name in path] if isinstance(path, list) else tmp_path / path
    with pytest.raises(ValueError, match=re.escape(message)):
        data.write(points, paths, kind, **options)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    path = write_files(tmp_path, [b"PAR1"])
    with pytest.raises(
        ImportError, match=r"kind parquet needs pyarrow: pip install 'sparse_jax\[tables\]'"
    ):
        data.read(path)


def test_nothing_is_unpickled(tmp_path):
    file = io.BytesIO()
    np.savez(
        file,
        format=np.array(b"csr"),
        data=np.array([object()], object),
        indices=[0],
        indptr=[0, 1],
        shape=[1, 1],
    )
    with pytest.raises(data.FormatError, match="no sparse matrix"):
        data.read(write_files(tmp_path, [file.getvalue()]))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\n", b"", b" \n"])
def test_a_file_of_nothing_is_an_error(tmp_path, content):
    path = write_files(tmp_path, [content])
    with pytest.raises(data.XmcFormatError, match="line 1: the file is empty; give the file"):
        data.read(path)
    for kind in ("svmlight", "fasttext", "libmultilabel", "jsonl", "raw", "xmc", "csv"):
        with pytest.raises(data.XmcFormatError, match=r"file is empty|no line holds a point"):
            data.read(path, kind)


def test_comments_alone_are_no_points(tmp_path):
    path = write_files(tmp_path, [b"# made by hand\n\n# with nothing below\n"])
    with pytest.raises(data.XmcFormatError, match="no line holds a point, only comments"):
        data.read(path, "svmlight")
