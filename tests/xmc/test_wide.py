"""The wide classifier: NumPy's answers, the fallback's, thread counts, and bad input."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from sparse_jax import data
from sparse_jax.ops import ffi
from sparse_jax.xmc import wide

pytestmark = pytest.mark.usefixtures("quick_compiles")

POINTS = synthetic.make_data(90, num_features=50, num_labels=37, features=6, labels=4)
BATCHES = synthetic.make_batches(POINTS, 16)  # the last is short
RATE = np.float32(0.3)


def reference_pairs(points: data.XmcData, min_share: float) -> list[tuple[int, int]]:
    held: dict[int, int] = {}
    together: dict[tuple[int, int], int] = {}
    for p in range(points.num_points):
        features = points.feature_ids[points.feature_offsets[p] : points.feature_offsets[p + 1]]
        labels = points.label_ids[points.label_offsets[p] : points.label_offsets[p + 1]]
        for f in features:
            held[f] = held.get(f, 0) + 1
            for label in labels:
                together[f, label] = together.get((f, label), 0) + 1
    return sorted(pair for pair, n in together.items() if n > min_share * held[pair[0]])


def reference_step(model: wide.WideModel, batch: data.Batch) -> tuple[dict, float]:
    """The step with a dense matrix, one example after the other."""
    num_features, num_labels = model.offsets.size - 1, model.bias.size
    features = np.repeat(np.arange(num_features), np.diff(model.offsets))
    weights = np.zeros((num_features, num_labels), np.float64)
    slots, exists = np.ones_like(weights), np.zeros(weights.shape, bool)
    weights[features, model.label_ids] = model.weights
    slots[features, model.label_ids] = model.slots
    exists[features, model.label_ids] = True
    bias, bias_slots = np.array(model.bias, np.float64), np.array(model.bias_slots, np.float64)
    size = len(batch.row_mask)
    x, y = np.zeros((size, num_features)), np.full((size, num_labels), -1.0)
    real = batch.feature_ids >= 0
    np.add.at(x, (batch.feature_rows[real], batch.feature_ids[real]), batch.feature_values[real])
    real = batch.label_ids >= 0
    y[batch.label_rows[real], batch.label_ids[real]] = 1
    short = np.maximum(1 - y * (x @ weights + bias), 0) * (y > 0).any(axis=1, keepdims=True)
    for b in range(size):
        gradient = -2 * y[b] * short[b]
        outer = np.outer(x[b], gradient) * exists
        slots += outer**2
        weights -= RATE * outer / np.sqrt(slots)
        bias_slots += gradient**2
        bias -= RATE * gradient / np.sqrt(bias_slots)
    at = (features, np.asarray(model.label_ids))
    return (
        {"weights": weights[at], "slots": slots[at], "bias": bias, "bias_slots": bias_slots},
        (short**2).sum() / batch.row_mask.sum(),
    )


@pytest.mark.parametrize("min_share", [0.0, 0.2, 0.5])
def test_a_weight_for_each_pair_that_occurs_together(min_share, kernels):
    model = wide.zeros(POINTS, min_share=min_share)
    features = np.repeat(np.arange(50), np.diff(model.offsets))
    pairs = list(zip(features.tolist(), np.asarray(model.label_ids).tolist(), strict=True))
    assert pairs == reference_pairs(POINTS, min_share)


def test_steps_equal_numpy(kernels):
    model = wide.zeros(POINTS, min_share=0.0)
    for batch in BATCHES[-2:] + BATCHES[:2]:
        expected, expected_loss = reference_step(model, batch)
        model, loss = wide.step(model, batch, RATE)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(model, name), value, rtol=1e-4, atol=1e-5)
    # Some bias has risen above the margin, so the labels that nothing points to count as well.
    lifted = dataclasses.replace(model, bias=model.bias + jnp.float32(0.7))
    expected, expected_loss = reference_step(lifted, BATCHES[2])
    stepped, loss = wide.step(lifted, BATCHES[2], RATE)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(stepped.bias, expected["bias"], rtol=1e-4, atol=1e-5)


def test_a_step_in_groups_is_a_step_for_each(kernels):
    whole = next(
        data.batches(POINTS, 48, capacity=data.plan_capacity(POINTS, 48, seed=None, epochs=1))
    )
    model = wide.zeros(POINTS)
    one_by_one = model
    for start in range(0, 48, 16):
        rows = (whole.feature_rows >= start) & (whole.feature_rows < start + 16)
        own = (whole.label_rows >= start) & (whole.label_rows < start + 16)
        part = dataclasses.replace(
            whole,
            feature_ids=np.where(rows, whole.feature_ids, -1),
            label_ids=np.where(own, whole.label_ids, -1),
        )
        one_by_one, _ = wide.step(one_by_one, part, RATE, group=48)
    together, _ = wide.step(model, whole, RATE, group=16)
    for name in ("weights", "slots", "bias", "bias_slots"):
        np.testing.assert_array_equal(getattr(together, name), getattr(one_by_one, name))


def test_a_group_of_none_is_refused():
    with pytest.raises(ValueError, match="group = 0: must be at least 1"):
        wide.step(wide.zeros(POINTS), BATCHES[0], RATE, group=0)


def test_scores_equal_numpy(kernels):
    model = wide.zeros(POINTS)
    noise = np.random.default_rng(0).normal(size=model.weights.size).astype(np.float32)
    model = dataclasses.replace(model, weights=jnp.asarray(noise))
    matrix = np.zeros((50, 37))
    matrix[np.repeat(np.arange(50), np.diff(model.offsets)), model.label_ids] = noise
    x, batch = np.zeros((16, 50)), BATCHES[-1]
    real = batch.feature_ids >= 0
    np.add.at(x, (batch.feature_rows[real], batch.feature_ids[real]), batch.feature_values[real])
    found = wide.scores(model, batch)
    np.testing.assert_allclose(found, x @ matrix + np.asarray(model.bias), rtol=1e-4, atol=1e-5)


def test_learns_in_place():
    step = jax.jit(wide.step, donate_argnums=0)
    model, losses = wide.zeros(POINTS), []
    for epoch in range(20):
        at = model.weights.unsafe_buffer_pointer()
        model, loss = step(model, BATCHES[epoch % 5], RATE)
        losses.append(float(loss))
        if ffi.AVAILABLE:
            assert model.weights.unsafe_buffer_pointer() == at
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.skipif(not ffi.AVAILABLE, reason="the C++ kernels are not built")
def test_arrays_out_of_range_are_skipped_not_read():
    model = wide.zeros(POINTS)
    offsets = np.array(model.offsets)
    offsets[3:9] = [-7, 2**31 - 1, 5, 3, -(2**31), 10**6]
    labels = np.array(model.label_ids)
    labels[::3], labels[1::5] = -1, 2**31 - 1
    first, own = BATCHES[0].feature_ids, BATCHES[0].label_ids
    broken = dataclasses.replace(model, offsets=jnp.asarray(offsets), label_ids=jnp.asarray(labels))
    batch = dataclasses.replace(
        BATCHES[0],
        feature_ids=np.where(np.arange(first.size) % 4, first, 99),
        label_ids=np.where(np.arange(own.size) % 2, own, 37),
    )
    assert np.isfinite(np.asarray(wide.scores(broken, batch))).all()
    stepped, loss = wide.step(broken, batch, RATE)
    assert np.isfinite(float(loss)) and np.isfinite(np.asarray(stepped.weights)).all()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_share(share):
    with pytest.raises(ValueError, match=f"min_share = {share}: must be at least 0 and below 1"):
        wide.zeros(POINTS, min_share=share)


_PROGRAM = """
import jax, numpy as np, synthetic
from sparse_jax.xmc import wide
points = synthetic.make_data(600, num_features=300, num_labels=400, features=30)
model, step = wide.zeros(points), jax.jit(wide.step, donate_argnums=0)
for batch in synthetic.make_batches(points, 32):
    model, loss = step(model, batch, np.float32(0.3))
print(synthetic.digest((model, loss, wide.scores(model, batch))))
"""


@pytest.mark.threads(_PROGRAM, counts=(1, 5))
def test_bits_do_not_depend_on_threads(printed):
    assert printed[1] == printed[5] != ""
