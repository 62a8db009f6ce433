"""Summarizers on disk: what was kept is what comes back, whether or not it was trained."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sparse_jax.runtime.trees import owned
from sparse_jax.summarize import abstractive, pointer, saved
from sparse_jax.summarize.words import Words


@pytest.fixture
def summarizer() -> abstractive.Summarizer:
    """Of any numbers: none of them has to have been learned."""
    summaries = ("tool for a", "tool for b")
    words = Words.fit(["a tool", "b tools for a"], summaries, min_count=1, buckets=8)
    config = pointer.Config(words.size, words.outputs, embed=8, read=8, hidden=8)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: pointer.init(jax.random.key(0), config=config))
    params = jax.tree.map(lambda x: owned(rng.normal(size=x.shape).astype(x.dtype)), shapes)
    texts = tuple(np.unique(words.encode(text)[0]) for text in ("a tool", "b tools for a"))
    scores = {"written": 31.5, "lead": 20.0}
    return abstractive.Summarizer(config, words, params, texts, summaries, "lead", scores)


def test_what_is_saved_comes_back(summarizer, tmp_path):
    saved.save(summarizer, tmp_path)
    found = saved.load(tmp_path)
    for name in ("config", "summaries", "way", "scores"):
        assert getattr(found, name) == getattr(summarizer, name), name
    for name in ("forms", "outputs", "buckets"):
        assert getattr(found.words, name) == getattr(summarizer.words, name), name
    for name in ("params", "texts"):
        ours, theirs = (jax.tree.leaves(getattr(one, name)) for one in (summarizer, found))
        assert [(x.dtype, x.shape) for x in ours] == [(x.dtype, x.shape) for x in theirs]
        assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True)), name
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    text = "B tools for a. They are many."
    assert found.summarize([text]) == summarizer.summarize([text]) == ["B tools for a."]


def test_what_is_no_summarizer_is_refused(summarizer, tmp_path):
    with pytest.raises(ValueError, match=r"no model\.json"):
        saved.load(tmp_path)
    saved.save(summarizer, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        saved.load(tmp_path)
