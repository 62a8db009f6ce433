"""Prediction by all parts at once: the kernel and the fallback against the formula in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.ops import ffi
from sparse_jax.ops.ensemble import LastLayer, WidePart, ensemble_topk, order_by_bias
from sparse_jax.ops.label_tree import LabelTree, tree_scores
from sparse_jax.ops.wide import Entries, wide_scores

FEATURES, POINTS, DIM = 30, 21, 12
pytestmark = pytest.mark.usefixtures("quick_compiles")
needs_kernels = pytest.mark.skipif(not ffi.AVAILABLE, reason="the C++ kernels are not built")


def sparse_rows(rng: np.random.Generator, first: int, columns: int) -> tuple[np.ndarray, ...]:
    """(offsets, ids, weights) of random weights by feature at columns from `first` on."""
    held = rng.random((FEATURES, columns)) < 0.1
    held[:, :first] = False
    offsets = np.concatenate([[0], np.cumsum(held.sum(axis=1))]).astype(np.int32)
    ids = np.nonzero(held)[1].astype(np.int32)
    return offsets, ids, rng.standard_normal(ids.size, np.float32)


def make_wide(rng: np.random.Generator, num_labels: int) -> WidePart:
    bias = rng.integers(-4, 0, num_labels).astype(np.float32)  # with ties
    arrays = map(jnp.asarray, (*sparse_rows(rng, 0, num_labels), bias))
    return WidePart(*arrays, order_by_bias(jnp.asarray(bias)))


def make_tree(rng: np.random.Generator, num_labels: int) -> LabelTree:
    """Five nodes, then twelve, then the labels."""
    parts, children = [1, 5, 12, num_labels], [np.array([1])]
    for above, below in itertools.pairwise(parts):
        cuts = np.sort(rng.integers(0, below + 1, above - 1))
        children.append(children[-1][-1] + np.append(cuts, below))
    children = np.concatenate(children).astype(np.int32)
    count = int(children[-1])
    rows, bias = sparse_rows(rng, 1, count), rng.standard_normal(count, np.float32)
    labels = rng.permutation(num_labels).astype(np.int32)
    return LabelTree(*map(jnp.asarray, (*rows, bias, children, labels)), depth=3)


def make_entries(rng: np.random.Generator, num_points: int) -> Entries:
    """Up to eight features of each point, some of them padding, and none of the first."""
    rows = np.sort(rng.integers(1, max(num_points, 2), 4 * num_points)) % num_points
    ids = rng.integers(-1, FEATURES, rows.size)
    values = rng.standard_normal(rows.size, np.float32)
    return Entries(*map(jnp.asarray, (ids.astype(np.int32), rows.astype(np.int32), values)))


def make_layer(
    rng: np.random.Generator, num_points: int, num_labels: int, dtype: jnp.dtype
) -> LastLayer:
    """Of small whole numbers, so that logits are exact."""
    hidden, rows, bias = (
        jnp.asarray(rng.integers(-2, 3, shape).astype(np.float32))
        for shape in ((num_points, DIM), (num_labels, DIM), num_labels)
    )
    return LastLayer(hidden, rows.astype(dtype), bias)


def find_each(wide, trees, layer, entries, *, num_points: int, ks: Sequence[int], beam: int = 3):
    """(scores, ids) for each k, all in one program."""

    def run(*parts):
        halves = {"weight": jnp.float32(0.5), "tree_weight": jnp.float32(0.2)}
        return [ensemble_topk(*parts, num_points=num_points, beam=beam, k=k, **halves) for k in ks]

    found = jax.jit(lambda *parts: run(*parts))(wide, trees, layer, entries)
    return jax.tree.map(np.asarray, found)


def find(*parts, k: int, **options):
    (found,) = find_each(*parts, ks=(k,), **options)
    return found


def all_scores(wide, trees, layer, entries, num_points: int, beam: int = 3) -> np.ndarray:
    def parts(wide, trees, entries):
        each = [tree_scores(tree, entries, num_points, beam) for tree in trees]
        return wide_scores(*wide[:4], entries, num_points), each

    total, each = jax.jit(lambda *given: parts(*given))(wide, trees, entries)
    total = np.asarray(total)
    if trees:
        mean = np.mean(each, axis=0)
        total = total + np.float32(0.2) * np.log(mean + np.float32(1e-6))
    total = np.float32(0.5) * total
    if layer is not None:
        total += layer.hidden @ layer.weights.astype(jnp.float32).T + layer.bias[None, :]
    return total


def check(found: tuple[np.ndarray, np.ndarray], total: np.ndarray) -> None:
    """Scores in order are those of their labels, distinct, and no label left out has a better."""
    scores, ids = found
    for row, own, names in zip(total, scores, ids, strict=True):
        best = np.sort(row[row > -np.inf])[::-1][: own.size]
        assert (own[best.size :] == -np.inf).all() and (names[best.size :] == -1).all()
        own, names = own[: best.size], names[: best.size]
        np.testing.assert_allclose(own, best, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row[names], best, rtol=1e-5, atol=1e-5)
        assert len(set(names)) == best.size
        assert (np.diff(names)[np.diff(own) == 0] > 0).all()


@pytest.mark.parametrize("num_points", [1, POINTS])
@pytest.mark.parametrize("num_trees", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    "dtype", [pytest.param(None, marks=pytest.mark.slow), jnp.float32, jnp.bfloat16]
)
def test_equals_the_formula(kernels, num_points, num_trees, dtype):
    rng = np.random.default_rng(num_trees)
    num_labels = 150
    wide = make_wide(rng, num_labels)
    trees = [make_tree(rng, num_labels) for _ in range(num_trees)]
    layer = None if dtype is None else make_layer(rng, num_points, num_labels, dtype)
    parts = wide, trees, layer, make_entries(rng, num_points)
    total = all_scores(*parts, num_points)
    for found in find_each(*parts, num_points=num_points, ks=(1, 5, num_labels + 3)):
        check(found, total)


@pytest.mark.parametrize("with_layer", [False, True])
def test_strange_numbers_and_few_labels(kernels, with_layer):
    rng = np.random.default_rng(5)
    for num_labels in (1, 2, 7):
        wide = make_wide(rng, num_labels)
        bias = wide.bias.at[0].set(jnp.nan)
        wide = wide._replace(bias=bias, order=order_by_bias(bias))
        layer = make_layer(rng, POINTS, num_labels, jnp.float32) if with_layer else None
        parts = wide, [], layer, make_entries(rng, POINTS)
        scores, ids = find(*parts, num_points=POINTS, k=5)
        assert (ids != 0).all()  # the label of NaN
        check((scores, ids), all_scores(*parts, POINTS))


def test_points_without_features_get_the_largest_biases(kernels):
    wide = make_wide(np.random.default_rng(0), 40)
    padding = Entries(
        jnp.full(8, -1, jnp.int32), jnp.zeros(8, jnp.int32), jnp.zeros(8, jnp.float32)
    )
    _, ids = find(wide, [], None, padding, num_points=3, k=6)
    assert (ids == np.argsort(-np.asarray(wide.bias), kind="stable")[:6]).all()


@needs_kernels
def test_operands_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    wide, tree = make_wide(rng, 20), make_tree(rng, 21)
    entries = make_entries(rng, 4)
    with pytest.raises(Exception, match="labels of a tree"):
        find(wide, [tree], None, entries, num_points=4, k=2)
    layer = make_layer(rng, 4, 19, jnp.float32)
    with pytest.raises(Exception, match="rows is neither"):
        find(wide, [], layer, entries, num_points=4, k=2)
    with pytest.raises(Exception, match="order"):
        find(wide._replace(order=wide.order[:3]), [], None, entries, num_points=4, k=2)
    with pytest.raises(Exception, match="beam"):
        find(wide, [make_tree(rng, 20)], None, entries, num_points=4, k=2, beam=0)
