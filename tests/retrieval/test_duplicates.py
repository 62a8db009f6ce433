"""Near-duplicates of texts: which are found, which never, streams, and mistakes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.retrieval import duplicates


def set_of(text: str) -> frozenset:
    words = text.split()
    return frozenset(words) | frozenset(itertools.pairwise(words))


def planted(count: int, length: int, seed: int) -> tuple[list[str], list[float]]:
    """Texts of random words, then copies of them with a few words changed; their similarities."""
    rng = np.random.default_rng(seed)
    texts, copies = [], []
    for _ in range(count):
        words = [f"w{n}" for n in rng.zipf(1.3, length) % 50_000]
        texts.append(" ".join(words))
        for at in rng.integers(0, length, rng.integers(1, max(2, length // 20))):
            words[at] = f"new{rng.integers(10**9)}"
        copies.append(" ".join(words))
    pairs = [(set_of(a), set_of(b)) for a, b in zip(texts, copies, strict=True)]
    return texts + copies, [len(a & b) / len(a | b) for a, b in pairs]


@pytest.mark.parametrize(("length", "count"), [(20, 600), (60, 600), (400, 200)])
def test_planted_copies_are_found(length, count):
    texts, alike = planted(count, length, length)
    found = duplicates.find(texts, threshold=0.8)
    assert found.kept[:count].all()
    near = np.array(alike) >= 0.8
    assert near.sum() > count // 4
    recall = np.mean(~found.kept[count:][near])
    assert recall >= 0.98
    # What is flagged is a near-duplicate, of just that text, by just that much.
    for i in np.flatnonzero(~found.kept).tolist():
        a, b = set_of(texts[i]), set_of(texts[found.numbers[i]])
        assert found.similarities[i] == len(a & b) / len(a | b) >= 0.8


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=5).map(" ".join), max_size=20),
    st.sampled_from([0.3, 0.8, 1.0]),
    st.data(),
)
def test_a_stream_is_its_parts(texts, threshold, data):
    whole = duplicates.find(texts, threshold=threshold)
    cut = data.draw(st.integers(0, len(texts)))
    finder = duplicates.Finder(threshold=threshold)
    parts = [finder.add(iter(texts[:cut])), finder.add(texts[cut:])]
    for one, (a, b) in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(one, np.concatenate([a, b]))
    sets = [set_of(text) for text in texts]
    for i, number in enumerate(whole.numbers.tolist()):
        assert whole.kept[i] == (number == i) and whole.kept[number]
        if number != i:
            union = len(sets[i] | sets[number])
            assert whole.similarities[i] == len(sets[i] & sets[number]) / union >= threshold
    # Equal texts are always found: of each set, one alone is kept.
    kept = [sets[i] for i in np.flatnonzero(whole.kept) if sets[i]]
    assert len(set(kept)) == len(kept)


def test_many_equal_texts_leave_one():
    texts = ["one text that is there very often"] * 3000 + ["!"] * 5
    found = duplicates.find(texts)
    assert found.kept.sum() == 1 + 5 and found.kept[0]


def test_parts_do_not_show(monkeypatch):
    texts, _ = planted(50, 40, 0)
    whole = duplicates.find(texts)
    monkeypatch.setattr(duplicates, "AT_ONCE", 7)
    for one, other in zip(whole, duplicates.find(texts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_seeds_and_nothing():
    assert [x.size for x in duplicates.find([])] == [0, 0, 0]
    texts, _ = planted(100, 30, 1)
    first, second = (duplicates.find(texts, seed=seed) for seed in (0, 1))
    assert np.mean(first.kept == second.kept) > 0.95


def test_tables_follow_the_threshold():
    for threshold in (0.2, 0.35, 0.5, 0.7, 0.8, 0.9, 0.99):
        hashes, tables = duplicates.sizes(threshold)
        assert (1 - threshold**hashes) ** tables <= 0.002
        assert (1 - (threshold / 2) ** hashes) ** tables > 0.02 and tables <= 32


@pytest.mark.parametrize("wrong", [{"threshold": 0.1}, {"threshold": 1.1}, {"seed": -1}])
def test_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} = .*: must be"):
        duplicates.find(["a"], **wrong)
    with pytest.raises(TypeError, match="texts = one string"):
        duplicates.find("a")
