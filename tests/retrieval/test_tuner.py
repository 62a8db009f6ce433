"""The tuner: predictions against what is built, and against brute force."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.retrieval import tuner
from sparse_jax.retrieval.index import IndexConfig

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 3000, 24


@functools.cache
def layer() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows around some directions, and queries near them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, D))
    rows = centres[rng.integers(0, 60, N)] + 0.7 * rng.normal(size=(N, D))
    queries = centres[rng.integers(0, 60, 200)] + 0.7 * rng.normal(size=(200, D))
    return jnp.array(rows, jnp.float32), jnp.zeros(N), jnp.array(queries, jnp.float32)


@functools.cache
def drawn() -> tuner.Sample:
    rows, bias, queries = layer()
    return tuner.sample(jax.random.key(0), rows, bias, queries[100:], num_rows=1500)


def plans(**change):
    options = {
        "batch_size": 16,
        "memory": 2**20,
        "active_fraction": 0.3,
        "families": ("simhash", "wta"),
        "num_tables": (4, 16),
        "num_bits": (4, 6, 7),
    }
    return tuner.plan(drawn(), **(options | change))


def test_sample_holds_the_exact_best_rows():
    rows, _, _ = layer()
    s = drawn()
    for query, best in zip(s.queries[:5], s.best[:5], strict=True):
        want = np.sort(np.asarray(rows) @ query)[::-1][:5]
        np.testing.assert_allclose(best @ query, want, rtol=1e-5)


@pytest.mark.slow
def test_plans_fit_the_memory_and_are_sorted():
    small, large = plans(memory=300_000), plans()
    assert 0 < len(small) < len(large)
    assert all(p.predicted_bytes <= 300_000 for p in small)
    assert all(p.config.max_candidates == int(0.3 * N) // 16 for p in large)
    recalls = [round(p.predicted_recall, 3) for p in large]
    assert recalls == sorted(recalls, reverse=True)
    assert {p.config.num_bits for p in large if p.config.family == "wta"} == {6}
    assert plans(memory=1000) == []


@pytest.mark.slow
def test_predictions_come_true():
    rows, bias, queries = layer()
    found = plans()
    for plan in (found[0], found[len(found) // 2], found[-1]):
        got = tuner.measure(jax.random.key(7), rows, bias, queries[:100], config=plan.config)
        assert got.bytes == plan.predicted_bytes
        assert abs(got.recall - plan.predicted_recall) < 0.05 + 0.25 * plan.predicted_recall
    # And the order means something.
    assert found[0].predicted_recall > 2 * found[-1].predicted_recall


def test_tails_are_binomial():
    p = np.array([0.0, 0.3, 1.0])
    tails = tuner._tails(p, 5)
    want = [sum(math.comb(5, i) * 0.3**i * 0.7 ** (5 - i) for i in range(c, 6)) for c in range(7)]
    np.testing.assert_allclose(tails[1], want, atol=1e-12)
    np.testing.assert_array_equal(tails[0], [1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(tails[2], [1, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"active_fraction": 0.0}, "active_fraction = 0.0: must be above 0"),
        ({"families": ("minhash", "nope")}, r"families has \['minhash', 'nope'\]"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        plans(**change)


def test_bytes_count_tables_and_functions():
    config = IndexConfig(family="wta", num_tables=2, num_bits=6, capacity=9)
    got = tuner.predict_bytes(100, D, config=config)
    rows, bias, queries = layer()
    measured = tuner.measure(jax.random.key(0), rows[:100], bias[:100], queries[:4], config=config)
    assert measured.bytes == got
