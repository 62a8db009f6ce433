"""The learning rate's rule, by steps, by time, and inside Optax."""

from __future__ import annotations

import math

import jax
import numpy as np
import optax
import pytest

from sparse_jax.optim import rates


def test_warm_up_then_a_line_to_zero():
    found = [rates.scale(step, steps=20, warmup=4) for step in range(21)]
    expected = [min(1, (s + 1) / 4) * (1 - s / 20) for s in range(21)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[20] == 0.0


def test_cosine():
    assert rates.scale(10, steps=20, warmup=1, shape="cosine") == pytest.approx(0.5)
    assert rates.scale(5, steps=20, warmup=1, shape="cosine") == pytest.approx(
        (1 + math.cos(math.pi / 4)) / 2
    )
    assert rates.scale(20, steps=20, warmup=1, shape="cosine") == 0.0


def test_time_may_end_first():
    by_time = rates.scale(10, steps=100, warmup=1, seconds=6.0, max_seconds=10.0)
    assert by_time == pytest.approx(0.4)
    assert rates.scale(80, steps=100, warmup=1, seconds=6.0, max_seconds=10.0) == pytest.approx(0.2)
    assert rates.scale(1, steps=100, warmup=1, seconds=60.0, max_seconds=10.0) == 0.0


def test_the_schedule_for_optax_is_optaxs():
    for steps in (2, 7, 90, 5000):
        ours = rates.cosine(3e-3, steps=steps)
        warmup = min(100, max(1, steps // 10))
        theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup, steps)
        for step in (0, 1, steps // 2, steps):
            assert np.asarray(ours(step)).tobytes() == np.asarray(theirs(step)).tobytes()


def test_a_single_step_trains():
    """A rate that starts from 0 would leave it all as it was, without a word."""
    schedule = rates.cosine(3e-3, steps=1)
    assert [float(schedule(step)) for step in (0, 1, 2)] == [pytest.approx(3e-3), 0.0, 0.0]
    tx = optax.sgd(schedule)
    with jax.numpy_dtype_promotion("standard"):  # Optax multiplies its count by a float
        updates, _ = tx.update(np.ones(2, np.float32), tx.init(np.zeros(2, np.float32)))
    np.testing.assert_allclose(updates, -3e-3, rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 3, 19, 20, 1000, 5000])
def test_the_peak_is_reached_in_time(steps):
    schedule = rates.cosine(1.0, steps=steps)
    assert float(schedule(rates.default_warmup(steps))) == 1.0
    assert rates.default_warmup(steps) < steps


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps = 0: must be at least 1"),
        ({"steps": 1, "warmup": 1}, "warmup = 1: must be from 0 to 0, below steps = 1"),
        ({"steps": 9, "warmup": 9}, "warmup = 9: must be from 0 to 8"),
        ({"warmup": -1}, "warmup = -1"),
    ],
)
def test_sizes_of_the_schedule_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        rates.cosine(1.0, **({"steps": 5} | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"warmup": 0}, "warmup = 0"),
        ({"max_seconds": 0.0}, r"max_seconds = 0\.0"),
        ({"shape": "step"}, "shape = 'step'"),
    ],
)
def test_sizes_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        rates.scale(0, **({"steps": 5} | wrong))
