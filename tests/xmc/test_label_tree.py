"""The label tree: its shape, NumPy's answers, the fallback's, thread counts, and bad input."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from sparse_jax import data
from sparse_jax.ops import ffi
from sparse_jax.ops.label_tree import LabelTree, Svm
from sparse_jax.xmc import label_tree, metrics

pytestmark = pytest.mark.usefixtures("quick_compiles")

POINTS = synthetic.make_data(60, num_features=40, num_labels=37, features=6, labels=3)
BATCHES = synthetic.make_batches(POINTS, 16)  # the last is short
needs_kernels = pytest.mark.skipif(not ffi.AVAILABLE, reason="the C++ kernels are not built")


def make_points(rows: list[dict[int, float]], labels: list[list[int]], **sizes) -> data.XmcData:
    return data.XmcData(
        np.cumsum([0, *map(len, rows)]),
        np.array([f for row in rows for f in row], np.int32),
        np.array([x for row in rows for x in row.values()], np.float32),
        np.cumsum([0, *map(len, labels)]),
        np.array([label for row in labels for label in row], np.int32),
        **sizes,
    )


def run(tree: LabelTree, batch: data.Batch, beam: int) -> np.ndarray:
    return np.asarray(jax.jit(lambda t, b: label_tree.scores(t, b, beam=beam))(tree, batch))


def check_structure(tree: LabelTree, num_labels: int, leaf: int) -> None:
    children, inner = np.asarray(tree.children), tree.children.size - 1
    levels = [[0]]
    for _ in range(tree.depth):
        levels.append([c for v in levels[-1] for c in range(children[v], children[v + 1])])
    # One after the other, with no gap, and none twice.
    assert [v for level in levels for v in level] == list(range(tree.bias.size))
    assert levels[-1] == list(range(inner, inner + num_labels))
    assert all(children[v + 1] - children[v] <= leaf for v in levels[-2])
    assert sorted(tree.labels.tolist()) == list(range(num_labels))


def dense(tree: LabelTree) -> np.ndarray:
    weights = np.zeros((tree.offsets.size - 1, tree.bias.size))
    weights[np.repeat(np.arange(len(weights)), np.diff(tree.offsets)), tree.nodes] = tree.weights
    return weights


def reference_scores(tree: LabelTree, batch: data.Batch, beam: int) -> np.ndarray:
    """Beam search, one point and one node after the other."""
    children, weights = tree.children.tolist(), dense(tree)
    x = np.zeros((len(batch.row_mask), len(weights)))
    real = batch.feature_ids >= 0
    np.add.at(x, (batch.feature_rows[real], batch.feature_ids[real]), batch.feature_values[real])
    sums = x @ weights + np.asarray(tree.bias)
    found = np.zeros((len(x), tree.labels.size))
    for b in range(len(x)):
        front = {0: 0.0}
        for level in range(tree.depth):
            below = {}
            for v, score in front.items():
                for c in range(children[v], children[v + 1]):
                    below[c] = score - max(0, 1 - sums[b, c]) ** 2
            best = sorted(below, key=lambda v: (-below[v], v))
            front = {v: below[v] for v in (best[:beam] if level + 1 < tree.depth else best)}
        for v, score in front.items():
            found[b, tree.labels[v - len(children) + 1]] = np.exp(score)
    return found


@pytest.mark.parametrize(
    ("num_labels", "leaf", "depth"),
    # With leaves of one, some nodes have no label.
    [(37, 4, 3), (100, 1, 4), (5, 1, 2), (37, 37, 1), (37, 64, 1), (38, 37, 2), (1, 64, 1)],
)
def test_each_label_is_in_one_leaf_and_all_leaves_are_as_deep(num_labels, leaf, depth, kernels):
    points = synthetic.make_data(20, num_features=30, num_labels=num_labels, features=4)
    tree = label_tree.fit(points, leaf=leaf)
    assert tree.depth == depth
    check_structure(tree, num_labels, leaf)


def test_labels_and_points_may_have_nothing(kernels):
    rows, labels = [{}, {1: 1.0}, {0: 1.0, 2: 0.5}, {}], [[0], [], [1, 3], []]
    points = make_points(rows, labels, num_features=3, num_labels=7)
    (batch,) = data.batches(points, 4)
    for train in (points, points.take([])):
        tree = label_tree.fit(train, leaf=2)
        check_structure(tree, 7, 2)
        np.testing.assert_allclose(run(tree, batch, 9), reference_scores(tree, batch, 9), rtol=1e-4)


def test_labels_without_a_point_get_no_place_where_most_have_none(kernels):
    few = synthetic.make_data(40, num_features=30, num_labels=9, features=4)
    ids = np.sort(np.random.default_rng(0).permutation(5_000)[:9])
    many = dataclasses.replace(few, label_ids=ids[few.label_ids].astype(np.int32), num_labels=5_000)
    (batch,) = data.batches(few, 40)
    small, large = label_tree.fit(few, leaf=4), label_tree.fit(many, leaf=4)
    assert large.weights.size == small.weights.size and large.depth == small.depth
    expected = np.zeros((40, 5_000), np.float32)
    expected[:, ids] = run(small, batch, 3)
    np.testing.assert_array_equal(run(large, batch, 3), expected)
    assert sorted(large.labels.tolist()) == list(range(5_000))


@needs_kernels
@pytest.mark.parametrize("seed", [0, 5, 2**32 - 2])
def test_the_kernel_trains_like_the_fallback(seed, monkeypatch):
    kernel = label_tree.fit(POINTS, seed=seed, leaf=4)
    monkeypatch.setattr(ffi, "AVAILABLE", False)
    fallback = label_tree.fit(POINTS, seed=seed, leaf=4)
    assert kernel.weights.size > 200
    for name in ("offsets", "nodes", "children", "labels"):
        np.testing.assert_array_equal(getattr(kernel, name), getattr(fallback, name))
    np.testing.assert_allclose(kernel.weights, fallback.weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(kernel.bias, fallback.bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cost", [0.1, 1.0])
def test_training_reaches_the_optimum(cost, kernels):
    points = synthetic.make_data(30, num_features=5, num_labels=3, features=3, labels=2)
    svm = Svm(cost=cost, iterations=300, tolerance=1e-5, prune=0.0)
    tree = label_tree.fit(points, svm=svm)
    x, y = np.zeros((30, 6)), np.full((30, 3), -1.0)
    at = np.repeat(np.arange(30), np.diff(points.feature_offsets))
    x[at, points.feature_ids], x[:, 5] = points.feature_values, 1  # the bias is penalised as well
    y[np.repeat(np.arange(30), np.diff(points.label_offsets)), points.label_ids] = 1

    def objective(w: np.ndarray) -> np.ndarray:
        return 0.5 * (w**2).sum(0) + cost * (np.maximum(0, 1 - y * (x @ w)) ** 2).sum(0)

    best, rate = np.zeros((6, 3)), 1 / (1 + 2 * cost * np.linalg.norm(x, 2) ** 2)
    for _ in range(5000):
        best -= rate * (best - 2 * cost * x.T @ (y * np.maximum(0, 1 - y * (x @ best))))
    found = np.concatenate([dense(tree), np.asarray(tree.bias)[None]])[:, 1:]  # without the root
    found = found[:, np.argsort(tree.labels)]
    assert (objective(found) <= 1.01 * objective(best)).all()


@pytest.mark.parametrize("beam", [1, 3, 50])
def test_scores_equal_numpy(beam, kernels):
    tree = label_tree.fit(POINTS, leaf=4)
    for batch in BATCHES[-2:]:
        found = run(tree, batch, beam)
        np.testing.assert_allclose(found, reference_scores(tree, batch, beam), rtol=1e-3, atol=1e-6)
        assert (found >= 0).all() and (found <= 1).all()
        assert ((found > 0).sum(axis=1) <= 4 * beam).all() and (found > 0).all() == (beam == 50)


def test_the_first_nodes_win_ties(kernels):
    tree = label_tree.fit(POINTS, leaf=4)
    even = dataclasses.replace(tree, weights=0 * tree.weights, bias=0 * tree.bias)
    children, inner = tree.children.tolist(), tree.children.size - 1
    second = children[1]  # the first node of the second level
    for beam in (1, 2):
        leaves = range(children[second] - inner, children[second + beam] - inner)
        expected = np.zeros((16, 37))
        expected[:, np.asarray(tree.labels)[leaves]] = np.exp(-3)
        np.testing.assert_allclose(run(even, BATCHES[0], beam), expected, rtol=1e-6)


def test_padding_is_skipped(kernels):
    tree, batch = label_tree.fit(POINTS, leaf=4), BATCHES[0]
    real = np.arange(batch.feature_ids.size) % 3 > 0
    padded = dataclasses.replace(batch, feature_ids=np.where(real, batch.feature_ids, -1))
    zeroed = dataclasses.replace(batch, feature_values=batch.feature_values * np.float32(real))
    np.testing.assert_array_equal(run(tree, padded, 3), run(tree, zeroed, 3))


def test_learns_what_features_decide(kernels):
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 24
    rows = [{l: 1.0, 24 + l % 6: 1.0, rng.integers(30, 40): 1.0} for l in labels]
    points = make_points(rows, labels[:, None].tolist(), num_features=40, num_labels=24)
    tree = label_tree.fit(points, leaf=4)
    (batch,) = data.batches(points, 96)
    best = run(tree, batch, 5).argmax(axis=1, keepdims=True)
    assert metrics.precision_at_k(best, points.label_offsets, points.label_ids, 1) > 0.95


def test_the_seed_decides_the_tree(kernels):
    first, again, other = (label_tree.fit(POINTS, seed=seed, leaf=4) for seed in (1, 1, 2))
    assert synthetic.digest(first) == synthetic.digest(again)
    assert not np.array_equal(first.labels, other.labels)


def test_no_leaf_and_no_beam_are_refused(kernels):
    with pytest.raises(ValueError, match="leaf = 0: must be at least 1"):
        label_tree.fit(POINTS, leaf=0)
    with pytest.raises(ValueError, match="beam = 0: must be at least 1"):
        label_tree.scores(label_tree.fit(POINTS), BATCHES[0], beam=0)


# Two points, two features, one node with two children.
_LEVEL = {
    "feature_offsets": np.array([0, 1, 2]),
    "feature_ids": np.array([0, 1], np.int32),
    "feature_values": np.ones(2, np.float32),
    "num_features": 2,
    "member_offsets": np.array([0, 2]),
    "members": np.array([0, 1], np.int32),
    "child_offsets": np.array([0, 2]),
    "positive_offsets": np.array([0, 1, 2]),
    "positives": np.array([0, 1], np.int32),
}


@needs_kernels
@pytest.mark.parametrize("name", [name for name in _LEVEL if name != "feature_values"])
def test_a_level_that_does_not_fit_is_refused(name):
    def fit(**changed: object) -> tuple:
        return ffi.native().fit_tree_level(*{**_LEVEL, **changed}.values(), *Svm(), 0, 2)

    assert fit()[0].tolist() == [0, 0, 1, 1]
    bad = [-1, 0, 1]  # of num_features
    if name != "num_features":
        good = _LEVEL[name]
        one, most = good.dtype.type(1), np.iinfo(good.dtype).max
        bad = [good + one, good - one, good[1:], good[:0], np.full_like(good, most)]
    for value in bad:
        with pytest.raises(ValueError, match=r"range|do not fit|length"):
            fit(**{name: value})


@needs_kernels
def test_arrays_that_lie_are_not_followed():
    rng, tree = np.random.default_rng(0), label_tree.fit(POINTS, leaf=4)
    for trial in range(60):
        changed = {}
        for name in ("children", "nodes", "offsets", "labels"):
            array = np.array(getattr(tree, name))
            far, near = rng.integers(-(2**31), 2**31, array.size), rng.integers(-2, 70, array.size)
            lies = np.where(rng.random(array.size) < 0.5, far, near)
            lies = np.where(rng.random(array.size) < trial / 60, lies, array)
            changed[name] = jnp.asarray(lies, jnp.int32)
        broken = dataclasses.replace(tree, **changed)
        for beam in (3, 10**6):
            found = np.asarray(label_tree.scores(broken, BATCHES[0], beam=beam))
            assert np.isfinite(found).all()


_PROGRAM = """
import synthetic
from sparse_jax.xmc import label_tree
points = synthetic.make_data(300, num_features=300, num_labels=400, features=20)
tree = label_tree.fit(points, leaf=8)
print(synthetic.digest((tree, label_tree.scores(tree, synthetic.make_batches(points, 64)[0]))))
"""


@pytest.mark.threads(_PROGRAM, counts=(1, 5))
def test_bits_do_not_depend_on_threads(printed):
    assert printed[1] == printed[5] != ""
