"""The reader, in C++ and in Python, the writer, and what `XmcData` refuses."""

from __future__ import annotations

import dataclasses
import gzip
import pathlib
import pickle
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from points import assert_same, make_data

from sparse_jax.data import XmcData, XmcFormatError, read_xmc, write_xmc, xmc
from sparse_jax.ops import ffi, xmc_parser

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
PARSERS = {"python": xmc_parser.parse_python}
if ffi.AVAILABLE:
    PARSERS["kernels"] = ffi.native().parse_xmc
needs_kernels = pytest.mark.skipif("kernels" not in PARSERS, reason="extension not built")


@pytest.fixture(params=sorted(PARSERS))
def parse(request, monkeypatch):
    """Each parser in turn; read_xmc uses it too."""
    monkeypatch.setattr(xmc, "parse_xmc", PARSERS[request.param])
    return PARSERS[request.param]


def test_rows_of_every_kind(parse):
    text = b"6 10 4\r\n1,3 0:1 7:2.5\r\n 9:1\n2:-3\t4:.5  \n0\n\n\t 1:1e1\n\n  \n"
    arrays = parse(text)
    assert [a.dtype for a in arrays[:5]] == [np.int64, np.int32, np.float32, np.int64, np.int32]
    assert arrays[0].tolist() == [0, 2, 3, 5, 5, 5, 6]
    assert arrays[1].tolist() == [0, 7, 9, 2, 4, 1]
    assert arrays[2].tolist() == [1, 2.5, 1, -3, 0.5, 10]
    assert arrays[3].tolist() == [0, 2, 2, 2, 3, 3, 3]
    assert arrays[4].tolist() == [1, 3, 0]
    assert arrays[5:] == (6, 10, 4)
    assert parse(b"0 0 0")[0].tolist() == [0]


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        (b"", 1, "the file is empty"),
        (b"\n", 1, "three whole numbers, points features labels, not ''"),
        (b"1 2\n", 1, "three whole numbers"),
        (b"1 2 3 4\n", 1, "three whole numbers"),
        (b"1 -2 3\n", 1, "three whole numbers"),
        (b"1 2 4294967296\n", 1, "'4294967296' exceeds 2147483647"),
        (b"\xef\xbb\xbf1 2 3\n", 1, "ends after 0 rows, but the header promises 1"),
        (b"1\xef\xbb\xbf 2 3\n", 1, r"not ASCII text in '1\xef\xbb\xbf 2 3'"),
        ("\ufeff1 5 5\n0 1:1\n".encode("utf-16-le"), 1, "UTF-16: must be UTF-8"),
        ("\ufeff1 5 5\n".encode("utf-16-be"), 1, "iconv -f UTF-16 -t UTF-8"),
        ("1 5 5\n".encode("utf-32"), 1, "encoding = UTF-32: must be UTF-8"),
        (b"2 5 5\n0 1:1\n", 2, "ends after 1 rows, but the header promises 2"),
        (b"2147483647 5 5\n", 1, "ends after 0 rows"),
        (b"1 5 5\n0 1:1\n\n0 1:1\n", 4, "more rows follow than the 1"),
        (b"1 5 5\n5 1:1\n", 2, "label id '5' is out of range: the header promises 5 labels"),
        (b"1 5 5\n0 5:1\n", 2, "feature id '5' is out of range"),
        (b"1 5 5\n0 " + b"9" * 5000 + b":1\n", 2, "out of range"),
        (b"1 5 5\n-1 1:1\n", 2, "label id '-1' is negative"),
        (b"2 5 5\n\n0 -1:1\n", 3, "feature id '-1' is negative"),
        (b"1 5 5\n1, 1:1\n", 2, "label id '' is not a whole number"),
        (b"1 5 5\n1 3 1:1\n", 2, "expected feature:value, not '3'"),
        (b"1 5 5\n 3\n", 2, "expected feature:value, not '3'"),
        (b"1 5 5\n1 3:\n", 2, "feature value '' is not a number"),
        (b"1 5 5\n1 3:1_0\n", 2, "is not a number"),
        (b"1 5 5\n1 3:0x1\n", 2, "is not a number"),
        (b"1 5 5\n1 3:1\x0b\n", 2, r"'1\x0b' is not a number"),
        (b"1 5 5\n1 3:-NaN\n", 2, "feature value '-NaN' is not finite"),
        (b"1 5 5\n1 3:inf\n", 2, "is not finite"),
        (b"1 5 5\n1 3:3.4028236e38\n", 2, "is too large for float32"),
        (b"1 5 5\n3,1,3 1:1\n", 2, "label id 3 appears more than once"),
        (b"1 5 5\n3 4:1 2:1 4:1 2:1\n", 2, "feature id 2 appears more than once"),
        (b"1 5 5\n1 2:1\xff\n", 2, r"not ASCII text in '1\xff'"),
        (b"1 5 5\n1 2:" + b"x" * 41, 2, "'" + "x" * 40 + "...'"),
    ],
)
def test_malformed_files_name_the_line(parse, tmp_path, content, line, part):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(XmcFormatError, match=re.escape(part)) as caught:
        read_xmc(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}: line {line}: ")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.line) == (str(caught.value), line)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0",
        "+3",
        "1.",
        ".5",
        "0.1",
        "16777217",
        "3.40282356e38",
        "1e-45",
        "7e-46",
        "1e-400",
        "0e99999999999999999999",
        "1e-9999999999999999999",
        "0." + "0" * 500 + "1e501",
        "1" + "0" * 500 + "e-500",
        "0.3333333333333333333333333",
        "9007199254740993",
    ],
)
def test_values_round_like_float(parse, text):
    got = parse(b"1 1 1\n0 0:" + text.encode())[2]
    assert got.tobytes() == np.array([float(text)]).astype(np.float32).tobytes()


NUMBERS = st.one_of(
    st.integers(0, 9).map(str),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
IDS = st.lists(st.integers(0, 12), unique=True, max_size=4)


@st.composite
def files(draw) -> bytes:
    rows = draw(st.lists(st.tuples(IDS, IDS), max_size=4))
    lines = [f"{len(rows)} {draw(st.integers(11, 13))} 13"]
    for labels, features in rows:
        entries = [f"{i}:{draw(NUMBERS)}" for i in features]
        lines.append(" ".join([",".join(map(str, labels)), *entries]))
    return (draw(st.sampled_from(["\n", "\r\n"])).join(lines) + "\n").encode()


@st.composite
def corrupted(draw) -> bytes:
    content = bytearray(draw(files()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.text("0123456789 \t\r\n\v,:.-+eEnaif_\\'é\0", max_size=2)).encode()
        content[at : at + draw(st.integers(0, 3))] = piece
    return bytes(content)


def outcome(parser, content):
    try:
        return [a.tobytes() if isinstance(a, np.ndarray) else a for a in parser(content)]
    except ValueError as error:
        return str(error)


@needs_kernels
@settings(max_examples=400, deadline=None)
@given(corrupted())
@example(b"1 1 1\n0 0:1\xc3\n")
@example(b"1 1 1\n0 0:1\r\r\n")
@example(b"00000000000000001 1 1\n0000000000000000000 000000000000000:1")
def test_parsers_agree(content):
    results = {name: outcome(parser, content) for name, parser in PARSERS.items()}
    assert results["kernels"] == results["python"]


@pytest.mark.parametrize("name", ["xmc_tiny_train.txt", "xmc_tiny_test.txt"])
def test_fixture(parse, name, tmp_path):
    data = read_xmc(FIXTURES / name)
    lines = (FIXTURES / name).read_text().splitlines()
    assert lines[0] == f"{data.num_points} {data.num_features} {data.num_labels}"
    last = data.take([-1])
    features = " ".join(
        f"{i}:{v:g}" for i, v in zip(last.feature_ids, last.feature_values, strict=True)
    )
    assert lines[-1] == ",".join(map(str, last.label_ids)) + " " + features
    write_xmc(tmp_path / "again.txt", data)
    assert (tmp_path / "again.txt").read_bytes() == (FIXTURES / name).read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_round_trip(tmp_path_factory, seed, draw):
    data = make_data(np.random.default_rng(seed), points=5)
    values = st.floats(width=32, allow_nan=False, allow_infinity=False)
    size = data.feature_values.size
    chosen = draw.draw(st.lists(values, min_size=size, max_size=size))
    data = dataclasses.replace(data, feature_values=np.array(chosen, np.float32))
    path = tmp_path_factory.mktemp("xmc") / "data.txt"
    write_xmc(path, data)
    for parser in PARSERS.values():
        arrays = parser(path.read_bytes())
        assert_same(XmcData(*arrays[:5], num_features=arrays[6], num_labels=arrays[7]), data)


def test_gzip(parse, tmp_path):
    data = make_data(np.random.default_rng(0), points=400)
    path = tmp_path / "data.txt.gz"
    write_xmc(path, data)
    first = path.read_bytes()
    assert first[:2] == b"\x1f\x8b"
    assert_same(read_xmc(path), data)
    write_xmc(path, data)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["data.txt.gz"]
    # Recognised by content: under another name, and in several members.
    text = gzip.decompress(first)
    (tmp_path / "data.bin").write_bytes(gzip.compress(text[:900]) + gzip.compress(text[900:]))
    assert_same(read_xmc(tmp_path / "data.bin"), data)
    for damaged in (first[:-20], first[:5], first[:40] + b"\0" * 40 + first[80:], first + b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(XmcFormatError, match=r"line \d+: the gzip stream is damaged"):
            read_xmc(path)


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_xmc(tmp_path / "none.txt")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    data = make_data(np.random.default_rng(0))
    path = tmp_path / "data.txt"
    write_xmc(path, data)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(xmc.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_xmc(path, data.take([0]))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["data.txt"]
    values = np.full_like(data.feature_values, np.nan)
    with pytest.raises(ValueError, match="feature_values = nan in point 0, feature "):
        write_xmc(path, dataclasses.replace(data, feature_values=values))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"feature_ids": np.array([0, 5], np.int32)}, r"feature_ids = 0 to 5: must be in \[0, 5\)"),
        ({"label_ids": np.array([-1], np.int32)}, r"label_ids = -1 to -1: must be in \[0, 2\)"),
        (
            {"feature_ids": np.array([0, 1])},
            r"feature_ids = int64 \(2,\): must be .* int32",
        ),
        (
            {"feature_values": np.ones(3, np.float32)},
            "feature_values.size = 3: must be that of",
        ),
        ({"feature_offsets": np.array([0, 3, 2])}, r"feature_offsets = \[0, 3, 2\]: must rise"),
        ({"label_offsets": np.array([0, 1])}, "label_offsets.size = 2: must be that of"),
        ({"num_labels": -1}, "num_labels = -1: must be from 0"),
        ({"num_features": 2**31}, "num_features = 2147483648: must be from 0 to 2147483647"),
    ],
)
def test_data_checks_itself(changes, part):
    good = XmcData(
        np.array([0, 1, 2]),
        np.array([0, 4], np.int32),
        np.ones(2, np.float32),
        np.array([0, 0, 1]),
        np.array([1], np.int32),
        num_features=5,
        num_labels=2,
    )
    with pytest.raises(ValueError, match=part):
        dataclasses.replace(good, **changes)


def test_take():
    data = make_data(np.random.default_rng(3))
    rows = [5, 0, 5, 36]
    taken = data.take(rows)
    assert taken.num_points == 4
    for i, row in enumerate(rows):
        assert_same(taken.take([i]), data.take([row]))
    assert data.take([]).num_points == 0
    assert_same(data.take([-1]), data.take(slice(36, None)))
    assert_same(data.take(np.arange(37) < 4), data.take(range(4)))
    with pytest.raises(IndexError, match="out of bounds"):
        data.take([37])


def with_rows(features, labels) -> XmcData:
    """Points of these ids, in this order, with ones for values."""

    def side(rows):
        return xmc.offsets_of(np.array([len(row) for row in rows], np.int64)), np.array(
            [i for row in rows for i in row], np.int32
        )

    offsets, ids = side(features)
    return XmcData(offsets, ids, np.ones(ids.size, np.float32), *side(labels), 9, 9)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([[1, 1]], [[]], "feature_ids = 1 twice in point 0: must be distinct"),
        ([[], [2, 3], [], [4, 0, 4], [5, 5]], [[]] * 5, "feature_ids = 4 twice in point 3"),
        ([[3], [3], [8, 7, 6, 7]], [[]] * 3, "feature_ids = 7 twice in point 2"),
        ([[1]] * 3, [[0], [5, 1, 2, 5], []], "label_ids = 5 twice in point 1"),
        ([[2, 1], [1, 2]], [[3], [0, 0]], "label_ids = 0 twice in point 1"),
    ],
)
def test_an_id_twice_in_a_point_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        with_rows(features, labels)


def test_equal_ids_in_neighbouring_points_are_fine():
    data = with_rows([[3, 1], [], [1, 2], [2], [2, 0]], [[4], [4], [], [4, 3], [3]])
    assert data.num_points == 5
    assert with_rows([], []).num_points == 0
    assert with_rows([[], []], [[], []]).num_points == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=4), max_size=5))
def test_refused_as_the_file_would_be(tmp_path_factory, rows):
    """What `write_xmc` writes, `read_xmc` reads."""
    distinct = all(len(set(row)) == len(row) for row in rows)
    try:
        data = with_rows(rows, [[] for _ in rows])
    except ValueError:
        assert not distinct
        return
    assert distinct
    path = tmp_path_factory.mktemp("xmc") / "data.txt"
    write_xmc(path, data)
    assert_same(read_xmc(path), data)


@pytest.mark.parametrize("name", ["data.txt", "data.txt.gz"])
def test_a_byte_order_mark_is_no_part_of_the_header(parse, tmp_path, name):
    data = make_data(np.random.default_rng(0), points=5)
    write_xmc(tmp_path / "plain.txt", data)
    marked = b"\xef\xbb\xbf" + (tmp_path / "plain.txt").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(marked) if name.endswith("gz") else marked)
    assert_same(read_xmc(tmp_path / name), data)
