"""Search: features, postings, the network, and an index that learns and forgets exactly."""

from __future__ import annotations

import dataclasses

import bm25s
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_index import SMALL, same, sample

from sparse_jax import search
from sparse_jax.search import fusion, laying, network
from sparse_jax.search.engine import Engine
from sparse_jax.text import features as feats
from sparse_jax.text.features import GRAM, PAIR, WORD, extract, normalize
from sparse_jax.text.stem import stem

pytestmark = pytest.mark.usefixtures("lean_compiles")

WORDS = st.lists(
    st.text("abcdefé ", min_size=0, max_size=12).map(str.strip), min_size=0, max_size=6
).map(" ".join)


# ---------------------------------------------------------------------------------------- features


def slow_features(text: str) -> dict[tuple[int, str], int]:
    """Kinds and strings of features, by loops."""
    found: dict[tuple[int, str], int] = {}
    words = normalize(text).split()
    for i, word in enumerate(words):
        data = b" " + word.encode() + b" "
        grams = [data[j : j + 4] for j in range(max(len(data) - 3, 1))]
        for key in [(WORD, word), *((GRAM, g.hex()) for g in grams)]:
            found[key] = found.get(key, 0) + 1
        if i + 1 < len(words):
            key = (PAIR, f"{word} {words[i + 1]}")
            found[key] = found.get(key, 0) + 1
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_features_count_words_grams_and_pairs(texts):
    found = extract(texts, num_features=2**31 - 1)
    for i, text in enumerate(texts):
        rows = slice(found.offsets[i], found.offsets[i + 1])
        expected = slow_features(text)
        for kind in (WORD, GRAM, PAIR):
            ours = found.counts[rows][found.kinds[rows] == kind]
            assert sorted(ours) == sorted(n for (k, _), n in expected.items() if k == kind)
        alone = extract([text], num_features=2**31 - 1)
        np.testing.assert_array_equal(found.ids[rows], alone.ids)
        assert np.all(np.diff(alone.ids) >= 0)


def test_equal_features_have_equal_ids_wherever_they_stand():
    found = extract(["shared words", "zz shared words qq", "wordy shared"], num_features=2**31 - 1)
    first, second, third = (
        set(found.ids[found.offsets[i] : found.offsets[i + 1]]) for i in range(3)
    )
    assert first < second
    assert 0 < len(first & third) < len(first)


def test_many_texts_are_hashed_in_pieces_alike(monkeypatch):
    texts = [d.text for d in sample()[:40]] + [""]
    whole = extract(texts, num_features=1000)
    monkeypatch.setattr(feats, "_MOST_AT_ONCE", 50)
    for a, b in zip(whole, extract(texts, num_features=1000), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("num_features", [0, 2**31])
def test_num_features_out_of_range(num_features):
    with pytest.raises(ValueError, match="num_features"):
        extract(["a"], num_features=num_features)


def test_normalize_folds():
    assert normalize("ÉCOLE naïve ﬁn Straße").split() == ["ecole", "naive", "fin", "strasse"]
    assert normalize("a\u2026b\u2013c").split() == ["a", "b", "c"]
    assert normalize("日本語 テスト").split()[0] == "日本語"


# ------------------------------------------------------------------------------------------- engine


def stems(text):
    return [stem(word) for word in normalize(text).split()]


def test_bm25_is_that_of_the_library():
    documents = sample()
    engine = Engine(dataclasses.replace(SMALL, num_features=2**22, dim=2, cold_steps=1))
    engine.fit([d.text for d in documents], [""] * len(documents), train=False)
    words = [stems(d.text) for d in documents]
    reference = bm25s.BM25(k1=1.0, b=0.65, method="lucene")
    reference.index(words, show_progress=False)
    for text in ("python documentation library", "a window manager"):
        query = engine.read(text)
        ours = engine.bm25.score(query.words, query.word_weights)
        theirs = reference.get_scores(stems(text))
        np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=1e-5)


def test_words_are_found_by_other_forms_of_theirs():
    texts = {"a": "connecting boats", "b": "connectors float", "c": "a bond of boards"}
    documents = [search.Document(id, text) for id, text in texts.items()]
    with search.fit(documents, config=SMALL) as index:
        found = index.search("connected boat", k=3)
        assert found[0].id == "a" and found[0].words == ["connected", "boat"]
        shares = dict(index.explain("connected boat", "a"))
        assert shares["boat"] > 0.1 and shares["connected"] > 0.1
        assert sum(shares.values()) == pytest.approx(found[0].score, abs=1e-5)


def test_a_word_of_a_title_counts_more_than_one_of_the_text():
    documents = [search.Document("a", "grows on trees", "apples"), search.Document("b", "apples")]
    documents += [search.Document(f"x{n}", "something else") for n in range(8)]
    weighed = [
        Engine(dataclasses.replace(SMALL, strong=strong, deep_weight=0)) for strong in (1.0, 4.0)
    ]
    for engine in weighed:
        engine.fit([d.text for d in documents], [d.title for d in documents], train=False)
    plain, strong = (engine._sums(engine.read("apples")) for engine in weighed)
    assert plain[0] < plain[1] and strong[0] > plain[0]


def test_long_queries_do_not_leave_all_to_the_network():
    """They reach little of what they could; their sums are lifted, those of few parts are not."""
    documents = sample()[:50]
    engine = Engine(dataclasses.replace(SMALL, cold_steps=2))
    engine.fit([d.text for d in documents], [""] * len(documents), train=False)
    for text in (documents[3].text, documents[3].text + " zorblax unseen" * 9, "zorblax"):
        query = engine.read(text)
        sums, lexical = engine._sums(query), engine.lexical(query)
        np.testing.assert_array_equal(lexical, sums * engine.lift(query))
        assert 1 <= engine.lift(query) <= 2 and sums.max() <= lexical.max() <= 1
    alone = engine._sums(engine.read("zorblax"))
    assert fusion.lift(alone, np.ones(alone.size, bool)) == 2
    assert fusion.lift(np.ones(3, np.float32), np.zeros(3, bool)) == 2


def test_document_frequencies_span_segments():
    documents = sample()
    texts = [d.text for d in documents]
    tiny = dataclasses.replace(SMALL, dim=2, cold_steps=1)
    whole, grown = Engine(tiny), Engine(tiny)
    whole.fit(texts, [""] * len(texts), train=False)
    grown.fit(texts[:300], [""] * 300, train=False)
    for text in texts[300:309]:
        grown.insert([text], [""])
    grown.insert(texts[309:], [""] * 91)
    np.testing.assert_array_equal(whole.wide.document_frequency, grown.wide.document_frequency)
    query = whole.read("graphical user interface")
    np.testing.assert_array_equal(whole.lexical(query), grown.lexical(query))


# ----------------------------------------------------------------------------------------- network


def items(rng, net, texts=4, width=8):
    """A batch for `network.learn`, with padding in it."""
    candidates = np.stack([rng.permutation(40)[:width] for _ in range(texts)]).astype(np.int32)
    candidates[0, -2:] = -1
    targets = np.zeros((texts, width), np.float32)
    targets[:-1, 0] = 1  # the last row doesn't count
    ids = np.array([3, 5, 9, 5, 100, 200, -1, -1], np.int32)
    rows = np.array([0, 0, 1, 1, 2, 3, 3, 3], np.int32)
    bags = network.Bags(ids, np.where(ids >= 0, 0.5, 0).astype(np.float32), rows)
    lexical = rng.random((texts, width), np.float32)
    return jax.tree.map(jnp.asarray, network.Items(bags, candidates, lexical, targets))


def test_learning_moves_the_rows_it_names_and_no_other():
    rng = np.random.default_rng(0)
    net = network.init(jax.random.key(0), num_features=300, dim=8, capacity=50)
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gain = jnp.ones(300, jnp.float32)
    net = dataclasses.replace(net, output=jnp.asarray(rows), gain=gain)
    batch = items(rng, net)
    before = jax.tree.map(np.array, net)
    rates = jnp.asarray([0.1, 0.1, 0.1, 1.0], jnp.float32)
    rarity = jnp.ones(300, jnp.float32).at[9].set(0.0)
    moved, p0 = network.learn(net, batch, rates, rarity, distinct=8, scale=10.0, deep=0.5)
    changed = np.flatnonzero(np.any(np.asarray(moved.embedding) != before.embedding, axis=1))
    assert set(changed) == {3, 5, 100}  # 9 is held, 200 in the row that doesn't count
    assert set(np.flatnonzero(np.asarray(moved.gain) != before.gain)) == {3, 5, 100}
    turned = np.flatnonzero(np.any(np.asarray(moved.output) != before.output, axis=1))
    assert set(turned) <= set(np.asarray(batch.candidates).ravel()) - {-1}
    np.testing.assert_allclose(np.linalg.norm(moved.output, axis=1), 1, rtol=1e-5)
    p = np.asarray(p0)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    _, p1 = network.learn(moved, batch, rates, rarity, distinct=8, scale=10.0, deep=0.5)
    assert np.all(np.asarray(p1)[:3, 0] > p[:3, 0])


@pytest.mark.slow
def test_learning_sees_the_scores_that_searching_gives():
    documents = sample()[:50]
    engine = Engine(dataclasses.replace(SMALL, deep_weight=0.7, cold_steps=2))
    engine.fit([d.text for d in documents], [""] * len(documents))
    queries = [engine.read(text) for text in ("plank dock library", "python documentation")]
    scores = [engine.score(query) for query in queries]
    np.testing.assert_allclose(engine.score_batch(queries), scores, atol=1e-6)
    wide = engine.wide.score(queries[0].ids, queries[0].wide_weights)
    lexical = wide + engine.bm25.score(queries[0].words, queries[0].word_weights)
    expected = lexical / np.sqrt(max(lexical.max(), 0.25)) + 0.7 * engine.deep(queries[0])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5, atol=1e-6)
    bags = network.join_bags([q.ids for q in queries], [q.deep_values for q in queries], 2)
    candidates = np.tile(np.arange(50, dtype=np.int32), (2, 1))
    lexical = np.stack([engine.lexical(query) for query in queries])
    batch = jax.tree.map(jnp.asarray, network.Items(bags, candidates, lexical, 0 * lexical))
    _, p = network.learn(
        engine.network,
        batch,
        jnp.zeros(4),
        jnp.ones(SMALL.num_features),
        distinct=bags.ids.size,
        scale=10.0,
        deep=0.7,
    )
    np.testing.assert_allclose(p, jax.nn.softmax(10.0 * jnp.stack(scores), axis=1), atol=1e-5)


@pytest.mark.slow
def test_learning_costs_the_same_whatever_the_number_of_documents():
    """No temporary of the compiled step grows with the tables, and the tables are updated in place.

    What may grow is the map of presence that finds distinct ids: 4 bytes a row, not 4 d.
    """
    rng = np.random.default_rng(0)
    sizes = []
    for factor in (1, 8):
        features, documents, dim = 3000 * factor, 4000 * factor, 32
        net = network.init(jax.random.key(0), num_features=features, dim=dim, capacity=documents)
        step = network.learn.lower(
            net, items(rng, net), jnp.ones(4), jnp.ones(features), distinct=8, scale=1.0, deep=1.0
        ).compile()
        memory = step.memory_analysis()
        assert memory.alias_size_in_bytes >= (features + documents) * dim * 4
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] - sizes[0] <= 8 * 7 * 7000


@pytest.mark.slow
def test_the_cold_start_learns_and_is_repeatable(monkeypatch):
    monkeypatch.setattr(laying, "_LATENT", 0.0)  # which needs no steps
    documents = sample()
    texts, titles = [d.text for d in documents], [""] * len(documents)

    def found(steps):
        config = dataclasses.replace(
            SMALL, num_features=1 << 15, dim=42, cold_batch=64, cold_steps=steps
        )
        engine = Engine(config)
        engine.fit(texts, titles)
        queries = [" ".join(t.split()[-14:-4]) for t in texts]
        hits = [int(np.argmax(engine.deep(engine.read(q))) == n) for n, q in enumerate(queries)]
        return np.mean(hits), engine

    (untrained, _), (trained, engine), (_, again) = found(1), found(60), found(60)
    assert trained > untrained + 0.01  # .560 and .543
    np.testing.assert_array_equal(again.network.embedding, engine.network.embedding)


BITS = """
import hashlib, json, sys
import jax, numpy as np
from importlib.resources import files
from sparse_jax import search
text = (files("sparse_jax.search") / "sample.jsonl").read_text(encoding="utf-8")
rows = [json.loads(line) for line in text.splitlines()[:300]]
config = search.Config(
    num_features=1 << 13, dim=64, train_from=100, cold_steps=30, cold_batch=256
)
index = search.fit([search.Document(r["id"], r["text"]) for r in rows], config=config)
index.upvote("my favourite thing", rows[7]["id"])
index.associate("zorblax", "dock library plank")
leaves = jax.tree.leaves(index._engine.network)
print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest())
"""


@pytest.mark.threads(BITS, counts=(1, 2))
def test_bits_do_not_depend_on_the_number_of_threads(printed):
    assert len(printed[1]) == 65 and printed[1] == printed[2]


# ------------------------------------------------------------------------------------------- index


def test_search_finds_and_filters(index):
    results = index.search("plank dock library documentation", k=5)
    assert results[0].id == "libplank-doc" and len(results) == 5
    assert [r.score for r in results] == sorted((r.score for r in results), reverse=True)
    some = index.search("documentation", k=400, where={"first": "l"})
    assert some and all(r.id.startswith("l") for r in some)
    both = index.search("documentation", k=400, where={"first": ["l", "p"]})
    assert len(both) > len(some)
    assert index.search("documentation", where={"first": "~"}) == []
    with pytest.raises(KeyError, match="colour"):
        index.search("documentation", where={"colour": "red"})
    queries = [" ".join(d.text.split()[:5]) for d in sample()[:70]]
    for query, many in zip(queries, index.search_batch(queries, k=3), strict=True):
        one = index.search(query, k=3)
        assert [r.id for r in many] == [r.id for r in one]
        assert [r.score for r in many] == pytest.approx([r.score for r in one], abs=1e-5)
    assert len(index.search("x", k=10_000)) == len(index)


def test_titles_count_more_than_texts():
    documents = [
        search.Document("text", "walrus pictures and other things", "seaside"),
        search.Document("title", "seaside pictures and other things", "walrus"),
        *(search.Document(f"{i}", f"something else number {i}") for i in range(30)),
    ]
    index = search.fit(documents, config=SMALL)
    assert [r.id for r in index.search("walrus", k=2)] == ["title", "text"]


def test_inserted_documents_are_found_at_once_and_deleted_ones_no_more(index):
    index.insert([search.Document("new", "hoverboards for ostriches", metadata={"first": "n"})])
    assert index.search("ostrich hoverboards", k=1)[0].id == "new"
    index.delete("new")
    assert "new" not in [r.id for r in index.search("ostrich hoverboards", k=400)]
    index.insert([search.Document("new", "umbrellas for penguins")])
    assert index.search("penguin umbrellas", k=1)[0].document.text == "umbrellas for penguins"
    assert index.get("new").text == "umbrellas for penguins"


def test_explain_names_the_words_that_matter(index):
    query = "the plank dock, the fonts zorblax"
    words = index.explain(query, "libplank-doc")
    assert [word for word, _ in words] == ["the", "plank", "dock", "the", "fonts", "zorblax"]
    score = next(r.score for r in index.search(query, k=400) if r.id == "libplank-doc")
    assert sum(share for _, share in words) == pytest.approx(score, abs=1e-4)
    shares = dict(words)
    assert min(shares["plank"], shares["dock"]) > max(shares["fonts"], shares["zorblax"])
    assert index.explain("x", "libplank-doc")[0][0] == "x"


def test_upvote_puts_the_document_first_and_leaves_others(index):
    others = [" ".join(d.text.split()[3:10]) for d in sample()[::9]]
    before = [index.search(q, k=1)[0].id for q in others]
    assert index.search("my favourite thing", k=1)[0].id != "libplank-doc"
    index.upvote("my favourite thing", "libplank-doc")
    assert index.search("my favourite thing", k=1)[0].id == "libplank-doc"
    after = [index.search(q, k=1)[0].id for q in others]
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1


def test_associate_makes_a_name_mean_another_in_longer_queries_too(index):
    wanted = [r.id for r in index.search("dock library plank", k=3)]
    index.associate("zorblax", "dock library plank")
    assert index.search("zorblax", k=1)[0].id == wanted[0]
    found = [r.id for r in index.search("documentation of zorblax", k=5)]
    assert set(found) & set(wanted)


def test_undo_is_exact(index, saved):
    first = index.upvote("my favourite thing", "libplank-doc")
    index.insert([search.Document("new", "hoverboards for ostriches")])
    second = index.associate("zorblax", "dock library plank")
    assert index.undo() == second
    assert index.undo(first) == first
    with pytest.raises(ValueError, match="no feedback"):
        index.undo()
    with pytest.raises(ValueError, match=str(first)):
        index.undo(first)
    index.delete("new")
    with search.load(saved, read_only=True) as fresh:
        fresh._read_only = False
        fresh.insert([search.Document("new", "hoverboards for ostriches")])
        fresh.delete("new")
        same(index, fresh)


def test_undo_needs_a_place():
    index = search.fit(sample()[:5], config=SMALL)
    index.upvote("anything", sample()[0].id)
    with pytest.raises(ValueError, match="save"):
        index.undo()


def test_an_index_of_one_document():
    index = search.fit([search.Document("a", "")], config=SMALL)
    index.insert([search.Document("b", "words")])
    assert [r.id for r in index.search("words")] == ["b", "a"]
    with pytest.raises(ValueError, match="documents"):
        search.fit([])
