"""Reader, TF-IDF and batching."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import pathlib
import pickle
import re
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparse_jax.data import (
    Batch,
    Capacity,
    XmcData,
    XmcFormatError,
    apply_tfidf,
    batches,
    epoch_order,
    fit_idf,
    make_batch,
    num_batches,
    plan_capacity,
    prefetch,
    read_xmc,
    stack,
    write_xmc,
    xmc,
)
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


def assert_same(a: XmcData, b: XmcData) -> None:
    for field in dataclasses.fields(XmcData):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes(), field.name
        else:
            assert x == y, field.name


def make_data(rng, *, points=37, features=50, labels=20, most=9) -> XmcData:
    """Random ragged data in which some points have no features or no labels."""

    def sides(width, highest):
        counts = rng.integers(0, highest + 1, points)
        ids = [rng.permutation(width)[:c].astype(np.int32) for c in counts]
        return xmc.offsets_of(counts), np.concatenate([*ids, np.zeros(0, np.int32)])

    feature_offsets, feature_ids = sides(features, most)
    label_offsets, label_ids = sides(labels, 3)
    values = rng.integers(1, 6, feature_ids.size).astype(np.float32)
    return XmcData(feature_offsets, feature_ids, values, label_offsets, label_ids, features, labels)


# The reader


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
        (b"\xef\xbb\xbf1 2 3\n", 1, r"not ASCII text in '\xef\xbb\xbf1 2 3'"),
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
    ["0", "-0", "+3", "1.", ".5", "0.1", "16777217", "3.40282356e38", "1e-45", "7e-46", "1e-400",
     "0e99999999999999999999", "1e-9999999999999999999", "0." + "0" * 500 + "1e501",
     "1" + "0" * 500 + "e-500", "0.3333333333333333333333333", "9007199254740993"],
)  # fmt: skip
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
    with pytest.raises(ValueError, match="feature_values of point"):
        write_xmc(path, dataclasses.replace(data, feature_values=values))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"feature_ids": np.array([0, 5], np.int32)}, r"feature_ids must be in \[0, 5\)"),
        ({"label_ids": np.array([-1], np.int32)}, r"label_ids must be in \[0, 2\)"),
        ({"feature_ids": np.array([0, 1])}, "feature_ids must be a one-dimensional int32"),
        ({"feature_values": np.ones(3, np.float32)}, "feature_values and feature_ids"),
        ({"feature_offsets": np.array([0, 3, 2])}, "feature_offsets must rise"),
        ({"label_offsets": np.array([0, 1])}, "equal lengths"),
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


# TF-IDF


def test_tfidf_against_loops():
    data = make_data(np.random.default_rng(1))
    dense = np.zeros((data.num_points, data.num_features))
    rows = np.repeat(np.arange(data.num_points), np.diff(data.feature_offsets))
    dense[rows, data.feature_ids] = data.feature_values
    idf = np.log((1 + data.num_points) / (1 + (dense > 0).sum(0))) + 1
    np.testing.assert_allclose(fit_idf(data), idf, rtol=1e-6)
    weighted = np.log1p(dense) * idf
    norms = np.linalg.norm(weighted, axis=1, keepdims=True)
    weighted /= np.where(norms > 0, norms, 1)
    got = apply_tfidf(data, fit_idf(data))
    assert got.feature_values.dtype == np.float32
    np.testing.assert_allclose(got.feature_values, weighted[rows, data.feature_ids], rtol=1e-6)


def test_tfidf_edges():
    data = make_data(np.random.default_rng(1))
    zeros = dataclasses.replace(data, feature_values=np.zeros_like(data.feature_values))
    assert not apply_tfidf(zeros, fit_idf(zeros)).feature_values.any()
    with pytest.raises(ValueError, match="idf must have shape"):
        apply_tfidf(data, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="negative feature value"):
        negative = dataclasses.replace(data, feature_values=-data.feature_values)
        apply_tfidf(negative, fit_idf(data))


# Batches


def unbatch(made: list[Batch]) -> list[tuple[tuple, tuple]]:
    """The points of the batches, each as its features and its labels; checks the padding."""
    points = []
    for batch in made:
        size = batch.row_mask.size
        assert batch.feature_ids.dtype == batch.feature_rows.dtype == np.int32
        assert batch.label_ids.dtype == batch.label_rows.dtype == batch.label_counts.dtype
        assert batch.feature_values.dtype == np.float32
        assert batch.row_mask.dtype == np.bool_
        for ids, rows in (
            (batch.feature_ids, batch.feature_rows),
            (batch.label_ids, batch.label_rows),
        ):
            real = int((ids >= 0).sum())
            assert (ids[:real] >= 0).all()
            assert (ids[real:] == -1).all() and (rows[real:] == size - 1).all()
            assert (np.diff(rows) >= 0).all() and rows.min() >= 0 and rows.max() < size
        assert not batch.feature_values[batch.feature_ids < 0].any()
        for row in range(size):
            f = (batch.feature_rows == row) & (batch.feature_ids >= 0)
            labels = batch.label_ids[(batch.label_rows == row) & (batch.label_ids >= 0)]
            assert batch.label_counts[row] == labels.size
            if batch.row_mask[row]:
                pairs = zip(batch.feature_ids[f], batch.feature_values[f], strict=True)
                points.append((tuple(pairs), tuple(labels)))
            else:
                assert not f.any() and not labels.size
    return points


def points_of(data: XmcData) -> list[tuple[tuple, tuple]]:
    out = []
    for i in range(data.num_points):
        one = data.take([i])
        pairs = zip(one.feature_ids, one.feature_values, strict=True)
        out.append((tuple(pairs), tuple(one.label_ids)))
    return out


@settings(max_examples=40, deadline=None)
@given(
    data_seed=st.integers(0, 1000),
    points=st.integers(0, 40),
    batch_size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 2**63),
    epoch=st.integers(0, 5),
    drop=st.booleans(),
)
def test_each_point_once_with_everything(data_seed, points, batch_size, seed, epoch, drop):
    data = make_data(np.random.default_rng(data_seed), points=points)
    made = list(batches(data, batch_size, seed=seed, epoch=epoch, drop_remainder=drop))
    assert len(made) == num_batches(points, batch_size, drop_remainder=drop)
    order = epoch_order(points, seed=seed, epoch=epoch)
    if drop:
        order = order[: points // batch_size * batch_size]
    expected = points_of(data)
    assert unbatch(made) == [expected[i] for i in order]


def test_capacity_is_the_exact_maximum():
    data = make_data(np.random.default_rng(2), points=90, features=400, most=40)
    capacity = plan_capacity(data, 8, seed=7, epochs=3)
    made = [
        batch
        for epoch in range(3)
        for batch in batches(data, 8, seed=7, epoch=epoch, capacity=capacity)
    ]
    assert {b.feature_ids.shape for b in made} == {(capacity.features,)}
    most = max(int((b.feature_ids >= 0).sum()) for b in made)
    assert capacity.features == -(-most // 64) * 64
    assert capacity.distinct_labels == max(
        np.unique(b.label_ids[b.label_ids >= 0]).size for b in made
    )
    assert capacity.distinct_features == max(
        np.unique(b.feature_ids[b.feature_ids >= 0]).size for b in made
    )
    by_epoch = [plan_capacity(data, 8, seed=7, epochs=[e]) for e in range(3)]
    for name in ("features", "labels", "distinct_labels", "distinct_features"):
        assert getattr(capacity, name) == max(getattr(c, name) for c in by_epoch)
    with pytest.raises(ValueError, match=r"capacity\.features is 64"):
        list(batches(data, 8, capacity=Capacity(64, 64, 1, 1)))


def test_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(100, seed=s, epoch=e).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4
    assert all(sorted(o) == list(range(100)) for o in orders)
    # Frozen: checkpoints resume in the middle of an epoch, under other versions too.
    assert epoch_order(8, seed=3, epoch=2).tolist() == [2, 3, 6, 4, 1, 7, 5, 0]
    with pytest.raises(ValueError, match="seed and epoch"):
        epoch_order(8, seed=-1, epoch=0)


def test_resuming_in_the_middle():
    data = make_data(np.random.default_rng(2))
    whole = list(batches(data, 5, seed=1, epoch=2))
    rest = list(batches(data, 5, seed=1, epoch=2, start=3))
    for a, b in zip(whole[3:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batch_arguments():
    data = make_data(np.random.default_rng(2))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        batches(data, 0)
    with pytest.raises(ValueError, match="more than batch_size"):
        make_batch(data, np.arange(3), 2, plan_capacity(data, 3, seed=None, epochs=1))


def test_stacked_batches_scan_under_jit():
    data = make_data(np.random.default_rng(4))
    made = list(batches(data, 8, seed=0))
    stacked = stack(made)
    assert stacked.feature_ids.shape == (len(made), made[0].feature_ids.size)

    @jax.jit
    def total(stacked):
        def step(carry, batch):
            return carry + jnp.sum(batch.feature_values), jnp.sum(batch.row_mask)

        return jax.lax.scan(step, jnp.float32(0), stacked)

    amount, counts = total(stacked)
    assert float(amount) == data.feature_values.sum()
    assert int(counts.sum()) == data.num_points
    with pytest.raises(ValueError, match="batches is empty"):
        stack([])
    with pytest.raises(ValueError, match="unequal shapes"):
        stack([made[0], make_batch(data, np.arange(8), 8, Capacity(640, 640, 0, 0))])


# Prefetching


def threads() -> int:
    return sum(t.name == "sparse_jax.prefetch" for t in threading.enumerate())


def test_prefetch_keeps_order_and_ends():
    ahead = prefetch((i for i in range(100)), 3)
    assert list(ahead) == list(range(100))
    assert next(ahead, "end") == "end"
    ahead.close()
    assert threads() == 0


def test_prefetch_works_ahead_within_bounds():
    made = []

    def source():
        for i in range(20):
            made.append(i)
            yield i

    with prefetch(source(), 4) as ahead:
        deadline = time.monotonic() + 10
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02)
        assert len(made) == 5  # four wait, one is in hand
        assert next(ahead) == 0
    assert threads() == 0


def test_prefetch_hands_over_exceptions_in_order():
    def source():
        yield 1
        raise KeyError("here")

    with prefetch(source(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(KeyError, match="here"):
            next(ahead)
        assert next(ahead, "end") == "end"


@pytest.mark.parametrize("how", ["close", "collect", "exception"])
def test_prefetch_stops_and_closes_its_source(how):
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = prefetch(source(), 2)
    next(ahead)
    if how == "close":
        ahead.close()
        ahead.close()
        assert next(ahead, "end") == "end"
    elif how == "collect":
        del ahead
        gc.collect()
    else:
        with pytest.raises(RuntimeError), ahead:
            raise RuntimeError
    assert closed.wait(10)


def test_prefetch_size():
    with pytest.raises(ValueError, match="size must be at least 1"):
        prefetch(iter([]), 0)
