"""What an index came through doesn't show: random histories against an index made at once."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from small_index import same

from sparse_jax import search

pytestmark = pytest.mark.usefixtures("quick_compiles")

# So few ids that words, n-grams and pairs of one document share them; never enough to train on.
CONFIG = search.Config(num_features=96, dim=4, strong=1.5, cold_steps=2, cold_batch=8)
WORDS = "red apples apple boats float दिन दान c++ c# c theories of the the the".split()
QUERIES = ("red apple theory", "c++ boats दिन", "the of the unseen")
IDS = st.sampled_from([f"d{n}" for n in range(12)])
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
DOCUMENTS = st.builds(search.Document, IDS, TEXTS, st.just("") | TEXTS)
SOME = st.lists(DOCUMENTS, min_size=1, max_size=5, unique_by=lambda d: d.id)


def check_as_made_at_once(index: search.Index) -> None:
    """Every score, part and explanation is that of an index of what there is."""
    living = index._documents.living()
    assert len(index) == len(living)
    assert len(index._documents.items) <= 4 * len(living) / 3 + 1, "the dead take space"
    if not living:
        assert index.search(QUERIES[0]) == []
        return
    fresh = search.fit(living, config=index._engine.config)
    alive = index._documents.alive
    for query in QUERIES:
        ours, right = index.search(query, k=100), fresh.search(query, k=100)
        expected = {r.id: pytest.approx(r.score, abs=1e-6) for r in right}
        assert {r.id: r.score for r in ours} == expected
        for part in ("wide", "bm25"):
            both = []
            for engine in (index._engine, fresh._engine):
                read, postings = engine.read(query), getattr(engine, part)
                weights = read.wide_weights if part == "wide" else read.word_weights
                both.append(postings.score(read.ids if part == "wide" else read.words, weights))
            np.testing.assert_array_equal(both[0][alive], both[1])
        for result in ours:
            total = sum(share for _, share in index.explain(query, result.id))
            assert total == pytest.approx(result.score, abs=2e-6)
    for part in ("wide", "bm25"):
        ours, right = (getattr(i._engine, part) for i in (index, fresh))
        np.testing.assert_array_equal(ours.document_frequency, right.document_frequency)
        assert (ours.num_alive, ours.mean_length) == (right.num_alive, right.mean_length)
    np.testing.assert_array_equal(index._engine.deep_idf, fresh._engine.deep_idf)
    rows = [np.asarray(i._engine.network.output) for i in (index, fresh)]
    np.testing.assert_allclose(rows[0][: alive.size][alive], rows[1][: len(living)], atol=1e-6)


class History(RuleBasedStateMachine):
    """Inserts, deletes, upserts, saves and loads in any order."""

    ids = Bundle("ids")

    @initialize(documents=SOME)
    def begin(self, documents):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "i")
        self.index = search.fit(documents, config=CONFIG)
        self.index.save(self.path)
        self.holds = {d.id: d for d in documents}

    @rule(documents=SOME)
    def insert(self, documents):
        taken = [d.id for d in documents if d.id in self.holds]
        if taken:
            with pytest.raises(ValueError, match=taken[0]):
                self.index.insert(documents)
        else:
            self.index.insert(documents)
            self.holds |= {d.id: d for d in documents}

    @rule(documents=SOME)
    def upsert(self, documents):
        self.index.upsert(documents)
        self.holds |= {d.id: d for d in documents}

    @rule(id=IDS)
    def delete(self, id):
        if id in self.holds:
            self.index.delete(id)
            del self.holds[id]
        else:
            with pytest.raises(KeyError, match=id):
                self.index.delete(id)

    @rule()
    def save(self):
        self.index.save()
        assert self.index._documents.alive.all()

    @rule()
    def load(self):
        self.index.close()
        self.index = search.load(self.path)

    @rule()
    def search(self):
        for query in QUERIES:
            self.index.search(query)

    @invariant()
    def holds_what_it_should(self):
        assert {d.id: d for d in self.index._documents.living()} == self.holds

    def teardown(self):
        if hasattr(self, "index"):
            check_as_made_at_once(self.index)
            self.index.close()
            self.folder.cleanup()


TestHistory = pytest.mark.slow(History.TestCase)
TestHistory.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(SOME, st.lists(SOME, max_size=4), st.integers(0, 2**32 - 1))
def test_a_network_laid_anew_is_that_of_an_index_made_at_once(first, more, seed):
    """Trained, too: what the documents are counts, not how and in which order they came."""
    config = search.Config(num_features=96, dim=4, train_from=3, cold_steps=2, cold_batch=8)
    index = search.fit(first, config=config)
    for documents in more:
        index.upsert(documents)
    rng = np.random.default_rng(seed)
    for id in rng.permutation(sorted(index._documents.numbers))[: rng.integers(3)]:
        if len(index) > 1:
            index.delete(str(id))
    index._state.refresh()
    check_as_made_at_once(index)
    living = index._documents.living()
    for order in (living[::-1], [living[i] for i in rng.permutation(len(living))]):
        other = search.fit(order, config=config)
        for query in QUERIES:
            ours = {r.id: r.score for r in index.search(query, k=100)}
            assert ours == {
                r.id: pytest.approx(r.score, abs=1e-6) for r in other.search(query, k=100)
            }


@pytest.mark.parametrize("last", ["new", "old", "gone"])
def test_when_the_network_is_laid_anew(last):
    """Where more than half was not there before; where there are enough to train on, or too few."""
    config = search.Config(num_features=96, dim=4, train_from=10, cold_steps=2, cold_batch=8)
    documents = [search.Document(f"{n:02}", f"text number {n} of red apples") for n in range(40)]
    index = search.fit(documents[:9], config=config)
    engine = index._engine
    assert not engine.trained and not index.refresh()
    index.insert(documents[9:10])
    assert index.refresh() and engine.trained and not index.refresh()
    index.insert(documents[10:20])
    assert not index.refresh()
    if last == "new":
        index.insert(documents[20:21])
        assert index.refresh() and engine.trained
        # An equal document that comes back is not new.
        for document in documents[:12]:
            index.delete(document.id)
            index.insert([document])
        assert not index.refresh()
    elif last == "old":
        for document in documents[10:]:
            if document.id in index._documents.numbers:
                index.delete(document.id)
        index.upsert(documents[:10])
        assert not index.refresh()
    else:
        for document in [*documents[10:20], *documents[:5]]:
            index.delete(document.id)
        assert len(index) == 5 and not index.refresh() and engine.trained
        index.delete(documents[5].id)
        assert index.refresh() and not engine.trained
        check_as_made_at_once(index)


OPERATIONS = st.lists(
    st.tuples(st.just("upsert"), SOME)
    | st.tuples(st.just("delete"), IDS)
    | st.tuples(st.just("upvote"), st.sampled_from(WORDS))
    | st.tuples(st.just("associate"), st.sampled_from(WORDS))
    | st.tuples(st.sampled_from(["undo", "save", "search"]), st.none()),
    max_size=12,
)


def act(index: search.Index, operation: str, given) -> None:
    """Does what can be done."""
    match operation:
        case "upsert":
            index.upsert(given)
        case "delete" if given in index._documents.numbers:
            index.delete(given)
        case "upvote" if len(index):
            index.upvote(f"my {given}", min(index._documents.numbers))
        case "associate" if len(index):
            index.associate(f"my own {given}", given)
        case "undo":
            with contextlib.suppress(ValueError):
                index.undo()
        case "save":
            index.save()
        case "search":
            index.search("apples")


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(SOME, OPERATIONS, st.sampled_from([5, 1000]))
def test_an_index_with_lessons_is_as_it_was_when_it_is_opened_again(first, operations, train_from):
    config = search.Config(
        num_features=96, dim=4, train_from=train_from, cold_steps=2, cold_batch=8
    )
    with tempfile.TemporaryDirectory() as place:
        with search.fit(first, config=config) as index:
            index.save(place)
            for operation, given in operations:
                act(index, operation, given)
            index.refresh()
        with search.load(place, read_only=True) as again:
            assert index._state.feedback == again._state.feedback
            assert index._events == again._events
            same(index, again)


@pytest.mark.parametrize("train_from", [5, 1000])
def test_lessons_do_not_depend_on_when_space_comes_back(train_from):
    config = search.Config(
        num_features=96, dim=4, train_from=train_from, cold_steps=2, cold_batch=8
    )
    documents = [
        search.Document(f"{n:02}", f"{WORDS[n % 7]} and {n} of {n % 5}") for n in range(20)
    ]
    early, late = (search.fit(documents, config=config) for _ in range(2))
    for index in (early, late):
        index.upvote("my own", "04")
        index.associate("your own", "boats")
        for id in ("00", "01", "05"):
            index.delete(id)
        if index is early:
            index._state.compact()
        index.upvote("their own", "17")
        index.associate("her own", "theories")
    assert len(late._documents.items) == 20
    for query in (*QUERIES, "my own", "your own", "their own"):
        ours, right = ({r.id: r.score for r in i.search(query, k=99)} for i in (early, late))
        assert ours == {id: pytest.approx(score, abs=1e-5) for id, score in right.items()}
    late._state.compact()
    for items in ("base", "events"):
        for a, b in zip(*(getattr(i._state.learner, items) for i in (early, late)), strict=True):
            kept = [set(item.candidates.tolist()) - {-1} for item in (a, b)]
            assert kept[0] == kept[1] and len(kept[0]) >= 17


def test_reading_alone_never_trains(tmp_path):
    config = search.Config(num_features=96, dim=4, train_from=10, cold_steps=2, cold_batch=8)
    documents = [search.Document(f"{n:02}", f"text number {n} of red apples") for n in range(40)]
    with search.fit(documents[:3], config=config) as index:
        index.save(tmp_path)
        index.insert(documents[3:])
    with search.load(tmp_path, read_only=True) as reader:
        assert reader.search("apples", k=1) and not reader._engine.trained
        assert not reader.refresh()
    with search.load(tmp_path) as index:
        found = index.search("number 7 apples")
        assert index._engine.trained
        with search.load(tmp_path, read_only=True) as reader:
            assert reader.search("number 7 apples") == found  # laid anew by the log
