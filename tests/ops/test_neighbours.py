"""The labels of the nearest stored points against the formula in NumPy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.ops.ensemble import WidePart, ensemble_topk, order_by_bias
from sparse_jax.ops.neighbours import NEAR, Neighbours, shares
from sparse_jax.ops.wide import Entries

FEATURES, STORED, LABELS, POINTS = 25, 150, 40, 9
pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def given():
    """(dense stored rows, dense labels, dense queries); the last query is like nobody."""
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((STORED, FEATURES)) < 0.2, rng.random((STORED, FEATURES)), 0)
    rows[:, -1] = 0
    rows[7] = rows[90] = rows[3]  # copies
    labels = np.where(rng.random((STORED, LABELS)) < 0.05, rng.random((STORED, LABELS)), 0)
    queries = np.where(rng.random((POINTS, FEATURES)) < 0.4, rng.normal(size=(POINTS, FEATURES)), 0)
    queries[0] = rows[3]
    queries[-1] = np.eye(FEATURES)[-1]
    return (x.astype(np.float32) for x in (rows, labels, queries))


def stored(rows: np.ndarray, labels: np.ndarray) -> Neighbours:
    def sparse(dense: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        at, ids = np.nonzero(dense)
        starts = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])
        return (
            jnp.asarray(starts, jnp.int32),
            jnp.asarray(ids, jnp.int32),
            jnp.asarray(dense[at, ids]),
        )

    return Neighbours(*sparse(rows.T), *sparse(labels), jnp.float32(0.5))


def entries(queries: np.ndarray) -> Entries:
    rows, ids = np.nonzero(queries)
    return Entries(
        jnp.asarray(ids, jnp.int32), jnp.asarray(rows, jnp.int32), jnp.asarray(queries[rows, ids])
    )


def formula(rows: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    likeness = queries.astype(np.float64) @ rows.T
    out = np.zeros((len(queries), labels.shape[1]))
    for share, own in zip(out, likeness, strict=True):
        near = [p for p in np.argsort(-own, kind="stable")[:NEAR] if own[p] > 0]
        if near:
            power = (own[near] / own[near[0]]) ** 16
            share[:] = power @ labels[near] / power.sum()
    return out


def by_ensemble(near: Neighbours, given: Entries) -> np.ndarray:
    """The shares, from the scores of an ensemble of nothing else; both ways, by `kernels`."""
    none, bias = jnp.zeros(0, jnp.int32), jnp.zeros(LABELS)
    wide = WidePart(jnp.zeros(1, jnp.int32), none, jnp.zeros(0), bias, order_by_bias(bias))
    one = {"weight": jnp.float32(2), "tree_weight": jnp.float32(0)}

    def find(near: Neighbours, given: Entries):
        return ensemble_topk(
            wide, (), None, given, near=near, num_points=POINTS, beam=1, k=LABELS, **one
        )

    scores, ids = jax.jit(find)(near, given)
    out = np.zeros((POINTS, LABELS))
    np.put_along_axis(out, np.asarray(ids), np.asarray(scores), axis=1)
    return out


def test_equals_the_formula(kernels, given):
    rows, labels, queries = given
    near, asked = stored(rows, labels), entries(queries)
    want = formula(rows, labels, queries)
    np.testing.assert_allclose(by_ensemble(near, asked), want, atol=1e-5)  # weights 2 and 1/2
    found = jax.jit(shares, static_argnums=(2, 3))(near, asked, POINTS, LABELS)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert not want[-1].any() and want[0].max() > 0.1
    # Copies are equally near, and twice as long a query has the same neighbours.
    np.testing.assert_allclose(by_ensemble(near, entries(4 * queries)), want, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_is_near_nobody(kernels, given, value):
    rows, labels, queries = given
    near = stored(rows, labels)
    values = near.values.at[::7].set(jnp.float32(value))
    found = by_ensemble(dataclasses.replace(near, values=values), entries(queries))
    assert np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()


def test_an_empty_index_says_nothing(kernels, given):
    rows, labels, queries = given
    for near in (stored(rows[:0], labels[:0]), stored(0 * rows, labels)):
        assert not by_ensemble(near, entries(queries)).any()
        assert not np.asarray(shares(near, entries(queries), POINTS, LABELS)).any()
