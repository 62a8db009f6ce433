"""Ranks and figures, and how ties, NaN and repeats are decided."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_jax import data, recommend
from sparse_jax.recommend import evaluation

pytestmark = pytest.mark.usefixtures("quick_compiles")


def scores_by_hand(histories: data.Histories, rows: list[list[float]]):
    return lambda part: np.array([rows[int(name)] for name in part.user_names])


def ask(lists, rows, targets, **options):
    histories = data.of_lists(lists)
    names = {name: i for i, name in enumerate(histories.item_names)}
    ids = np.array([names.get(t, -1) for t in targets])
    return evaluation.evaluate_scores(
        scores_by_hand(histories, rows),
        histories,
        ids,
        popularity=np.arange(len(names), dtype=float),
        **options,
    )


LISTS = [["a"], ["b"], ["c", "d", "e"]]


def test_ranks_and_figures():
    rows = [[9, 1, 2, 3, 4], [5, 9, 4, 3, 2], [1, 2, 0, 0, 0]]
    found = ask(LISTS, rows, ["d", "a", "a"], ks=(1, 2))
    # a is left out of the first user's, so d is second; then first; then second of two.
    assert found["hr@1"] == pytest.approx(1 / 3) and found["hr@2"] == 1
    assert found["ndcg@2"] == pytest.approx((2 / np.log2(3) + 1) / 3)
    assert found["mrr"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["coverage@1"] == pytest.approx(3 / 5)  # e, a, b
    assert found["popularity@1"] == pytest.approx((4 + 0 + 1) / 4 / 3)
    assert found["users"] == 3 and found["repeats"] == 0 and found["unknown"] == 0


def test_ties_count_against_the_model():
    found = ask(LISTS[:1] + LISTS[2:], [[0] * 4, [0] * 4], ["c", "a"], ks=(1, 3))
    assert found["hr@1"] == 0.5  # the second user has nothing left but a
    assert found["mrr"] == pytest.approx((1 / 3 + 1) / 2)


def test_nan_ranks_last_and_is_no_hit():
    rows = [[0, np.nan, 1, np.nan, -np.inf]] * 3
    found = ask(LISTS, rows, ["d", "c", "b"], ks=(1, 5))
    assert found["hr@5"] == pytest.approx(1 / 3) and found["hr@1"] == pytest.approx(1 / 3)
    assert found["mrr"] == pytest.approx(1 / 3)


def test_repeats_are_left_out_or_ranked():
    rows = [[9, 1, 2, 3, 4], [9, 0, 0, 0, 0], [9, 0, 0, 0, 0]]
    found = ask(LISTS, rows, ["a", "a", "a"], ks=(1,))
    assert found["users"] == 2 and found["repeats"] == pytest.approx(1 / 3)
    with_seen = ask(LISTS, rows, ["a", "a", "a"], ks=(1,), exclude_seen=False)
    assert with_seen["users"] == 3 and with_seen["hr@1"] == 1
    with pytest.raises(ValueError, match="no user to ask"):
        ask([["a"]], [[0]], ["a"])


def test_unknown_targets_are_misses(model):
    histories = data.of_lists([["i3"], ["i4"]])
    found = recommend.evaluate(model, histories, ["i4", "never trained"], ks=(40,))
    assert found["unknown"] == 0.5 and found["hr@40"] == 0.5


@pytest.mark.parametrize("wrong", [-1, 40, 1.0, None])
def test_targets_are_names_or_ids(linear, split, wrong):
    targets = [*split.targets[:-1].tolist(), wrong]
    place = len(targets) - 1
    with pytest.raises(ValueError, match=rf"targets\[{place}\] = {wrong}: must be an item's name"):
        recommend.evaluate(linear, split.contexts, targets)


def test_evaluation_agrees_with_predictions(model, split):
    figures = recommend.evaluate(model, split.contexts, split.targets, ks=(10,))
    items = recommend.predict(model, split.contexts, k=10).items
    seen = np.array([t in split.contexts.of(i) for i, t in enumerate(split.targets)])
    hits = (items == split.targets[:, None]).any(axis=1)[~seen]
    assert figures["hr@10"] == pytest.approx(hits.mean(), abs=0.01)  # ties
    assert figures["repeats"] == pytest.approx(seen.mean())


def test_lists_are_no_histories():
    rows = [["tea", "egg"]]
    model = recommend.fit(data.of_lists(rows), preset="linear")
    for refused in (
        lambda: data.leave_one_out(rows),
        lambda: data.split_at(rows, 0),
        lambda: recommend.fit(rows),
        lambda: recommend.update(model, rows),
        lambda: recommend.evaluate(model, rows, ["tea"]),
    ):
        with pytest.raises(TypeError, match="histories is a list: must be Histories; make them"):
            refused()
