"""Tables to points: each kind against its definition, missing and new values, saving, mistakes."""

from __future__ import annotations

import bisect
import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_table import SPECS, table_of

from sparse_jax import data, text
from sparse_jax.data import features
from sparse_jax.data.features.encoder import between, quantile_points
from sparse_jax.runtime import saved


def rows_of(points: data.XmcData) -> list[dict[int, float]]:
    """Values by id of each point; ids must ascend."""
    found = []
    for i in range(points.num_points):
        at = slice(points.feature_offsets[i], points.feature_offsets[i + 1])
        ids = points.feature_ids[at]
        assert np.all(np.diff(ids) > 0) and (not ids.size or ids[-1] < points.num_features)
        found.append(dict(zip(ids.tolist(), points.feature_values[at].tolist(), strict=True)))
    return found


def encode(table, *specs, ask=None):
    fitted = features.fit(table, features.Schema(specs))
    return rows_of(features.transform(fitted, table if ask is None else ask))


NAN = float("nan")


# ------------------------------------------------------------------------------------------- kinds


def test_categories_of_one_value_each():
    table = {"shop": ["b", "a", "b", None, "a", "b", "rare"]}
    ask = {"shop": ["b", "a", "rare", "new", None, "", NAN]}
    found = encode(table, features.Category("shop"), ask=ask)
    # b is the more frequent; 2 is any other value, 3 a missing one.
    assert found == [{0: 1}, {1: 1}, {2: 1}, {2: 1}, {3: 1}, {3: 1}, {3: 1}]


def test_numbers_and_texts_of_one_value_are_one_category():
    table = {"code": [1, 1, 2, 2], "again": [1.0, 1.0, 2.0, NAN]}
    fitted = features.fit(table, features.Schema((features.Category("code"),)))
    for same in ([1, 2], [1.0, 2.0], ["1", "2"], np.array([1, 2]), np.array([1.0, 2.0])):
        assert rows_of(features.transform(fitted, {"code": same})) == [{0: 1}, {1: 1}]


def test_several_categories_in_one_text():
    table = {"tags": ["a|b", "b|a", " b | c ", "c", None]}
    ask = {"tags": ["a|b", "b", "new|other", "a|a", None, "|"]}
    found = encode(table, features.Categories("tags", "|"), ask=ask)
    half = float(np.float32(1 / np.sqrt(2)))
    # b, a, c by frequency; 3 is any other value, 4 none at all.
    assert found == [{0: half, 1: half}, {0: 1}, {3: 1}, {1: 1}, {4: 1}, {4: 1}]


def test_numbers_lie_between_two_quantiles():
    table = {"price": [0.0, 1, 2, 3, 4]}
    ask = {"price": [0.0, 0.5, 4, -9, 99, None, float("inf")]}
    found = encode(table, features.Number("price", bins=3), ask=ask)
    assert found == [
        {0: 1}, {0: 0.75, 1: 0.25}, {2: 1}, {0: 1}, {2: 1}, {3: 1}, {3: 1},
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.lists(st.floats(allow_nan=True, allow_infinity=False), max_size=9),
    st.integers(2, 9),
)
def test_shares_of_quantiles_give_the_number_back(seen, asked, count):
    points = quantile_points(np.array(seen), count)
    assert np.all(np.diff(points) > 0) and points[0] == min(seen) and points[-1] == max(seen)
    x = np.array(asked, np.float64)
    found = between(x, points)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-6)
    missing = np.isnan(x)
    assert np.all(found.values[missing, 0] == points.size)
    back = (np.append(points, 0)[found.values] * found.weights).sum(axis=1)
    expected = np.clip(x[~missing], points[0], points[-1])
    np.testing.assert_allclose(
        back[~missing], expected, rtol=1e-5, atol=1e-5 * np.abs(points).max()
    )


def test_texts_are_weighted_words():
    texts = ["red apple", "red car", None, "apple car"]
    found = encode({"about": texts}, features.Text("about"))
    vectorizer = text.fit([x or "" for x in texts])
    expected = text.transform(vectorizer, [x or "" for x in texts])
    assert [list(row.values()) for row in found] == [
        expected.values[:2].tolist(), expected.values[2:4].tolist(), [1.0],
        expected.values[4:6].tolist(),
    ]  # fmt: skip
    assert found[2] == {vectorizer.num_features: 1.0}  # a missing text is a value


def test_dates_by_their_parts():
    days = ["2024-02-29T13:00:00", "2023-12-31T00:30:00", "2024-01-01T23:59:59", None]
    spec = features.Date("when", bins=2)
    found = encode({"when": days}, spec)
    # Two points of time and a missing one; 2 years, 12 months, 31 days, 7 weekdays, 24 hours.
    year, month, day, weekday, hour = 3, 5, 17, 48, 55
    for row, (y, m, d, w, h) in zip(
        found[:3], [(1, 1, 28, 3, 13), (0, 11, 30, 6, 0), (1, 0, 0, 0, 23)], strict=True
    ):
        parts = {year + y, month + m, day + d, weekday + w, hour + h}
        assert parts == {i for i in row if i >= 3}
        assert datetime.date.fromisoformat("2024-01-01").weekday() == 0
    assert found[3] == {2: 1.0}
    given_as = [
        np.array(days[:3], "datetime64[s]"),
        [datetime.datetime.fromisoformat(x) for x in days[:3]],
        [datetime.datetime.fromisoformat(x + "+00:00") for x in days[:3]],
        [x + "Z" for x in days[:3]],
    ]
    for other in given_as:
        assert encode({"when": days}, spec, ask={"when": other}) == found[:3]


def test_dates_without_hours_have_no_feature_of_them():
    table = {"when": ["2024-02-28", "2024-02-29", "2024-03-01"]}
    fitted = features.fit(table, features.Schema((features.Date("when", bins=2),)))
    assert fitted.num_features == 3 + 12 + 31 + 7


def test_crosses_of_two_columns():
    table = {"a": ["x", "x", "y", "y"] * 3, "b": ["p", "q", "p", "q"] * 3, "n": [0.0, 4] * 6}
    specs = (features.Category("a"), features.Category("b"), features.Number("n", coarse=2))
    crosses = (features.Cross("a", "b"), features.Cross("a", "n"))
    fitted = features.fit(table, features.Schema((*specs, *crosses)))
    assert [encoder.width for encoder in fitted.encoders][3:] == [4, 4]
    start = sum(encoder.width for encoder in fitted.encoders[:3])
    ask = {"a": ["x", "y", "new"], "b": ["p", "q", "p"], "n": [0.0, 1.0, 0.0]}
    found = [
        {id - start: value for id, value in row.items() if id >= start}
        for row in rows_of(features.transform(fitted, ask))
    ]
    assert found == [{0: 1, 4: 1}, {3: 1, 6: 0.75, 7: 0.25}, {}]


def slow_history(rows, count):
    """(value, age) pairs before each row, the latest first; equal times are not before."""
    found = []
    for key, when, _ in rows:
        known = [(t, v) for k, t, v in rows if k == key and v is not None and t < when]
        known.sort(key=lambda pair: (pair[0], pair[1]))
        found.append([(v, when - t) for t, v in known[::-1][:count]] if key is not None else [])
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u", "v", None]), st.integers(0, 9), st.sampled_from(["a", "b", None])
        ),
        min_size=2,
        max_size=25,
    ),
    st.integers(0, 20),
)
def test_histories_are_what_came_before(rows, cut):
    # Values of one time have the order of their places: "a" and "b" occur as often as they do.
    cut = min(cut, len(rows) - 1) + 1
    names = ("user", "when", "bought")
    whole = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    whole["when"] = np.array(whole["when"], float)
    seen = {name: column[:cut] for name, column in whole.items()}
    if not any(seen["bought"]):
        return
    spec = features.History("user", "when", "bought", count=2, min_count=1)
    fitted = features.fit(seen, features.Schema((spec,)))
    values = fitted.encoders[0].names
    size = len(values) + 1
    place = {name: i for i, name in enumerate(values)}

    def shown(rows):
        found = []
        for row in rows:
            latest = [i for i in row if i < 2 * size]
            assert all(row[i] == 1 for i in latest)
            count = [i - 3 * size for i in row if 3 * size <= i < 3 * size + 3]
            assert count == [len(latest)]
            found.append([i % size for i in latest])
        return found

    def expected(rows):
        def rank(value):
            return place.get(value, size - 1)

        ordered = [(k, t, None if v is None else rank(v)) for k, t, v in rows]
        return [[v for v, _ in row] for row in slow_history(ordered, 2)]

    assert shown(rows_of(features.transform(fitted, seen))) == expected(rows[:cut])
    # Rows to come know the table that was learned from.
    later = [(k, t + 10, v) for k, t, v in rows[cut:]]
    if later:
        ask = {name: [row[i] for row in later] for i, name in enumerate(names)}
        ask["when"] = np.array(ask["when"], float)
        both = expected(rows[:cut] + later)[cut:]
        assert shown(rows_of(features.transform(fitted, ask))) == both
        del ask["bought"]  # what is to be predicted may not be known
        alone = [expected([*rows[:cut], row])[-1] for row in later]
        assert shown(rows_of(features.transform(fitted, ask))) == alone


def test_histories_have_ages_and_can_be_crossed():
    day = np.datetime64("2024-01-01")
    table = {
        "user": ["u"] * 6 + ["v"],
        "when": day + np.array([0, 1, 2, 3, 4, 40, 5]),
        "bought": ["a", "b", "a", "b", "a", "b", "a"],
        "shop": ["s"] * 7,
    }
    specs = (
        features.History("user", "when", "bought", count=1),
        features.Category("shop"),
        features.Cross("history of bought", "shop", min_count=1),
    )
    fitted = features.fit(table, features.Schema(specs))
    ages = fitted.encoders[0].arrays["ages"]
    np.testing.assert_allclose(np.expm1(ages), [86_400, 36 * 86_400], rtol=1e-9)
    rows = rows_of(features.transform(fitted, table))
    start = 2 * 3 + 2  # values at place 1, values at all, how many
    assert start in rows[1] and start + 1 in rows[5] and start + 2 in rows[0]  # missing
    crossed = [max(row) - sum(e.width for e in fitted.encoders[:2]) for row in rows]
    assert crossed == [2, 0, 1, 0, 1, 0, 2]


# ------------------------------------------------------------------------------------ whole tables


def same(a: data.XmcData, b: data.XmcData) -> bool:
    names = ("feature_offsets", "feature_ids", "feature_values")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_saved_and_loaded_it_gives_the_same_bits(tmp_path):
    fitted = features.fit(table_of(60), features.Schema(SPECS))
    ask = table_of(30, seed=1)
    config, arrays = features.to_saved(fitted)
    saved.save(tmp_path, kind="toy", config=config, arrays=arrays)
    config, arrays = saved.load(tmp_path, kind="toy")
    again = features.from_saved(config, arrays)
    assert again.schema == fitted.schema and str(again.schema) == str(fitted.schema)
    assert again.num_features == fitted.num_features
    assert same(features.transform(again, ask), features.transform(fitted, ask))
    with pytest.raises(ValueError, match="save the model anew"):
        features.from_saved(config, {k: v for k, v in arrays.items() if k != "2_points"})


def test_rows_do_not_depend_on_their_neighbours():
    """But for histories, which are of other rows."""
    specs = [s for s in SPECS if not isinstance(s, features.History) and "history" not in str(s)]
    fitted = features.fit(table_of(60), features.Schema(tuple(specs)))
    ask = table_of(20, seed=1)
    whole = rows_of(features.transform(fitted, ask))
    for i in (0, 7, 19):
        one = {name: column[i : i + 1] for name, column in ask.items()}
        assert rows_of(features.transform(fitted, one)) == [whole[i]]
    nothing = {name: column[:0] for name, column in ask.items()}
    assert features.transform(fitted, nothing).num_points == 0


def test_frames_are_tables():
    class Frame:
        """What pandas and polars have in common."""

        def __init__(self, table):
            self.columns = list(table)
            self._table = table

        def __getitem__(self, name):
            return self._table[name]

    table = table_of(40)
    fitted = features.fit(table)
    assert same(features.transform(features.fit(Frame(table)), Frame(table)),
                features.transform(fitted, table))  # fmt: skip


LIBRARIES = {"pandas": "pandas", "polars": "polars"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_frames_of_libraries_are_tables(library):
    frames = pytest.importorskip(LIBRARIES[library])
    table = table_of(40)
    plain = {
        name: getattr(column, "tolist", lambda c=column: c)() for name, column in table.items()
    }
    frame = frames.DataFrame(plain)
    fitted = features.fit(table)
    assert features.guess(frame) == fitted.schema
    assert same(features.transform(features.fit(frame), frame), features.transform(fitted, table))
    whole = frames.DataFrame({"n": [1, None, 3], "s": ["a", None, "a"]})
    specs = features.Schema((features.Category("n", 1), features.Category("s", 1)))
    rows = rows_of(features.transform(features.fit(whole, specs), whole))
    assert rows == [{0: 1, 4: 1}, {3: 1, 6: 1}, {1: 1, 4: 1}]


def test_quantile_points_are_distinct_and_of_the_data():
    seen = np.sort(np.random.default_rng(0).integers(0, 5, 100)).astype(float)
    assert quantile_points(seen, 9).tolist() == sorted(set(seen.tolist()))
    assert quantile_points(np.array([NAN]), 4).tolist() == [0.0]
    assert bisect.bisect(quantile_points(np.arange(101.0), 5).tolist(), 50) == 3
