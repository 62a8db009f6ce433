"""The learning rate's rule, by steps, by time, and inside Optax."""

from __future__ import annotations

import math

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
    for steps in (1, 7, 90, 5000):
        ours = rates.cosine(3e-3, steps=steps)
        warmup = min(100, max(1, steps // 10))
        theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup, max(steps, 2))
        for step in (0, 1, steps // 2, steps):
            assert np.asarray(ours(step)).tobytes() == np.asarray(theirs(step)).tobytes()


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
