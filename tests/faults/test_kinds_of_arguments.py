"""Arguments of a wrong kind are told by name, value and cure, whichever room they are given to."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sparse_jax import data, recommend, search, xmc
from sparse_jax.retrieval import duplicates

pytestmark = pytest.mark.usefixtures("quick_compiles")

WHOLE = "must be a whole number; convert it by int"


@pytest.fixture(scope="module")
def index():
    documents = [search.Document("a", "red apples"), search.Document("b", "green cars")]
    config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
    with search.fit(documents, config=config) as found:
        yield found


@pytest.fixture(scope="module")
def points():
    ids = np.tile(np.array([0, 1], np.int32), 4)
    offsets = np.arange(9)
    return data.XmcData(
        offsets, ids, np.ones(8, np.float32), offsets, ids, num_features=2, num_labels=2
    )


@pytest.fixture(scope="module")
def classifier(points):
    return xmc.fit(points)


@pytest.fixture(scope="module")
def recommender():
    histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
    return recommend.fit(histories, preset="linear")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: duplicates.find(["a", None]), "texts[1] = None: must be a str"),
        (lambda: duplicates.find([b"a"]), "texts[0] = b'a': must be a str; decode bytes"),
        (lambda: duplicates.find(None), "texts = None: must be several texts"),
        (lambda: duplicates.find("a b"), "texts = one string: must be several"),
        (lambda: duplicates.find(["a"], threshold="x"), "threshold = x: must be from 0.2 to 1"),
        (lambda: duplicates.find(["a"], seed=1.5), f"seed = 1.5: {WHOLE}(seed)"),
    ],
)
def test_near_duplicates(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_texts_are_counted_over_a_stream():
    finder = duplicates.Finder()
    finder.add(["a", "b"])
    with pytest.raises(TypeError, match=re.escape("texts[3] = 7: must be a str")):
        finder.add(["c", 7])
    assert finder.add(["b"]).numbers.tolist() == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.search("red", k="3"), f"k = '3': {WHOLE}(k)"),
        (lambda i: i.search("red", k=2.5), f"k = 2.5: {WHOLE}(k)"),
        (lambda i: i.search("red", k=0), "k = 0: must be at least 1"),
        (lambda i: i.search(b"red"), "query = b'red': must be a string"),
        (lambda i: i.search("red", where="kind"), "where = 'kind': must be a mapping"),
        (lambda i: search.related(i, "a", k=None), f"k = None: {WHOLE}(k)"),
        (lambda i: search.related(i, 3), "ids = 3: must be an id or several"),
        (lambda i: i.insert(["c"]), "documents[0] = 'c': must be a Document"),
        (lambda i: i.insert("c"), "documents = 'c': must be several"),
        (lambda i: i.insert(search.Document("c", "c")), "must be several; put it into a list"),
        (lambda i: i.upvote(None, "a"), "query = None: must be a string"),
    ],
)
def test_search(index, call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(index)
    assert len(index) == 2


def test_whole_numbers_of_numpy_are_whole_numbers(index, classifier, points):
    assert [found.id for found in index.search("red", k=np.int64(1))] == ["a"]
    assert xmc.predict(classifier, points, k=np.int32(1)).labels.shape == (8, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: xmc.predict(m, p, k="3"), f"k = '3': {WHOLE}(k)"),
        (lambda m, p: xmc.predict(m, p, k=2.5), f"k = 2.5: {WHOLE}(k)"),
        (lambda m, p: xmc.predict(m, p, batch_size=None), f"batch_size = None: {WHOLE}"),
        (lambda m, p: xmc.predict(m, ["red"]), "points = ['red']: must be a XmcData; read a file"),
        (lambda m, p: xmc.fit(None), "points = None: must be a XmcData; read a file"),
        (lambda m, p: xmc.fit(p, seed="0"), f"seed = '0': {WHOLE}(seed)"),
        (lambda m, p: xmc.fit(p, seed=-1), "seed = -1: must be at least 0"),
    ],
)
def test_classifier(classifier, points, call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(classifier, points)


def test_recommender(recommender):
    for ask in (recommend.predict, recommend.related):
        given = [["tea"]] if ask is recommend.predict else ["tea"]
        for k in ("3", 1.5, None):
            with pytest.raises(TypeError, match=re.escape(f"k = {k!r}: {WHOLE}(k)")):
                ask(recommender, given, k=k)
