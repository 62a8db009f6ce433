"""Texts as counts of known words."""

from __future__ import annotations

import collections
import pickle
import random

import numpy as np
import pytest
from points import assert_same

from sparse_jax.data import Vocabulary, XmcData, weighting, with_sizes
from sparse_jax.text.features import normalize

TEXTS = [
    "A library for reading PNG images, with a library for tests.",
    "Reading images — in Python!",
    "",
    "python bindings of a C++ LIBRARY",
    "Café, cafe\u0301 and CAFE",
]


def dense(points: XmcData) -> np.ndarray:
    out = np.zeros((points.num_points, points.num_features))
    rows = np.repeat(np.arange(points.num_points), np.diff(points.feature_offsets))
    out[rows, points.feature_ids] = points.feature_values
    return out


def test_against_loops():
    vocabulary = Vocabulary.fit(TEXTS, min_count=1)
    split = [normalize(text).split() for text in TEXTS]
    assert set(vocabulary.words) == {word for words in split for word in words}
    expected = np.array([[words.count(word) for word in vocabulary.words] for words in split])
    points = vocabulary.transform(TEXTS)
    np.testing.assert_array_equal(dense(points), expected)
    assert (points.num_features, points.num_labels) == (vocabulary.num_features, 0)
    assert_same(XmcData(**vars(points)), points)
    for row in range(len(TEXTS)):
        assert (np.diff(points.take([row]).feature_ids) > 0).all()
    # Of texts that come one by one, too.
    assert Vocabulary.fit(iter(TEXTS), min_count=1) == vocabulary
    assert_same(vocabulary.transform(iter(TEXTS)), points)


def test_fit_counts_texts():
    # "library" is in two texts, three times; "cafe" three times in one.
    assert Vocabulary.fit(TEXTS).words == ("a", "images", "library", "python", "reading")
    assert Vocabulary.fit(TEXTS, min_count=1, max_features=3).words == ("a", "images", "library")
    assert "cafe" in Vocabulary.fit(TEXTS, min_count=1).words
    assert Vocabulary.fit(["b a", "b", "a c"], min_count=1).words == ("a", "b", "c")


def test_names_of_features():
    """A names file: line i is feature i, whatever it is."""
    names = ("the", "Café", "section: libs", "libpng", "RED", "Red", "red", "दिन", "c++", "c#", "")
    vocabulary = Vocabulary(names)
    points = vocabulary.transform(["The café; cafe. LIBPNG", "red RED", "यह दिन दान", "C++ C# C"])
    expected = np.zeros((4, len(names)))
    expected[0, [0, 1, 3]] = 1, 2, 1
    expected[1, 6] = 2  # the name that is spelled so
    expected[2, 7] = 1
    expected[3, [8, 9]] = 1
    np.testing.assert_array_equal(dense(points), expected)
    assert dense(Vocabulary(("RED", "Red")).transform(["red"])).tolist() == [[1, 0]]


def test_asking_a_model_about_new_texts():
    train = Vocabulary.fit(TEXTS).transform(TEXTS, num_labels=7)
    learned = weighting.fit(train)
    assert learned.name == "tfidf"
    vocabulary = Vocabulary.fit(TEXTS)
    new = weighting.apply(learned, vocabulary.transform(["images of images", "zzz"], num_labels=7))
    assert new.feature_values.tolist() == [1.0]
    assert new.num_labels == 7 and with_sizes(new, num_labels=8).num_labels == 8
    assert np.diff(new.feature_offsets).tolist() == [1, 0]  # nothing known: no features
    assert vocabulary.transform([]).num_points == 0


def test_value():
    vocabulary = Vocabulary(["red", "green"])
    assert vocabulary.words == ("red", "green")
    assert vocabulary == Vocabulary(("red", "green")) and hash(vocabulary) is not None
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
    assert Vocabulary(()).transform(["red"]).num_features == 0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="words = 'red' at 0 and 2: must be distinct"):
        Vocabulary(("red", "green", "red"))
    with pytest.raises(TypeError, match="texts = one string: must be several"):
        Vocabulary.fit("red apple")
    with pytest.raises(TypeError, match="texts = one string: must be several"):
        Vocabulary(("red",)).transform("red apple")
    with pytest.raises(ValueError, match="min_count = 0: must be at least 1"):
        Vocabulary.fit(["red"], min_count=0)
    with pytest.raises(ValueError, match="max_features = 0: must be from 1"):
        Vocabulary.fit(["red"], max_features=0)
    with pytest.raises(ValueError, match="min_count = 2: must be reached by some word"):
        Vocabulary.fit(["red", "green"])


def test_words_are_counted_as_by_splitting_each_text(kernels):
    rng = random.Random(0)
    signs = "ab Éßж中文ｱ́ि\u200b\u00ad-_.'’\n\tİıΣς\U0001f600क्षी٣²ﬁ\ud800"
    texts = ["".join(rng.choices(signs, k=rng.randrange(30))) for _ in range(800)]
    split = [normalize(text).split() for text in texts]
    often = collections.Counter(word for words in split for word in set(words))
    ranked = sorted(often, key=lambda word: (-often[word], word))
    assert Vocabulary.fit(texts, min_count=1).words == tuple(ranked)
    assert Vocabulary.fit(texts).words == tuple(w for w in ranked if often[w] > 1)
    # Ids that descend, names that are no words, and one by which another word is meant.
    names = (*ranked[::-2], "two words", "ÀÀ", "!")
    points = Vocabulary(names).transform(texts)
    for row, words in enumerate(split):
        found = collections.Counter(w for w in words if w in names or w == "aa")
        right = sorted((names.index(w if w in names else "ÀÀ"), n) for w, n in found.items())
        part = slice(*points.feature_offsets[row : row + 2])
        values = points.feature_values[part].tolist()
        assert list(zip(points.feature_ids[part].tolist(), values, strict=True)) == right
