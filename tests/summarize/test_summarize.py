"""Extractive summaries: whole sentences, in order, under the cap, near the middle, unlike."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax import summarize

TEXTS = [
    json.loads(line)["text"]
    for line in (files("sparse_jax.search") / "sample.jsonl").read_text("utf-8").splitlines()
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(1, 80), st.sampled_from([None, "python library"]))
def test_whole_sentences_in_order_under_the_cap(text, max_words, query):
    summary = summarize.extractive(text, max_words=max_words, query=query)
    found = summarize.sentences(text)
    if summary.endswith(" …"):
        assert len(summary.split()) - 1 <= max_words < min(len(s.split()) for s in found)
        assert any(s.startswith(summary[:-2]) for s in found)
        return
    assert summary and len(summary.split()) <= max_words
    places, rest = [], summary
    for place, sentence in enumerate(found):
        if rest.startswith(sentence):
            places.append(place)
            rest = rest[len(sentence) :].lstrip()
    assert rest == "" and places


def test_the_middle_is_taken_and_repetition_is_not():
    text = (
        "The walrus lives near the ice of the sea. The walrus lives near the sea ice. "
        "Walrus tusks help on ice. Unrelated prose mentions taxes."
    )
    short = summarize.extractive(text, max_words=15)
    assert "walrus" in short.lower() and "taxes" not in short
    assert not ("ice of the sea" in short and "near the sea ice" in short)
    greedy = summarize.extractive(text, max_words=17, diversity=0.0)
    assert "ice of the sea" in greedy and "near the sea ice" in greedy


def test_a_query_draws_the_summary():
    text = "Cats are animals. Cats like milk. Cats fear cucumbers. Cats sleep long."
    assert summarize.extractive(text, max_words=3, query="cucumbers") == "Cats fear cucumbers."


def test_edges():
    assert summarize.extractive("") == "" == summarize.extractive(" \n ")
    assert summarize.extractive("one two three four", max_words=2) == "one two …"
    assert summarize.extractive("?! …", max_words=5)
    assert len(summarize.extractive("A word. " * 100_000, max_words=50).split()) <= 50
    with pytest.raises(ValueError, match="max_words"):
        summarize.extractive("a", max_words=0)
