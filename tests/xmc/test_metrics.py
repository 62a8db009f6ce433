"""Metrics against their definitions, point by point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.xmc.metrics import (
    cutoffs,
    evaluate,
    inverse_propensities,
    ndcg_at_k,
    precision_at_k,
    psp_at_k,
    recall_at_k,
)

LABELS = 12


def csr(rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return offsets, np.array([i for row in rows for i in row], np.int32)


def reference(pred, truth, weights, k):
    """The definitions, in loops."""
    n = len(pred)
    precision = recall = ndcg = gained = possible = 0.0
    for guesses, labels in zip(pred, truth, strict=True):
        hits = [g in labels for g in guesses[:k]]
        precision += sum(hits) / k
        if labels:
            recall += sum(hits) / len(labels)
            gain = sum(h / math.log2(r + 2) for r, h in enumerate(hits))
            ndcg += gain / sum(1 / math.log2(r + 2) for r in range(min(k, len(labels))))
        gained += sum(weights[g] for g, h in zip(guesses, hits, strict=False) if h)
        possible += sum(sorted((weights[i] for i in labels), reverse=True)[:k])
    return {
        f"p@{k}": precision / n,
        f"r@{k}": recall / n,
        f"ndcg@{k}": ndcg / n,
        f"psp@{k}": gained / possible if possible else 0.0,
    }


@st.composite
def cases(draw):
    n = draw(st.integers(1, 6))
    width = draw(st.integers(1, 6))
    label = st.integers(0, LABELS - 1)
    pred = []
    for _ in range(n):
        row = draw(st.lists(label, unique=True, max_size=width))
        row += [-1] * (width - len(row))
        pred.append(draw(st.permutations(row)))
    truth = draw(st.lists(st.lists(label, unique=True), min_size=n, max_size=n))
    weights = draw(st.lists(st.floats(1, 50), min_size=LABELS, max_size=LABELS))
    return pred, truth, np.array(weights)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_against_definitions(case):
    pred, truth, weights = case
    offsets, ids = csr(truth)
    array = np.array(pred, np.int32)
    ks = tuple(range(1, array.shape[1] + 1))
    got = evaluate(array, offsets, ids, weights, ks=ks)
    expected = {}
    for k in ks:
        expected |= reference(pred, truth, weights, k)
        assert precision_at_k(array, offsets, ids, k) == got[f"p@{k}"]
        assert recall_at_k(array, offsets, ids, k) == got[f"r@{k}"]
        assert ndcg_at_k(array, offsets, ids, k) == got[f"ndcg@{k}"]
        assert psp_at_k(array, offsets, ids, weights, k) == got[f"psp@{k}"]
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
        assert 0 <= got[name] <= 1 + 1e-12


def test_best_ranking_scores_one():
    truth = [[3, 1], [2], [0, 4, 5]]
    weights = np.array([1.0, 2.0, 1.5, 9.0, 4.0, 3.0])
    best = [sorted(row, key=lambda i: -weights[i]) for row in truth]
    pred = np.array([row + [-1] * (3 - len(row)) for row in best])
    got = evaluate(pred, *csr(truth), weights, ks=(1, 2, 3))
    for name in ("p@1", "ndcg@1", "ndcg@3", "r@3", "psp@1", "psp@2", "psp@3"):
        assert got[name] == pytest.approx(1.0), name


def test_points_without_labels_count():
    pred = np.array([[1], [1]])
    got = evaluate(pred, *csr([[1], []]), np.ones(2), ks=(1,))
    assert got == {"p@1": 0.5, "r@1": 0.5, "ndcg@1": 0.5, "psp@1": 1.0}
    assert evaluate(pred, *csr([[], []]), np.ones(2), ks=(1,))["psp@1"] == 0.0


def test_repeated_true_label_counts_once():
    assert recall_at_k(np.array([[4]]), *csr([[4, 4]]), 1) == 1.0


def test_no_propensities_no_psp():
    assert set(evaluate(np.array([[0]]), *csr([[0]]), ks=(1,))) == {"p@1", "r@1", "ndcg@1"}


def test_inverse_propensities_follow_the_formula():
    ids = np.array([0] * 30 + [2] * 5, np.int32)
    offsets = np.minimum(np.arange(101), ids.size)
    for a, b in ((0.55, 1.5), (0.6, 2.6)):
        got = inverse_propensities(offsets, ids, 4, a=a, b=b)
        c = (math.log(100) - 1) * (b + 1) ** a
        for label, count in enumerate([30, 0, 5, 0]):
            p = 1 / (1 + c * math.exp(-a * math.log(count + b)))
            assert got[label] == pytest.approx(1 / p, rel=1e-12)
    assert inverse_propensities(np.array([0, 1]), np.array([0]), 2).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"k": 0}, "k must be from 1 to the 2"),
        ({"k": 3}, "k must be from 1 to the 2"),
        ({"pred": np.array([0, 1])}, "pred must have the shape"),
        ({"pred": np.array([[0.0, 1.0]])}, "integer label ids"),
        ({"pred": np.array([[1, 1]])}, "pred names label 1 twice for point 0"),
        ({"pred": np.zeros((0, 2), np.int32), "offsets": np.array([0])}, "no points"),
        ({"offsets": np.array([0, 1, 1])}, "offsets must have 2 entries"),
        ({"offsets": np.array([0, 2])}, "offsets must have 2 entries"),
        ({"ids": np.array([-1])}, "ids must be at least 0"),
    ],
)
def test_wrong_arguments(change, part):
    good = {"pred": np.array([[0, 1]]), "offsets": np.array([0, 1]), "ids": np.array([0]), "k": 1}
    with pytest.raises(ValueError, match=part):
        precision_at_k(**(good | change))


def test_wrong_propensities():
    with pytest.raises(ValueError, match="inv_propensity has 1 labels"):
        psp_at_k(np.array([[0]]), *csr([[1]]), np.ones(1), 1)
    with pytest.raises(ValueError, match="no training points"):
        inverse_propensities(np.array([0]), np.array([], np.int32), 1)
    with pytest.raises(ValueError, match="label_ids must be in"):
        inverse_propensities(np.array([0, 1]), np.array([1]), 1)


def test_accepts_jax_arrays():
    jnp = pytest.importorskip("jax.numpy")
    offsets, ids = csr([[1]])
    assert precision_at_k(jnp.array([[1, 0]]), jnp.asarray(offsets, "int32"), ids, 2) == 0.5


@pytest.mark.parametrize(
    ("labels", "ks"), [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (4, (1, 3, 4)), (5, (1, 3, 5))]
)
def test_fewer_labels_than_five(labels, ks):
    """k goes up to what there is, and the values are those of the definitions."""
    rng = np.random.default_rng(labels)
    pred = np.array([rng.permutation(labels) for _ in range(20)])
    truth = [np.flatnonzero(rng.random(labels) < 0.5).tolist() for _ in range(20)]
    weights = rng.random(labels) + 1
    assert cutoffs(labels) == ks
    expected = {}
    for k in ks:
        expected |= reference(pred.tolist(), truth, weights, k)
    got = evaluate(pred, *csr(truth), weights)
    assert got == evaluate(pred, *csr(truth), weights, ks=ks)
    assert got == pytest.approx(expected)


def test_cutoffs():
    assert cutoffs(10**6) == (1, 3, 5)
    assert cutoffs(7, ks=(10, 1)) == (1, 7)
    with pytest.raises(ValueError, match="most = 0: must be at least 1"):
        cutoffs(0)
    with pytest.raises(ValueError, match="most = 0"):
        evaluate(np.zeros((3, 0), np.int32), *csr([[], [], []]))
    with pytest.raises(ValueError, match="k must be from 1 to the 3"):
        evaluate(np.array([[0, 1, 2]]), *csr([[1]]), ks=(5,))
