"""Texts to rows: what the features are, C++ against NumPy, threads, and mistakes."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax import text
from sparse_jax.ops import ffi, text_features
from sparse_jax.runtime import saved
from sparse_jax.text import vectorizer
from sparse_jax.text.features import normalize

KINDS = [
    {},
    {"pairs": True},
    {"words": False, "grams": (3, 5)},
    {"pairs": True, "grams": (1, 2)},
    {"words": False, "pairs": True, "grams": (4, 4)},
]
ODD = [
    "",
    " ",
    "+",
    "C++11 c# a#b +c+ x",
    "Löken–Senior \u200c क्षा é",
    "c♯ \ud800 C++é",
    "\x00a\x1fb",
]


def slow_features(given: str, *, words=True, pairs=False, grams=None) -> list[str]:
    """The definition: names of all features of a text, repeats included."""
    split = normalize(given).split()
    found = list(split) if words else []
    if pairs:
        found += [f"{a} {b}" for a, b in itertools.pairwise(split)]
    for word in split if grams else ():
        bordered = f"_{word}_"
        for n in range(grams[0], grams[1] + 1):
            count = max(len(bordered) - n + 1, 1)
            found += [f"*{bordered[i : i + n]}" for i in range(count)]
            if count == 1:
                break
    return found


def same(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return type(a) is type(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


def everything(texts: list[str], kinds: dict, num_features: int = 50) -> tuple:
    """What a vocabulary and hashing give."""
    options = vectorizer._options(**{"words": True, "pairs": False, "grams": None} | kinds)
    found, counts = text_features.fit_vocabulary(texts, options, 1, 10**6, normalize)
    few, rest = text_features.fit_vocabulary(texts, options, 2, 7, normalize)
    return (
        found,
        counts,
        few,
        rest,
        text_features.count_known(texts[::-1], options, few.keys, normalize),
        text_features.hash_texts(texts, options, num_features, normalize),
    )


@pytest.mark.parametrize("kinds", KINDS)
def test_features_are_those_of_the_definition(kinds):
    texts = [*ODD, "red apple, a Red apple", "the red car"]
    found, rows = text.fit_transform(texts, min_count=1, weighting="counts", **kinds)
    frequency: collections.Counter[str] = collections.Counter()
    for i, each in enumerate(texts):
        expected = collections.Counter(slow_features(each, **kinds))
        frequency.update(set(expected))
        at = slice(rows.offsets[i], rows.offsets[i + 1])
        names = [found.names[id] for id in rows.ids[at]]
        assert dict(zip(names, rows.values[at].tolist(), strict=True)) == expected
        assert np.all(np.diff(rows.ids[at]) > 0)
    ranked = sorted(frequency, key=lambda name: (-frequency[name], name.encode()))
    assert list(found.names) == ranked


@pytest.mark.parametrize("kinds", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cpp_and_numpy_give_the_same_bits(kinds, data):
    if not ffi.AVAILABLE:
        pytest.skip("there is one of them here")
    alphabet = st.sampled_from("abcAB12 +#_-.éßÅλक्षाñ\u200c\u0301\u00ad♯ﬁ\t\n") | st.characters()
    texts = data.draw(st.lists(st.text(alphabet, max_size=30), max_size=6))
    with pytest.MonkeyPatch.context() as patch:
        native = everything(texts, kinds)
        patch.setattr(ffi, "AVAILABLE", False)
        assert same(native, everything(texts, kinds))


def test_bits_do_not_depend_on_threads(monkeypatch):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefé"), 1 + i % 9)) for i in range(300)]
    texts = [" ".join(rng.choice(words, rng.integers(0, 40))) for _ in range(400)]
    kinds = {"pairs": True, "grams": (2, 3)}
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(text_features, "num_threads", lambda threads=threads: threads)
        found.append(everything(texts, kinds, num_features=1000))
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_weights_are_tf_idf_of_unit_length():
    found, rows = text.fit_transform(["red red apple", "red car", "!"], min_count=1)
    idf = {"red": math.log(4 / 3) + 1, "apple": math.log(4 / 2) + 1}
    raw = np.array([math.log1p(2) * idf["red"], math.log1p(1) * idf["apple"]])
    assert found.names == ("red", "apple", "car") and rows.ids[:2].tolist() == [0, 1]
    np.testing.assert_allclose(rows.values[:2], raw / np.linalg.norm(raw), rtol=1e-6)
    assert rows.offsets.tolist() == [0, 2, 4, 4]
    assert same(text.transform(found, ["red red apple", "red car", "!"]), rows)


def test_hashing_needs_no_vocabulary_and_knows_new_words():
    found = text.fit(["red apple", "red car"], num_features=1 << 20)
    assert found.names is None and found.num_features == 1 << 20
    rows = text.transform(found, ["red unheard"])
    assert rows.ids.size == 2 and rows.values.min() > 0
    with_all = text.fit(["a"], num_features=7, weighting="counts", grams=(1, 3))
    assert text.transform(with_all, ["some longer text"]).ids.max() < 7


def test_a_text_of_another_script_is_as_good():
    found = text.fit(["กขค กขค", "красное яблоко", "красная машина"], min_count=1, grams=(3, 3))
    assert {"красное", "*_кр", "กขค"} <= set(found.names)


@pytest.mark.parametrize("options", [{}, {"num_features": 64}, {"weighting": "counts"}])
def test_saved_and_loaded_it_gives_the_same_bits(options, tmp_path):
    texts = ["red apple é", "red car", "apple car", "é"]
    found = text.fit(texts, pairs=True, grams=(2, 4), **options)
    config, arrays = vectorizer.to_saved(found)
    saved.save(tmp_path, kind="toy", config=config, arrays=arrays)
    again = vectorizer.from_saved(*saved.load(tmp_path, kind="toy"))
    assert same(tuple(again), tuple(found))
    assert same(text.transform(again, texts), text.transform(found, texts))
    if "keys" in arrays:
        with pytest.raises(ValueError, match="save the model anew"):
            vectorizer.from_saved(config, arrays | {"keys": arrays["keys"][1:]})


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("one", {}, TypeError, "texts = one string"),
        (["a", 3], {}, TypeError, r"texts\[1\] = 3: must be a string"),
        (["a"], {"words": False}, ValueError, "words = False: must be True where"),
        (["a"], {"grams": (5, 3)}, ValueError, r"grams = \(5, 3\): must be"),
        (["a"], {"grams": (0, 3)}, ValueError, r"grams = \(0, 3\): must be"),
        (["a"], {"num_features": 0}, ValueError, "num_features = 0: must be from 1"),
        (["a"], {"num_features": 9, "max_features": 2}, ValueError, "max_features = 2: must be No"),
        (["a"], {"max_features": 0}, ValueError, "max_features = 0: must be from 1"),
        (["a"], {"min_count": 0}, ValueError, "min_count = 0: must be at least 1"),
        (["a", "b"], {}, ValueError, "min_count = 2: must be reached by some feature"),
        ([], {}, ValueError, "min_count = 2: must be reached by some feature"),
        (["a"], {"weighting": "bm25"}, ValueError, "weighting = 'bm25': must be one of tfidf"),
    ],
)
def test_mistakes_are_named(texts, options, error, message):
    with pytest.raises(error, match=message):
        text.fit(texts, **options)
