"""Lists of items against scores by the definition, and what happens in odd cases."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_jax import data, recommend
from sparse_jax.recommend import encoder, inference, pairs

pytestmark = pytest.mark.usefixtures("quick_compiles")


def reference_scores(model: recommend.Model, histories: data.Histories) -> np.ndarray:
    """Scores by the definition, in double precision."""
    table = pairs.to_matrix(model.pairs).toarray()
    scores = np.zeros((histories.num_users, model.num_items))
    for row in range(histories.num_users):
        for age, item in enumerate(histories.of(row)[::-1][:30]):
            scores[row] += model.mix.decay**age * table[item]
    if not model.encoders:
        return model.mix.weight * (scores + model.bias)
    inputs = encoder.last_events(histories, model.shape.length, histories.num_users)
    hidden = encoder.summaries(model.encoders, inputs, shape=model.shape)
    return model.mix.weight * scores + np.asarray(hidden) @ model.output.T + model.bias


def test_scores_are_as_defined(model, split):
    expected = reference_scores(model, split.contexts)
    np.testing.assert_allclose(
        inference.scores_of(model, split.contexts), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_predictions_are_the_best_of_all_scores(model, split, k, exclude_seen):
    part = split.contexts.take(np.arange(50))
    found = recommend.predict(model, part, k=k, exclude_seen=exclude_seen, batch_size=16)
    scores = inference.scores_of(model, part).astype(np.float64)
    assert found.items.dtype == np.int32 and found.scores.dtype == np.float32
    for row in range(50):
        if exclude_seen:
            scores[row, part.of(row)] = -np.inf
        left = int((scores[row] > -np.inf).sum())
        items = found.items[row]
        assert (items >= 0).sum() == min(k, left) and len(set(items.tolist()) - {-1}) == min(
            k, left
        )
        assert not exclude_seen or not set(items.tolist()) & set(part.of(row).tolist())
        best = np.sort(scores[row])[::-1][: min(k, left)]
        np.testing.assert_allclose(found.scores[row, : len(best)], best, rtol=1e-4, atol=1e-4)
        assert (found.scores[row, len(best) :] == -np.inf).all()


def test_the_kernel_finds_what_all_scores_say(whole, split, monkeypatch):
    """Where there are too many scores to compute them whole."""
    part = split.contexts.take(np.arange(50))
    first = recommend.predict(whole, part, k=7)
    monkeypatch.setattr(inference, "_WHOLE", 0)
    second = recommend.predict(whole, part, k=7)
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-4)


def test_a_user_who_saw_much_still_gets_a_whole_list(model):
    names = list(model.item_names)
    found = recommend.predict(model, [names[:30], names[:1]], k=10)
    assert (found.items >= 0).all() and not set(found.items[0].tolist()) & set(range(30))


def test_items_and_users_that_are_unknown(model):
    """What is unknown is left out; who has nothing left gets what is popular."""
    same = recommend.predict(model, [["i3", "nothing"], ["i3"], ["nothing"], []], k=5)
    assert same.items[0].tolist() == same.items[1].tolist()
    assert same.items[2].tolist() == same.items[3].tolist() and (same.items >= 0).all()


def test_without_a_history_popular_items_come_first(linear):
    found = recommend.predict(linear, [[]], k=5).items[0]
    best = np.lexsort((np.arange(linear.num_items), -linear.popularity))[:5]
    assert found.tolist() == best.tolist()


def test_ids_of_a_file_don_t_matter(model):
    """Items are matched by name."""
    part = data.of_lists([["i9", "i4"], ["i4"]])
    other = data.of_lists([["zero", "i9", "i4"], ["i4"]])
    first, second = (recommend.predict(model, x, k=4).items for x in (part, other))
    assert first.tolist() == second.tolist()


def test_it_learns_the_walk(model, split):
    figures = recommend.evaluate(model, split.contexts, split.targets, ks=(1,), exclude_seen=False)
    assert figures["hr@1"] > 0.6


def test_related_items_are_neighbours(model):
    found = recommend.related(model, ["i7"], k=2)
    assert set(model.names(found.items[0])) == {"i6", "i8"}
    assert (np.diff(found.scores[0]) <= 0).all() and found.scores.max() <= 1
    assert (recommend.related(model, ["i7"], k=99).items[0] == -1).any()


def test_refused(model, split):
    with pytest.raises(ValueError, match="k = 0: must be at least 1"):
        recommend.predict(model, split.contexts, k=0)
    with pytest.raises(ValueError, match="batch_size = 0"):
        recommend.predict(model, split.contexts, batch_size=0)
    with pytest.raises(ValueError, match="item = 'x': must be one that the model was trained on"):
        recommend.related(model, ["x"])
    with pytest.raises(ValueError, match="items = 'i7': must be a list of names"):
        recommend.related(model, "i7")
    with pytest.raises(ValueError, match=r"lists\[0\] = 'i7': must be a list of items"):
        recommend.predict(model, ["i7"])
    with pytest.raises(ValueError, match="k = 0"):
        recommend.related(model, ["i7"], k=0)
    with pytest.raises(ValueError, match="preset = 'x': must be one of linear, fast, best"):
        recommend.fit(split.train, preset="x")
    with pytest.raises(ValueError, match="seed = -1"):
        recommend.fit(split.train, seed=-1)
    with pytest.raises(ValueError, match="2 users, none of two events"):
        recommend.fit(data.of_lists([["a"], ["b"]]))
    with pytest.raises(ValueError, match="targets = 1 items"):
        recommend.evaluate(model, split.contexts, split.targets[:1])
    with pytest.raises(ValueError, match="ks = "):
        recommend.evaluate(model, split.contexts, split.targets, ks=(0,))
