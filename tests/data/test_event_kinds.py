"""Files of events as shops keep them: never a table for sequences, nor an order not theirs."""

import datetime
import io

import numpy as np
import pytest

from sparse_jax import data


def read(text: str, **said: str) -> data.Histories:
    return data.read_histories(io.BytesIO(text.encode()), **said)


TABLES = {
    "names with spaces": "User ID,Product ID,Date\nann,tea,2024-01-02\nbob,egg,2024-01-01\n",
    "quoted": '"User ID","Product ID"\n"ann","tea"\n"bob","egg"\n',
    "no names, blanks behind commas": "1, 5, 4.0, 978300760\n2, 5, 3.0, 978300761\n",
    "unknown names between tabs": "buyer\tthing\twhen\nann\ttea\t1\nbob\tegg\t2\n",
    "no names, tabs": "ann\ttea\t978300760\nbob\tegg\t978300761\n",
    "no names, blanks": "1 5 978300760\n2 5 978300761\n",
    "names between blanks": "user item\nann tea\nbob egg\n",
    "bars": "user | item\nann | tea\nbob | egg\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_a_table_is_not_read_as_sequences(text):
    with pytest.raises(data.FormatError, match=r"line 1: .*must (have|be).*kind='sequences'"):
        read(text)


def test_a_table_may_still_be_called_sequences():
    found = read("ann\ttea\t978300760\nbob\tegg\t978300761\n", kind="sequences")
    assert found.lengths.tolist() == [2, 2]


@pytest.mark.parametrize(
    "text", ["ann tea egg\nbob tea\n", "ann\ttea egg\nbob\ttea\n", "u a b c\n"]
)
def test_sequences_are_still_recognised(text):
    assert read(text).times is None


@pytest.mark.parametrize("mark", ["::", "\t", " "])
def test_ratings_to_ten_and_milliseconds_are_movielens(mark):
    rows = [("1", "5", "8.5", "978300760001"), ("1", "6", "10", "978300760000")]
    found = read("".join(mark.join(row) + "\n" for row in rows))
    assert found.item_names == ("5", "6")
    assert found.items.tolist() == [1, 0]


def test_quoted_names_and_zones():
    found = read('"user_id","item_id","timestamp"\n"a","x","2024-01-01T01:00+02:00"\n')
    assert found.times.tolist() == [1704063600.0]


def test_a_utc_behind_a_date_is_its_zone():
    found = read("user,item,time\na,x,2019-10-01 00:00:01 UTC\na,y,2019-10-01 00:00:00 UTC\n")
    assert found.items.tolist() == [1, 0]


def test_event_time_orders_events_and_other_times_are_spoken_of():
    rows = "a,x,2\na,y,1\n"
    assert read(f"user_id,product_id,event_time\n{rows}").items.tolist() == [1, 0]
    with pytest.warns(UserWarning, match="no column is read as times.*--time ordered_at"):
        assert read(f"user_id,product_id,ordered_at\n{rows}").items.tolist() == [0, 1]
    with pytest.warns(UserWarning, match="--time when"):
        read("user,item,when\na,x,1700000000\na,y,1600000000\n")


@pytest.mark.parametrize("number", ["20240517", "1700000000000"])
def test_numbers_beside_dates_are_unix_times_or_refused(number):
    with pytest.raises(data.FormatError, match=f"line 2: time = {number}: must be a Unix time"):
        read(f"user,item,time\na,x,{number}\na,y,2024-05-15\n")
    assert read("user,item,time\na,x,1700000000\na,y,1970-01-02\n").items.tolist() == [1, 0]
    assert read(f"user,item,time\na,x,{number}\na,y,{int(number) - 1}\n").times[0] > 1e7


def test_ids_that_a_gap_made_floats_are_whole_again():
    found = read("user_id,item_id\n1.0,5.0\n1,5\n2.0,6.0\n")
    assert (found.user_names, found.item_names) == (("1", "2"), ("5", "6"))
    assert read("user,item\na,1.0\na,1.5\n").item_names == ("1.0", "1.5")  # no whole numbers


def test_names_that_stand_for_none_are_spoken_of():
    with pytest.warns(UserWarning, match="2 events have the user 'nan'"):
        read("user,item\nnan,x\nnan,y\nann,x\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('[{"user":"a","item":"x"}]', "is a JSON list"),
        ('{"user":"a","item":["x","y"]}', r"item = \['x', 'y'\]: must be a name"),
        ('{"user":{"id":1},"item":"x"}', r"user = \{'id': 1\}: must be a name"),
    ],
)
def test_what_is_wrong_with_a_cell_of_json_is_said(line, said):
    with pytest.raises(data.FormatError, match=said):
        read(line + "\n")


def test_what_is_no_file_is_refused_with_what_takes_it():
    with pytest.raises(TypeError, match=r"path is a dict: must be a file; .*of_events"):
        data.read_histories({"user": ["a"], "item": ["x"]})


DAYS = ["2024-01-02", "2024-01-01"]


@pytest.mark.parametrize(
    "times",
    [
        np.array(DAYS, "M8[D]"),
        np.array(DAYS, "M8[ns]"),
        [datetime.datetime.fromisoformat(day) for day in DAYS],
        DAYS,
    ],
    ids=["days", "nanoseconds", "datetimes", "texts"],
)
def test_dates_are_seconds_whatever_holds_them(times):
    found = data.of_events(["a", "a"], ["x", "y"], times)
    assert found.times.tolist() == [1704067200.0, 1704153600.0]


def test_dates_of_pandas():
    pandas = pytest.importorskip("pandas")
    for zone in (None, "Europe/Berlin"):
        times = pandas.Series(pandas.to_datetime(DAYS)).dt.tz_localize(zone)
        shift = 0 if zone is None else 3600
        found = data.of_events(["a", "a"], ["x", "y"], times)
        assert found.times.tolist() == [1704067200.0 - shift, 1704153600.0 - shift]
    with pytest.raises(ValueError, match=r"times\[1\] = nan: must be finite"):
        data.of_events(["a", "a"], ["x", "y"], pandas.to_datetime([DAYS[0], None]))


def test_durations_and_mixtures_are_refused():
    with pytest.raises(ValueError, match="times are durations"):
        data.of_events(["a"], ["x"], np.array([1], "m8[s]"))
    with pytest.raises(ValueError, match=r"times\[1\] = 20240517: must be a Unix time"):
        data.of_events(["a", "a"], ["x", "y"], [DAYS[0], 20240517])


def test_parquet_of_decimals_and_of_equal_names():
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def written(table):
        file = io.BytesIO()
        parquet.write_table(table, file)
        return io.BytesIO(file.getvalue())

    ids = arrow.array([7, 8]).cast(arrow.decimal128(38, 0))
    table = arrow.table({"user": ids, "item": ["x", "y"]})
    assert data.read_histories(written(table)).user_names == ("7", "8")
    table = arrow.Table.from_arrays([ids, ids, ids], names=["user", "item", "item"])
    with pytest.raises(data.FormatError, match="two columns are named 'item'"):
        data.read_histories(written(table))


def test_two_columns_of_one_name_behind_their_types():
    with pytest.raises(data.FormatError, match="line 1: two columns are named 'item'; rename one"):
        read("user,item,item:token\nann,1,tea\n")
