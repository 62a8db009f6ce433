"""Metamorphic tests of search and of texts: what must not matter does not.

Histories of inserts, deletes, saves and loads are in tests/search/test_search_history.py.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import assume, given
from hypothesis import strategies as st

from sparse_jax import search
from sparse_jax.lm import text
from sparse_jax.text.features import extract

pytestmark = pytest.mark.usefixtures("quick_compiles")

D = search.Document
WORDS = "red apple boat float sea café दिन दान c++ c# naïve straße the of 日本 x1 2024".split()
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
TEXTS = st.lists(TEXT, min_size=3, max_size=12, unique=True)
UNTRAINED = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
TRAINED = search.Config(num_features=1 << 12, dim=8, cold_steps=3, cold_batch=8, train_from=3)


def fit(documents: list[D], config: search.Config) -> search.Index:
    return search.fit(documents, config=config)


def scores(index: search.Index, query: str) -> dict[str, float]:
    return {found.id: found.score for found in index.search(query, k=1000)}


def near(found: dict[str, float]) -> object:
    return pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(UNTRAINED, id="untrained"),
        pytest.param(TRAINED, id="trained", marks=pytest.mark.slow),
    ],
)
@fuzz(3)
@given(texts=TEXTS, query=TEXT, seed=st.integers(0, 99))
def test_documents_in_another_order_or_split(config, texts, query, seed):
    documents = [D(f"d{i:03d}", t, title=t.split()[0]) for i, t in enumerate(texts)]
    order = np.random.default_rng(seed).permutation(len(documents))
    whole = scores(fit(documents, config), query)
    assert scores(fit([documents[i] for i in order], config), query) == near(whole)
    grown = fit([documents[i] for i in order[:1]], UNTRAINED if config is UNTRAINED else config)
    for i in order[1:]:
        grown.insert([documents[i]])
    if config is UNTRAINED:  # a trained one is laid anew when enough is new, not with each
        assert scores(grown, query) == near(whole)
    assert len(grown) == len(documents)


@pytest.mark.parametrize("config", [UNTRAINED, TRAINED], ids=["untrained", "trained"])
@fuzz(3)
@given(texts=TEXTS, query=TEXT)
def test_ids_and_metadata_say_nothing_of_scores(config, texts, query):
    plain = fit([D(f"d{i:03d}", t) for i, t in enumerate(texts)], config)
    named = [D(f"ж{i:03d} red", t, metadata={"red": i}) for i, t in enumerate(texts)]
    found = scores(fit(named, config), query)
    assert {f"d{id[1:4]}": score for id, score in found.items()} == near(scores(plain, query))


@fuzz(3)
@given(texts=TEXTS, query=TEXT)
def test_equal_documents_score_alike_in_order_of_insertion(texts, query):
    documents = [D(f"{copy}-{i}", t) for copy in "ba" for i, t in enumerate(texts)]
    index = fit(documents, UNTRAINED)
    results = index.search(query, k=1000)
    found = {r.id: r.score for r in results}
    place = {r.id: n for n, r in enumerate(results)}
    for i in range(len(texts)):
        first, second = f"b-{i}", f"a-{i}"
        # The last bit of a product of matrices may follow from the row.
        assert found[first] == pytest.approx(found[second], abs=2e-7)
        assert found[first] != found[second] or place[first] < place[second]


@functools.cache
def small_index(trained: bool) -> search.Index:
    texts = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 7)) for i in range(40)]
    return fit([D(f"d{i}", t) for i, t in enumerate(texts)], TRAINED if trained else UNTRAINED)


@fuzz(30)
@given(query=TEXT, trained=st.booleans(), space=st.sampled_from([" ", "\t", "\n", " , ", "\u3000"]))
def test_queries_mean_the_same_however_they_are_written(query, trained, space):
    index = small_index(trained)
    plain = scores(index, query)
    for other in (
        query.upper().replace("SS", "ß") if "ß" in query else query.upper(),
        unicodedata.normalize("NFD", query),
        space + query.replace(" ", space) + space,
        f"({query})!",
    ):
        assert scores(index, other) == near(plain), other


@fuzz(15)
@given(
    queries=st.lists(TEXT, min_size=1, max_size=12),
    trained=st.booleans(),
    k=st.integers(1, 50),
    at=st.integers(0, 12),
)
def test_queries_in_any_batch_find_the_same(queries, trained, k, at):
    index = small_index(trained)
    whole = index.search_batch(queries, k=k)
    parts = index.search_batch(queries[:at], k=k) + index.search_batch(queries[at:], k=k)
    alone = [index.search(query, k=k) for query in queries]
    longer = [found[:k] for found in index.search_batch(queries, k=1000)]
    for others in (parts, alone, longer):
        for found, right in zip(others, whole, strict=True):
            assert [r.score for r in found] == pytest.approx([r.score for r in right], abs=1e-6)
            # Ids, too, but where scores are equal up to rounding.
            ties = {round(r.score, 5) for r in right}
            if len(ties) == len(right):
                assert [r.id for r in found] == [r.id for r in right]


@fuzz(40)
@given(st.lists(st.text(max_size=40), max_size=6), st.integers(0, 6))
def test_features_of_texts_are_those_of_each_alone(texts, at):
    whole = extract(texts, num_features=1 << 12)
    parts = [extract(part, num_features=1 << 12) for part in (texts[:at], texts[at:])]
    np.testing.assert_array_equal(whole.ids, np.concatenate([part.ids for part in parts]))
    rows = np.concatenate([parts[0].rows, parts[1].rows + len(texts[:at])])
    np.testing.assert_array_equal(whole.rows, rows)


@fuzz(40)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_a_vocabulary_knows_neither_order_nor_form_of_its_texts(texts):
    assume(any(any(text.split_words(t)) for t in texts))
    plain = text.WordVocabulary.fit(texts, min_count=1)
    for others in (texts[::-1], [unicodedata.normalize("NFC", t) for t in texts]):
        vocabulary = text.WordVocabulary.fit(others, min_count=1)
        assert set(vocabulary.words) == set(plain.words)
        for t in texts:
            ids = vocabulary.encode(t)
            assert vocabulary.decode(ids) == plain.decode(plain.encode(t))
