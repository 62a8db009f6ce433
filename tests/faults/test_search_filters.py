"""Row 15 of the table of faults: filters by metadata know true from 1, and null from nothing."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from small_index import TINY, run_search, write_rows

from sparse_jax import search

D = search.Document


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes that commands make are small."""
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))


TYPED = [
    D("a", "apple", metadata={"pages": 1, "draft": True}),
    D("b", "apple", metadata={"pages": True, "draft": 1}),
    D("c", "apple", metadata={"pages": "1", "draft": "true"}),
    D("d", "apple", metadata={"pages": 2, "draft": False}),
    D("e", "apple", metadata={"pages": None, "draft": 0}),
    D("f", "apple", metadata={"pages": 1.0}),
]


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ({"pages": 1}, "af"),
        ({"pages": 1.0}, "af"),
        ({"pages": True}, "b"),
        ({"pages": "1"}, "c"),
        ({"pages": None}, "e"),
        ({"draft": False}, "d"),
        ({"draft": 0}, "e"),
        ({"draft": True}, "a"),
        ({"draft": 1}, "b"),
        ({"draft": np.True_}, "a"),
        ({"pages": np.int64(1)}, "af"),
        ({"pages": [True, 2]}, "bd"),
        ({"pages": (1, None)}, "aef"),
        ({"draft": {False}}, "d"),
        ({"pages": []}, ""),
        ({"pages": 1, "draft": True}, "a"),
    ],
)
def test_filters_keep_types_apart(where, right):
    index = search.fit(TYPED, config=TINY)
    assert sorted(r.id for r in index.search("apple", where=where)) == list(right)
    (batch,) = index.search_batch(["apple"], where=where)
    assert sorted(r.id for r in batch) == list(right)


@pytest.mark.parametrize("value", [[[1]], b"1"])
def test_filters_of_no_type_of_metadata_are_refused(value):
    with pytest.raises(TypeError, match=r"where\['pages'\]"):
        search.fit(TYPED, config=TINY).search("apple", where={"pages": value})


def test_an_upsert_knows_true_from_1():
    index = search.fit(TYPED, config=TINY)
    index.upsert([D("a", "apple", metadata={"pages": True, "draft": True})])
    assert sorted(r.id for r in index.search("apple", where={"pages": True})) == ["a", "b"]


def test_filters_on_the_command_line(tmp_path, capsys):
    run_search(
        capsys, "index", tmp_path / "i", write_rows(tmp_path / "f", [d.record() for d in TYPED])
    )

    def found(*where: str) -> str:
        options = [x for w in where for x in ("--where", w)]
        out = run_search(capsys, "query", tmp_path / "i", "apple", "--json", *options)
        return "".join(sorted(json.loads(line)["id"] for line in out.splitlines()))

    assert found("pages=1") == "acf"
    assert found("pages=true") == "b"
    assert found("pages=null") == "e"
    assert found("draft=false") == "d"
    assert found("draft=0") == "e"
    assert found("draft=true") == "ac"
    assert found("pages=true", "pages=2") == "bd"
    assert found("pages=[1]") == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metadata_that_json_has_not_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        D("a", "apple", metadata={"price": value})
