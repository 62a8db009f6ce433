"""Words that users of other search tools could not tell apart: marks, and names with signs.

Rows 4 and 30 of the table of faults, as test_search_faults.py has the others.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
from small_index import TINY, run_search, write_rows

from sparse_jax import search
from sparse_jax.commands.serve.view import highlight
from sparse_jax.text.features import normalize

pytestmark = pytest.mark.usefixtures("quick_compiles")

D = search.Document
DAYS = [
    D("day", "यह दिन अच्छा है"),
    D("poor", "यह दीन आदमी है"),
    D("gift", "यह दान बड़ा है"),
    D("book", "यह किताब नई है"),
]
NOTES = [
    D("todo", "shopping list: milk bread budget"),
    D("four", "travel by train to the sea"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes that commands make are small."""
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))


def scores(index, query: str) -> dict[str, float]:
    return {r.id: r.score for r in index.search(query, k=1000)}


def test_marks_tell_words_apart(tmp_path, capsys):
    rows = [{"id": d.id, "text": d.text} for d in DAYS]
    run_search(capsys, "index", tmp_path / "i", write_rows(tmp_path / "hindi.jsonl", rows))
    for query, right in (("दिन", "day"), ("दीन", "poor"), ("दान", "gift"), ("किताब", "book")):
        found = json.loads(run_search(capsys, "query", tmp_path / "i", query, "-k", "1", "--json"))
        assert (found["id"], found["matched"]) == (right, [query])
    index = search.fit(DAYS, config=TINY)
    index.insert(NOTES)
    words = index.explain("अच्छा दिन", "day")  # before any search
    assert sum(s for _, s in words) == pytest.approx(scores(index, "अच्छा दिन")["day"], abs=2e-6)
    assert [word for word, _ in words] == ["अच्छा", "दिन"] and min(s for _, s in words) > 0


def test_composed_and_decomposed_text_are_one():
    composed = D("a", "le caf\u00e9 est pr\u00e8s du th\u00e9\u00e2tre")
    decomposed = D("b", "le cafe\u0301 est pre\u0300s du the\u0301a\u0302tre")
    index = search.fit([composed, decomposed, *NOTES], config=TINY)
    for query in ("caf\u00e9 th\u00e9\u00e2tre", "cafe\u0301 the\u0301a\u0302tre", "cafe theatre"):
        a, b = index.search(query, k=2)
        assert (a.id, b.id) == ("a", "b") and a.score == b.score and a.is_matched


@pytest.mark.parametrize(
    ("query", "right"), [("C#", "sharp"), ("c++", "plus"), ("C", "plain"), ("c# compiler", "sharp")]
)
def test_languages_are_told_apart(query, right):
    documents = [
        D("plus", "a compiler of C++ programs"),
        D("sharp", "a compiler of C# programs"),
        D("plain", "a compiler of C programs"),
    ]
    results = search.fit(documents, config=TINY).search(query)
    assert results[0].id == right
    assert normalize(query).split()[0] in results[0].words
    assert [r.id for r in results if normalize(query).split()[0] in r.words] == [right]


@pytest.mark.parametrize(
    ("text", "query", "right"),
    [
        ("C, C++ and C#/C", "c#", "C, C++ and [C#]/C"),
        ("C, C++ and C#/C", "C", "[C], C++ and C#/[C]"),
        ("C++, c++", "C++", "[C++], [c++]"),
        ("यह दिन, दान", "दिन", "यह [दिन], दान"),
        ("हिन्दू हिन्दी", "हिन्दी", "हिन्दू [हिन्दी]"),
        ("cafe\u0301, caf\u00e9s", "caf\u00e9", "[cafe\u0301], caf\u00e9s"),
        ("co\u00adoperate", "cooperate", "[co\u00adoperate]"),
        ("กิน กัน", "กิน", "[กิน] กัน"),
        ("Apples & pears", "apple", "[Apples] &amp; pears"),
        ("<b>", "b", "&lt;[b]&gt;"),
        ("", "b", ""),
    ],
)
def test_highlights(text, query, right):
    assert highlight(text, query) == right.replace("[", "<mark>").replace("]", "</mark>")
