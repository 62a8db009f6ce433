"""The study of answers: what it compares, on a few documents whose figures are known."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")
pytest.importorskip("rouge_score", reason="needs sparse_jax[summarize]")

import answers
from small_index import TINY, write_rows

from sparse_jax import search

TOPICS = [
    f"{first}{second}itis" for first in ("zorn", "glim", "plum", "kver") for second in "abcde"
]
ASPECTS = {
    "symptoms": (
        "What are the symptoms of {}?",
        "Fever and symptoms of pain show in {}. It aches.",
    ),
    "treatment": ("How is {} treated?", "Doctors treated {} with herbs and rest. It goes away."),
}


def rows() -> list[dict]:
    """Two documents a topic, and for a third of the topics the treatment by another source."""
    found = []
    for number, topic in enumerate(TOPICS):
        for aspect, (question, text) in ASPECTS.items():
            texts = [text.format(topic)]
            if aspect == "treatment" and number % 3 == 0:
                texts.append(f"Herbs are given where {topic} is treated. Rest helps.")
            for source, one in enumerate(texts):
                row = {"kind": "doc", "id": f"{aspect}{number}-{source}", "title": topic}
                row |= {"text": one, "qtype": aspect, "question": question.format(topic)}
                found.append(row | {"split": "train" if number % 4 == 3 else "test"})
    return found


@pytest.fixture
def small(monkeypatch):
    fit = search.fit
    monkeypatch.setattr(search, "fit", lambda documents: fit(list(documents), config=TINY))


@pytest.fixture
def report(small, tmp_path, capsys):
    medquad = write_rows(tmp_path / "m.jsonl", [*rows(), {"kind": "alias_query", "id": "q"}])
    other = [
        {
            "id": str(n),
            "title": f"How does engine{n} burn?",
            "text": f"So burns engine{n}. It is hot.",
        }
        for n in range(8)
    ]
    others = write_rows(
        tmp_path / "other.jsonl", [*other, {"id": "none", "title": "?", "text": ""}]
    )
    answers.main([str(medquad), "--others", str(others), "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    return found


def test_figures(report):
    own, another, long = report["own"], report["another"], report["long"]
    test = [row for row in rows() if row["split"] == "test"]
    assert (own["questions"], own["answered"]) == (len(test), len(test))
    assert own["source_is_of_topic"] == own["first_is_of_topic"] == 1
    # Where the own document is found, all of it is the answer.
    single = sum(row["qtype"] == "symptoms" or row["id"].endswith("-1") for row in test)
    assert own["answer_rouge1"] >= 100 * own["source_is_own"] > 100 * single / len(test) / 2
    assert another["questions"] == sum(
        f"{row['id'][:-1]}1" in {r["id"] for r in test} for row in test
    )
    assert another["source_is_own"] == 0 and another["source_is_of_topic"] == 1
    assert 0 < another["answer_rouge1"] < 100
    assert long["questions"] == len(test) and long["source_is_own"] == 1
    assert own["error_rouge1"] >= 0 and own["words"] > 5


def test_what_is_refused(report):
    refused = report["refused"]
    own = "answerable, titles of other.jsonl"
    assert set(refused) == {"answerable", "topics taken out", "other.jsonl", own}
    assert refused[own]["0.8"] == 0
    assert refused["answerable"]["0.6"] == 0 and refused["other.jsonl"]["0.6"] == 1
    for shares in refused.values():
        assert list(shares.values()) == sorted(shares.values())  # a higher bound refuses no less


def test_samples():
    assert answers.halved(range(6), "train") == range(0, 6, 2)
    assert answers.halved(range(6), "test") == range(1, 6, 2)
    queries = [{"kind": "doc", "title": "t", "text": "x"}, {"kind": "query", "text": "why"}]
    assert answers.other_questions(queries, "train") == ["why"]
    assert answers.untitled(queries, "train") is None
    assert answers.spread(range(10), 3) == range(0, 10, 4) and answers.spread([], 3) == []
    documents = [{"title": "A", "text": "x"}, {"title": "a", "text": "y"}]
    assert answers.joined(documents) == [{"id": "topic a", "title": "a", "text": "x\n\ny"}]
