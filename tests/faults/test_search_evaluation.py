"""Rows 29 and 42 of the table of faults: answers that are not there, ids, and documents twice."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from small_index import TINY, run_search, write_rows

from sparse_jax import search
from sparse_jax.search import evaluation
from sparse_jax.search.evaluation import Judgement


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes that commands make are small."""
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))


def judged(*queries: dict) -> list[dict]:
    documents = [{"kind": "doc", "id": str(n), "text": f"apple number {n}"} for n in range(3)]
    return [*documents, *({"kind": "query", "text": "apple", **q} for q in queries)]


def test_missing_answers_are_left_out_and_counted(tmp_path, capsys, monkeypatch):
    rows = judged(
        {"rel": ["1", "gone"]}, {"rel": ["gone", "lost"]}, {"qrels": {"2": 2, "gone": 1, "0": 0}}
    )
    data = evaluation.read_dataset(write_rows(tmp_path / "f", rows))
    assert [q.grades for q in data.queries] == [{"1": 1.0}, {"2": 2.0}]
    assert (data.counts.missing_answers, data.counts.skipped_queries) == (4, 1)
    assert data.queries[0].absent == {"gone": 1.0}
    fit = search.fit
    monkeypatch.setattr(search, "fit", lambda d, config=None: fit(d, config=TINY))
    out = run_search(capsys, "evaluate", tmp_path / "f")
    assert "4 judgements of documents that aren't there" in out
    assert "1 queries without an answer that is there, left out" in out
    results = json.loads(out.splitlines()[-1])
    assert (results["missing_answers"], results["skipped_queries"]) == (4, 1)
    with pytest.raises(ValueError, match="2 judgements of documents that aren't there"):
        evaluation.read_dataset(write_rows(tmp_path / "g", judged({"rel": ["gone", "lost"]})))


def test_ids_as_beir_has_them(tmp_path, capsys):
    rows = [
        {"kind": "doc", "_id": 4983, "text": "apple"},
        {"kind": "doc", "_id": "MED-10", "text": "pear", "title": "fruit"},
        {"kind": "query", "_id": 1, "text": "apple", "rel": [4983]},
        {"kind": "query", "_id": "2", "text": "pear", "qrels": {"MED-10": 1, "4983": 0}},
    ]
    data = evaluation.read_dataset(write_rows(tmp_path / "f", rows))
    assert [d.id for d in data.documents] == ["4983", "MED-10"]
    assert [q.grades for q in data.queries] == [{"4983": 1.0}, {"MED-10": 1.0}]
    documents = [{k: v for k, v in r.items() if k != "kind"} for r in rows[:2]]
    run_search(capsys, "index", tmp_path / "i", write_rows(tmp_path / "g", documents))
    found = json.loads(run_search(capsys, "query", tmp_path / "i", "apple", "-k", "1", "--json"))
    assert found["id"] == "4983"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"_id": True, "text": "a", "title": "b"}, "_id = True"),
        ({"id": 1.5, "text": "a", "title": "b"}, "id = 1.5"),
        ({"id": "a", "_id": "b", "text": "a", "title": "b"}, "drop the other"),
        ({"text": "a", "title": "b"}, "id = None"),
        ({"kind": "query", "text": "a", "rel": [None]}, "rel = None"),
        ({"kind": "query", "text": "a", "qrels": {"a": True}}, "finite numbers"),
        ({"kind": "query", "text": "a", "qrels": {"a": math.nan}}, "finite numbers"),
    ],
)
def test_ids_and_grades_that_are_none_are_refused(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        evaluation.read_dataset(write_rows(tmp_path / "f", [row]))


@pytest.mark.parametrize("found", [["a", "a"], ["b", "a", "b"], ["x"] * 12])
def test_a_ranking_with_a_document_twice_is_refused(found):
    judgement = Judgement("q", {"a": 1.0}, "g")
    with pytest.raises(ValueError, match=r"found\[1\] holds .* twice"):
        evaluation.gains_to_scores([["a"], found], [judgement, judgement])
    with pytest.raises(ValueError, match="twice"):
        evaluation.measure(lambda queries: [found for _ in queries], [judgement])
