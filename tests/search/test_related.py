"""Documents like others, and filters by range."""

from __future__ import annotations

import dataclasses
import json

import pytest
from small_index import TINY, run_search, write_rows

from sparse_jax import search

D = search.Document
STEADY = dataclasses.replace(TINY, dim=32)  # rows of 16 random values find chance likenesses
TEXTS = {
    "apple": "red apples grow on trees in orchards",
    "pear": "green pears grow on trees",
    "car": "cars need fuel and roads",
    "truck": "trucks need fuel and wide roads",
    "boat": "boats float on water",
    "ship": "ships float and need fuel",
}
YEARS = dict(zip(TEXTS, (1990, 1995, 2005, 2010, 2015.5, 2020), strict=True))
DOCUMENTS = [D(id, text, metadata={"year": YEARS[id], "kind": id}) for id, text in TEXTS.items()]


@pytest.fixture(scope="module")
def index():
    return search.fit([*DOCUMENTS, D("none", "no metadata"), D("empty", "")], config=STEADY)


def test_more_like_this(index):
    found = search.related(index, "apple", k=3)
    assert found[0].id == "pear" and "apple" not in [r.id for r in found]
    assert found[0].words == ["grow", "on", "trees"] or set(found[0].words) == {
        "grow",
        "on",
        "trees",
    }
    assert search.related(index, ["car"], k=1)[0].id == "truck"
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    assert len(search.related(index, "apple", k=100)) == len(index) - 1


def test_recommendations_from_several(index):
    # Each alone has another nearest; both together, what has something of each.
    both = search.related(index, ["boat", "truck"], k=2)
    assert {r.id for r in both} == {"ship", "car"}
    assert search.related(index, ["boat", "boat", "truck"], k=2) == both
    some = search.related(index, ["boat", "truck"], where={"year": {"<": 2000}})
    assert {r.id for r in some} == {"apple", "pear"}


def test_related_to_itself_changed_stays_first():
    index = search.fit(DOCUMENTS, config=STEADY)
    index.insert([D("copy", TEXTS["boat"]), D("longer", f"{TEXTS['boat']} and {TEXTS['apple']}")])
    assert [r.id for r in search.related(index, "boat", k=2)] == ["copy", "longer"]
    index.delete("copy")
    assert search.related(index, "boat", k=1)[0].id == "longer"


def test_related_of_nothing(index):
    assert len(search.related(index, "empty", k=2)) == 2
    with pytest.raises(KeyError, match="nobody"):
        search.related(index, ["apple", "nobody"])
    with pytest.raises(ValueError, match="ids ="):
        search.related(index, [])
    with pytest.raises(ValueError, match="k = 0"):
        search.related(index, "apple", k=0)


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ({"year": {">": 2005}}, "truck boat ship"),
        ({"year": {">=": 2005, "<": 2015.5}}, "car truck"),
        ({"year": {"<=": 1990}}, "apple"),
        ({"year": {"in": [1990, 2020.0]}}, "apple ship"),
        ({"year": {"not in": {1990, 1995, 2005}}}, "truck boat ship"),
        ({"year": {"!=": 1990, "<": 2006}}, "pear car"),
        ({"year": {"=": 2005}}, "car"),
        ({"year": {"in": []}}, ""),
        ({"kind": {">": "car"}}, "pear truck ship"),
        ({"kind": {"in": ["car", "boat"]}, "year": {">": 2006}}, "boat"),
    ],
)
def test_ranges_and_sets(index, where, right):
    assert {r.id for r in index.search("need fuel", where=where)} == set(right.split())
    (batch,) = index.search_batch(["need fuel"], where=where)
    assert {r.id for r in batch} == set(right.split())


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"year": {"gt": 2005}}, ValueError, "'gt' is no operator; known are =, !=, in, not in, <"),
        ({"year": {}}, ValueError, "must have an operator"),
        ({"year": {">": "2005"}}, TypeError, "must be a number, as the documents have there"),
        ({"kind": {"<": 3}}, TypeError, "must be a string, as the documents have there"),
        ({"year": {">": None}}, TypeError, "must be a number or a string"),
        ({"year": {">": float("nan")}}, TypeError, "must be a number or a string"),
        ({"year": {">": [1]}}, TypeError, "must be a number or a string"),
        ({"year": {"in": 2005}}, TypeError, "must be a list of values"),
        ({"year": {"=": [2005]}}, TypeError, 'use "in" for several'),
        ({"colour": {">": 1}}, KeyError, "colour"),
    ],
)
def test_filters_that_mean_nothing_are_refused(index, where, error, message):
    with pytest.raises(error, match=message):
        index.search("need fuel", where=where)


def test_a_filter_where_no_document_has_metadata_is_refused():
    with pytest.raises(KeyError, match="no document has the metadata 'year'; none has any"):
        search.fit([D("a", "apples")], config=STEADY).search("apples", where={"year": 1})


def test_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, "Config", lambda **_: TINY)
    rows = [{"id": d.id, "text": d.text, **d.metadata} for d in DOCUMENTS]
    run_search(capsys, "index", tmp_path / "i", write_rows(tmp_path / "f.jsonl", rows))

    def ids(*args: str) -> set[str]:
        lines = run_search(capsys, *args[:1], tmp_path / "i", *args[1:], "--json").splitlines()
        return {json.loads(line)["id"] for line in lines}

    assert ids("query", "fuel", "--where", "year>2005", "--where", "year<=2015.5") == {
        "truck",
        "boat",
    }
    assert ids("query", "fuel", "--where", "year!=1990", "--where", "year<2005") == {"pear"}
    assert ids("query", "fuel", "--where", "kind=car", "--where", "kind=boat") == {"car", "boat"}
    assert ids("related", "boat", "truck", "-k", "2") == {"ship", "car"}
    changed = write_rows(tmp_path / "g.jsonl", [{"id": "car", "text": "hoverboards"}])
    run_search(capsys, "index", tmp_path / "i", changed, "--replace")
    assert ids("query", "hoverboards", "-k", "1") == {"car"}
    assert len(ids("query", "fuel")) == len(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_features = 0: must be a whole number, 1 or more"),
        ({"dim": 2.5}, "dim = 2.5"),
        ({"seed": -1}, "seed = -1: must be a whole number, 0 or more"),
        ({"num_features": 1 << 30, "dim": 128}, "product must be below"),
        ({"b": 1.5}, "b = 1.5: must be a finite number, 0 to 1"),
        ({"k1": float("nan")}, "k1 = nan"),
        ({"deep_weight": float("inf")}, "deep_weight = inf"),
        ({"kind_weights": (1.0, 2.0)}, "must be three"),
        ({"kind_weights": (1.0, -1.0, 0.0)}, "kind_weights = -1.0"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search.Config(**options)
