"""What scores mean: the chances that calibration learns."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.xmc import calibration

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_calibration_learns_the_chances_it_is_drawn_from():
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.normal(size=(4000, 5)), axis=1).astype(np.float32)
    lead = np.asarray(calibration.leads(jnp.asarray(scores)))
    chance = 1 / (1 + np.exp(-(-0.5 + 1.5 * scores + 0.7 * lead)))
    hits = rng.random(scores.shape) < chance
    curve = calibration.fit(scores, hits)
    np.testing.assert_allclose(curve, [-0.5, 1.5, 0.7], atol=0.15)
    found = np.asarray(calibration.chances(jnp.asarray(scores), jnp.asarray(curve)))
    assert calibration.expected_error(found, hits) < 0.015
    assert calibration.expected_error(found**2, hits) > 0.05  # the measure sees what is wrong


def test_calibration_of_few_points_still_orders():
    curve = calibration.fit(np.zeros((3, 2), np.float32), np.zeros((3, 2), bool))
    chance = calibration.chances(jnp.array([[2.0, 1.0, -jnp.inf]]), jnp.asarray(curve))
    assert 1 > chance[0, 0] > chance[0, 1] > chance[0, 2] == 0
