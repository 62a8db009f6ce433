"""Malformed files of points, named by file and line with a cure; odd ones, rightly read."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from point_files import FILES, LABELS, NEEDS, RAW, TEXTS, XMC, need, npz, write_files
from points import assert_same

from sparse_jax import data
from sparse_jax.data import xmc
from sparse_jax.data.kinds.base import HEAD_BYTES
from sparse_jax.ops import ffi, xmc_parser

JSON = b'{"text": "a", "labels": ["x"]}\n'
BAD = [
    # kind, contents, options, line, what is wrong, what helps
    ("xmc", [b"\n1 2 2\n0 1:1\n"], {}, 1, "not ''", "delete the empty lines"),
    ("xmc", [b"2 2 2\n0 1:1\n"], {}, 2, "promises 2", "complete the file"),
    ("xmc", [b"1 2 2\n0 1:1\n\n0 0:1\n"], {}, 4, "more rows", "mend the header"),
    ("xmc", [b"1 2 2\n0 2:1\n"], {}, 2, "out of range", "svmlight with base 1"),
    ("xmc", [b"1 2 2\n1,1 1:1\n"], {}, 2, "more than once", "join"),
    ("xmc", [b"1 2 2\n0, 1 1:1\n"], {}, 2, "not a whole number", "joined by commas"),
    ("xmc", [b"1 2 2\n0 1:nan\n"], {}, 2, "not finite", "mend or drop"),
    ("xmc", ["1 2 2\n0 1:1\n".encode("utf-16")], {}, 1, "UTF-16", "iconv"),
    ("xy", [b"\n2 2\n0:1\n"], {}, 1, "not ''", "delete the empty lines"),
    ("xy", [b"2 2\n0:1\n"], {}, 2, "promises 2", "complete the file"),
    ("xy", [b"1 2\n2:1\n"], {}, 2, "feature id '2' is out of range", "second number"),
    ("xy", [b"2 2\n0:1\n1\n"], {}, 3, "expected feature:value", "id:value"),
    ("xy", [b"1 2\n0:1 0:2\n"], {}, 2, "more than once", "join"),
    ("xy", [b"1 2\n0:1\n", b"1 2\n5:1\n"], {}, 2, "label id '5'", "second number"),
    ("xy", [b"1 2\n0:1\n", b"2 2\n0:1\n1:1\n"], {}, 1, "2 rows: must have 1", "of one set"),
    ("xy", [b"1 2\n0:1\n", b"1 2\n0:-1\n"], {}, 2, "weight -1", "leave out"),
    ("xy", ["1 2\n0:1\n".encode("utf-16")], {}, 1, "UTF-16", "iconv"),
    ("raw", [b"\n" + RAW + b"{\n"], {}, 4, "no JSON", "one object a line"),
    ("raw", [b'{"title": "c", "target_ind": [}\n' + RAW], {}, 1, "no JSON", "one object a line"),
    ("raw", [RAW + b'{"title": "c", "target_ind": [-1]}\n'], {}, 3, "from 0", "mend"),
    ("raw", [RAW + b'{"title": "c", "target_ind": [1, 1]}\n'], {}, 3, "distinct", "join"),
    ("raw", [RAW, b'{"title": "x"}\n'], {}, 1, "must be below 1", "file of labels"),
    ("raw", [RAW + b'{"target_ind": [1]}\n'], {}, 3, "'title' or 'content'", "jsonl"),
    (
        "raw",
        [RAW + b'{"title": "", "target_ind": [1], "target_rel": []}\n'],
        {},
        3,
        "as long",
        "mend",
    ),
    ("svmlight", [b"1 0:1\n1 0:1 0:2\n"], {}, 2, "more than once", "join"),
    ("svmlight", [b"1 0:1\n1 1:x\n"], {}, 2, "not a number", "mend or drop"),
    ("svmlight", [b"1 0:1\n1, 1:1\n"], {}, 2, "not a whole number", "joined by commas"),
    ("svmlight", [b"1 0:1\n1 2 1:1\n"], {}, 2, "expected feature:value", "id:value"),
    ("svmlight", [b"-1 0:1\n1.e 1:1\n"], {}, 2, "'1.e' is not a number", "number the labels"),
    ("svmlight", [b"1 3000000000:1\n"], {}, 1, "out of range", "number the ids anew"),
    ("svmlight", [b"1 1:1\n\n0 0:1\n"], {"base": 1}, 3, "feature id 0", "base is 1"),
    ("svmlight", [b"1 1:1\n0 1:1\n"], {"label_base": 1}, 2, "label id 0", "label_base is 1"),
    ("svmlight", [b"2 3 3\n1 1:1\n"], {"base": 1}, 1, "promises 2 points", "mend or delete"),
    ("svmlight", [b"1 3 3\n1 4:1\n"], {"base": 1}, 2, "out of range", "mend the header"),
    ("svmlight", ["1 1:1\n".encode("utf-16")], {}, 1, "UTF-16", "iconv"),
    ("npz", [b"PK\x03\x04 nothing"], {}, None, "no sparse matrix", "save_npz"),
    (
        "npz",
        [npz(sp.eye(2).tocsr()), npz(sp.eye(3).tocsr())],
        {},
        None,
        "Y.shape[0] = 3",
        "one row",
    ),
    ("npz", [npz(sp.csr_matrix([[np.nan]]))], {}, None, "row 0, column 0", "mend or drop"),
    ("fasttext", [b"__label__a b\n\n__label__ c\n"], {}, 3, "without a name", "name the label"),
    ("fasttext", [b"__label__a b\n__label__a \xff\n"], {}, 2, "no UTF-8", "iconv"),
    (
        "libmultilabel",
        [b"1\ta\tx\n2\tb y\n"],
        {"kind": "libmultilabel"},
        2,
        "2 columns: must have 3",
        "tabs",
    ),
    ("libmultilabel", [b"1\ta\tx\n" * 30 + b"2\tb\ty\tz\n"], {}, 31, "4 columns", "tabs"),
    ("csv", [b"text,labels\na,b\n\na,b,c\n"], {}, 4, "3 cells: must have 2", "quotation marks"),
    ("csv", [b'text,labels\na,b\n"a,b\nc,d\n'], {}, 3, "unexpected end", "close the quotation"),
    ("csv", [b"name,kind\na,b\nc,d\n"], {}, 1, "columns = name, kind: must have 'text'", "--text"),
    (
        "csv",
        [b"text,kind\na,b\n"],
        {"labels": "type", "kind": "csv"},
        1,
        "must have 'type'",
        "--labels",
    ),
    ("csv", [b"text,text\na,b\n"], {}, 1, "once", "rename"),
    ("tsv", [b"text\tlabels\na\tb\na\n"], {}, 3, "1 cells: must have 2", "quotation marks"),
    ("jsonl", [b'[{"text": "a"}]'], {}, 1, "a JSON list", "one a line"),
    ("jsonl", [b'[\n {"text": "a"}\n]'], {}, 1, "no JSON", "one object a line"),
    ("jsonl", [b'{"text": "a",}\n' + JSON], {}, 1, "no JSON", "one object a line"),
    ("jsonl", [JSON + b"\n[1]\n"], {}, 3, "a JSON list", "one a line"),
    ("jsonl", [JSON + b'{"text": "b"\n'], {}, 2, "no JSON", "one object a line"),
    ("jsonl", [JSON + b'{"labels": ["x"]}\n'], {}, 2, "has no 'text'", "name another"),
    ("jsonl", [JSON + b'{"text": ["b"]}\n'], {}, 2, "a text is ['b']", "name another"),
    ("jsonl", [JSON + b'{"text": "b", "labels": [["x"]]}\n'], {}, 2, "a label is ['x']", "mend"),
    ("jsonl", [JSON.decode().encode("utf-16-le")], {"kind": "jsonl"}, 1, "NUL", "iconv"),
    ("jsonl", [JSON + b'{"text": "\\uD800"}\n'], {}, 2, "half a character", "mend or delete"),
    ("parquet", [b"PAR1 and nothing"], {}, None, "no whole Parquet file", "again"),
    ("text", [b"red\n\xff\n"], {}, 2, "no UTF-8", "iconv"),
    ("text", [b""], {}, 1, "empty", "give the file"),
    ("csv", [b" \n\n"], {"kind": "csv"}, 1, "empty", "give the file"),
]


IN_CPP = ("xmc", "xy", "svmlight")  # the others have no C++
CASES = [(*case, pure) for case in BAD for pure in (False, True) if not pure or case[0] in IN_CPP]


def test_every_kind_is_in_this_table():
    assert set(FILES) == {kind for kind, *_ in BAD}


@pytest.mark.parametrize(("kind", "contents", "options", "line", "wrong", "cure", "pure"), CASES)
def test_bad_input_is_named_by_file_and_line_with_a_cure(
    tmp_path, monkeypatch, kind, contents, options, line, wrong, cure, pure
):
    if kind in NEEDS:
        need(kind)
    if pure:
        monkeypatch.setattr(ffi, "AVAILABLE", False)
    paths = write_files(tmp_path, contents)
    with pytest.raises(data.FormatError, match=re.escape(wrong)) as caught:
        data.read(paths, **options)
    message = str(caught.value)
    assert cure in message, message
    assert caught.value.line == line, message
    names = paths if isinstance(paths, tuple) else (paths,)
    assert message.startswith(tuple(str(name) for name in names))


@pytest.mark.parametrize("parse", [xmc_parser.parse_python, None], ids=["pure", "kernels"])
def test_odd_but_right_input_of_kind_xmc(tmp_path, monkeypatch, parse):
    if parse is not None:
        monkeypatch.setattr(xmc, "parse_xmc", parse)
    odd = b"\xef\xbb\xbf 3  6\t4\r\n1,3  0:1   5:2.5 \r\n  2:1\r\n0\r\n\r\n \n"
    table = data.read(write_files(tmp_path, [odd]))
    assert table.kind == "xmc"
    (tmp_path / "plain").write_bytes(XMC)
    assert_same(table.points, data.read(tmp_path / "plain").points)


@pytest.mark.parametrize(
    ("kind", "odd"),
    [
        (
            "fasttext",
            "\ufeff__label__food  __label__red red   apple \r\n\r\n"
            "__label__thing a fast car, red\r\n\r\n",
        ),
        ("libmultilabel", "\ufefffood  red\tred apple\r\n\nthing\ta fast car, red\n\n"),
        ("csv", '\ufeff\ntext;labels\r\nred apple; food | red\r\n\r\n"a fast car, red";thing\r\n'),
        (
            "jsonl",
            '\ufeff\n{"text": "red apple", "labels": " food | red|"}\n\n'
            '{"text": "a fast car, red", "labels": ["thing", "thing", ""]}',
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_odd_but_right_texts(tmp_path, kind, odd, encoding):
    text = odd.removeprefix("\ufeff") if encoding == "utf-16" else odd
    options = {"separator": "|"} if kind in ("csv", "jsonl") else {}
    table = data.read(write_files(tmp_path, [text.encode(encoding)]), **options)
    plain = data.read({"text": TEXTS[:2], "labels": LABELS[:2]})
    assert table.kind == kind and table.label_names == plain.label_names
    assert_same(table.points, plain.points)


def test_rows_without_text_or_labels(tmp_path):
    rows = b'text,labels\n,food\nred,\n,\n"",""\n'
    table = data.read(write_files(tmp_path, [rows]))
    assert table.texts == ("", "red", "", "")
    assert np.diff(table.points.label_offsets).tolist() == [1, 0, 0, 0]
    assert np.diff(table.points.feature_offsets).tolist() == [0, 1, 0, 0]


def test_a_cell_may_be_longer_than_the_csv_module_likes(tmp_path):
    text = "red " * (HEAD_BYTES // 2)
    table = data.read(write_files(tmp_path, [f"text,labels\n{text},food\n".encode()]))
    assert table.kind == "csv" and table.texts == (text,)
