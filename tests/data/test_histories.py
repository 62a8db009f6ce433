"""Histories: kinds of files, order, repeats, splits, and what is refused."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest

from sparse_jax import data

CSV = "user_id,item_id,timestamp\nu,b,20\nv,a,5\nu,a,10\n"


def read(content: str, **options):
    return data.read_histories(io.BytesIO(content.encode()), **options)


def by_name(histories) -> dict[str, list[str]]:
    return {
        user: [histories.item_names[i] for i in histories.of(row)]
        for row, user in enumerate(histories.user_names)
    }


@pytest.mark.parametrize(
    "content",
    [
        "u a b\nv a\n",
        "u a\nv a\nu b\n",  # an event a line
        CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(
            "user_id,item_id,timestamp", "user_id:token\titem_id:token\ttimestamp:float"
        ).replace(",", "\t"),  # RecBole
        CSV.replace("20", "2024-03-02").replace("10", "2024-03-01T12:00:00+00:00"),
        '{"user": "v", "item": "a"}\n{"user": "u", "item": "a"}\n{"user": "u", "item": "b"}\n',
    ],
)
def test_every_kind_says_the_same(content):
    assert by_name(read(content)) == {"u": ["a", "b"], "v": ["a"]}


@pytest.mark.parametrize("mark", ["\t", "::", " "])
def test_movielens(mark):
    rows = [(1, 31, 2.5, 1260759144), (1, 9, 3, 1260759100), (2, 31, 1, 1260759200)]
    content = "\n".join(mark.join(map(str, row)) for row in rows) + "\n"
    assert by_name(read(content)) == {"1": ["9", "31"], "2": ["31"]}
    with pytest.raises(data.FormatError, match="line 4: has 2 cells: must have 4"):
        read(content + f"3{mark}4\n")


def test_parquet_and_gzip(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"who": [1, 1, 2], "what": [7, 5, 5], "when": [2, 1, 1]})
    parquet.write_table(table, tmp_path / "events.parquet")
    found = data.read_histories(tmp_path / "events.parquet", user="who", item="what", time="when")
    assert by_name(found) == {"1": ["5", "7"], "2": ["5"]}
    (tmp_path / "h.gz").write_bytes(gzip.compress(b"u a b\n"))
    assert by_name(data.read_histories(tmp_path / "h.gz")) == {"u": ["a", "b"]}


def test_order_repeats_and_weights():
    """Sorted by time, then as given; equal events once; a weight of 0 or less is no event."""
    users = ["u"] * 6
    items = ["b", "a", "b", "c", "b", "d"]
    times = [3, 3, 3, 1, 5, 0]
    found = data.of_events(users, items, times, [1, 2, 1, 0.5, 1, 0])
    assert by_name(found) == {"u": ["c", "b", "a", "b"]}
    assert found.times.tolist() == [1, 3, 3, 5]
    assert len(found.notes) == 2
    unsorted = data.of_events(users, items)
    assert by_name(unsorted) == {"u": items}  # without times, repeats are events


def test_equal_events_needn_t_be_neighbours():
    found = data.of_events(["u"] * 3, ["b", "a", "b"], [1, 1, 1])
    assert by_name(found) == {"u": ["b", "a"]}


def test_ids_don_t_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 200), rng.integers(0, 99, 200)
    order = rng.permutation(200)
    one = data.of_events(users, items, np.arange(200))
    other = data.of_events(users[order], items[order], np.arange(200)[order])
    assert one.item_names == other.item_names and by_name(one) == by_name(other)
    assert list(one.item_names) == sorted(one.item_names, key=int)


def test_a_user_of_no_event_left_is_none():
    found = data.of_events(["u", "v"], ["a", "b"], weights=[0, 1])
    assert found.user_names == ("v",) and found.item_names == ("a", "b")


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
BIG = "1" + "0" * 400  # beyond float64, and 20 times as long beyond what JSON's reader takes


def test_published_layouts_unsorted_twice_and_of_one_event():
    """As RecBole's atomic files and pairs of SASRec's have them."""
    with pytest.warns(UserWarning, match="1 events that come twice count once"):
        found = read(f"{INTER}1\t2\t3\t9\n1\t7\t3\t5\n1\t2\t3\t9\n2\t7\t1\t1\n")
    assert by_name(found) == {"1": ["7", "2"], "2": ["7"]}
    assert by_name(read("1 5\n2 6\n1 7\n")) == {"1": ["5", "7"], "2": ["6"]}
    assert len(data.leave_one_out(found).targets) == 1


@pytest.mark.parametrize(
    ("content", "said", "message"),
    [
        ("u a\nv\n", {}, "line 2: has a user, 'v', and no item"),
        ("", {}, "line 1: the file is empty"),
        ("user,item,time\nu,a,1\nu,b,soon\n", {}, "line 3: time = 'soon': must be a number"),
        ("user,item,time\nu,a,nan\n", {}, "line 2: time = 'nan'"),
        ("user,item\nu,a\n,b\n", {}, "line 3: user is missing"),
        ("user,item\nu,a\nu\n", {}, "line 3: has 1 cells: must have 2"),
        ("user,item,weight\nu,a,inf\n", {}, "line 2: weight = 'inf'"),
        ('{"user": "u"}\n', {}, "must have one column of items"),
        ('{"user": "u", "item": "a"}\n{"user": null, "item": "a"}\n', {}, "line 2: user is miss"),
        ("a,b\nu,x\n", {"user": "who"}, "must have 'who'; name the column of users"),
        ("user,uid,item\nu,x,y\n", {}, "has user and uid: must have one column of users"),
        (f"{INTER}u\ta\t3\t5\nu\tb\t3\n", {}, "line 3: has 3 cells: must have 4"),
        (f"{INTER}u\ta\t3\tsoon\n", {}, "line 2: time = 'soon'"),
        (f"{INTER}u\t\t3\t5\n", {}, "line 2: item is missing"),
        ("1 5\n1 6\n2\n", {}, "line 3: has a user, '2', and no item"),
        (f'{{"user": 1, "item": 2, "time": {BIG}}}\n', {}, "line 1: time = 1000"),
        (f'{{"user": 1, "item": 2, "weight": {BIG}}}\n', {}, "line 1: weight = 1000"),
        (f'{{"user": 1, "item": {BIG * 20}}}\n', {}, "line 1: is no JSON (Exceeds the limit"),
    ],
)
def test_malformed_files(content, said, message):
    with pytest.raises(data.FormatError) as raised:
        read(content, **said)
    assert message in str(raised.value)


def test_refused_options():
    with pytest.raises(ValueError, match="no effect on kind sequences"):
        read("u a b\n", kind="sequences", user="u")
    with pytest.raises(ValueError, match="kind = 'xml': must be one of"):
        read("u a b\n", kind="xml")
    with pytest.raises(ValueError, match=r"times\[1\] = nan: must be finite"):
        data.of_events(["u", "u"], ["a", "b"], [1, np.nan])
    with pytest.raises(ValueError, match="items = 1 entries: must be 2"):
        data.of_events(["u", "u"], ["a"])


def test_numbers_have_the_names_that_files_give_them():
    found = data.of_events(np.array([7.0, 8.5]), [3.0, np.float32(4)])
    assert found.user_names == ("7", "8.5") and found.item_names == ("3", "4")
    assert data.of_lists([[3.0, True, 2**70]]).item_names == ("1180591620717411303424", "3", "true")


def test_what_is_missing_is_no_name():
    with pytest.raises(ValueError, match=r"items\[1\] = None: must be a name or number"):
        data.of_events(["u", "u"], ["a", None])
    with pytest.raises(ValueError, match=r"users\[0\] = nan: must be a name or number"):
        data.of_events(np.array([np.nan, 1]), ["a", "b"])
    with pytest.raises(ValueError, match=r"lists\[1\]\[0\] = nan: must be a name or number"):
        data.of_lists([["a"], [float("nan")]])


def test_a_text_is_no_list_of_letters():
    with pytest.raises(ValueError, match=r"lists\[1\] = 'tea': must be a list of items; put it"):
        data.of_lists([["egg"], "tea"])


def test_notes_are_told():
    with pytest.warns(UserWarning, match="1 events that come twice count once"):
        read("user,item,time\nu,a,1\nu,a,1\n")


def test_leave_one_out():
    histories = data.of_lists([["a", "b", "c"], ["b"], ["c", "a"]])
    test = data.leave_one_out(histories)
    assert by_name(test.train) == {"0": ["a", "b"], "1": ["b"], "2": ["c"]}
    assert by_name(test.contexts) == {"0": ["a", "b"], "2": ["c"]}
    assert test.targets.tolist() == [2, 0] and test.skipped == 1
    validation = data.leave_one_out(histories, stage="validation")
    assert by_name(validation.contexts) == {"0": ["a"]} and validation.targets.tolist() == [1]
    assert 2 not in validation.train.items[:1] and validation.skipped == 2
    with pytest.raises(ValueError, match="stage = 'dev'"):
        data.leave_one_out(histories, stage="dev")


def test_split_at_a_time_trains_on_nothing_later():
    histories = data.of_events(
        ["u", "u", "u", "v", "w"], ["a", "b", "c", "a", "b"], [1, 5, 6, 7, 2]
    )
    split = data.split_at(histories, 5)
    assert by_name(split.train) == {"u": ["a"], "v": [], "w": ["b"]}
    assert by_name(split.contexts) == {"u": ["a"]} and split.targets.tolist() == [1]
    assert split.skipped == 2 and split.train.times.max() < 5
    with pytest.raises(ValueError, match="must have a user with events before and after"):
        data.split_at(histories, 0)
    moments = data.of_events(["u", "u"], ["a", "b"], [1714521600, 1714521601])
    with pytest.raises(ValueError, match=r"time = 1714521602: .* from 1714521600 to 1714521601"):
        data.split_at(moments, 1714521602)
    with pytest.raises(ValueError, match="have no times"):
        data.split_at(data.of_lists([["a"]]), 0)


def test_take_keeps_each_user_s_events():
    histories = data.of_lists([["a", "b"], [], ["c"]])
    assert by_name(histories.take(np.array([2, 0]))) == {"2": ["c"], "0": ["a", "b"]}
    assert by_name(histories.take(np.array([False, True, False]))) == {"1": []}
