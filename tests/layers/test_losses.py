"""Losses over an active set, against NumPy in double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.layers import losses

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, A = 4, 6
# Example 0 has two labels, 1 one label entered twice and another, 2 none, 3 one; then padding.
ROWS = np.array([0, 0, 1, 1, 1, 3, 3, 0], np.int32)
POSITIONS = np.array([1, 4, 2, 2, 0, 3, -1, -1], np.int32)
MASKS = {
    "none": None,
    "shared": np.array([1, 1, 1, 1, 1, 0], bool),
    "own": np.array([[1, 1, 1, 1, 1, 0], [1, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 1], [1] * 6], bool),
}
CORRECTIONS = {
    "none": None,
    "shared": np.log(np.array([1, 1, 1, 0.5, 0.25, 0.1], np.float32)),
    "own": np.log(np.linspace(0.1, 1, B * A, dtype=np.float32).reshape(B, A)),
}
LOSSES = {"softmax": losses.softmax_cross_entropy, "binary": losses.binary_cross_entropy}


def reference(name, logits, mask, log_inclusion):
    z = np.asarray(logits, np.float64)
    keep = np.ones((B, A), bool) if mask is None else np.broadcast_to(mask, (B, A))
    log_q = np.zeros((B, A)) if log_inclusion is None else np.broadcast_to(log_inclusion, (B, A))
    out = np.zeros(B)
    for b in range(B):
        own = [p for r, p in zip(ROWS, POSITIONS, strict=True) if r == b and p >= 0]
        if name == "softmax":
            corrected = z[b] - log_q[b]
            if own:
                partition = np.log(np.sum(np.exp(corrected[keep[b]])))
                out[b] = partition - np.mean([corrected[p] for p in own])
        else:
            for a in np.flatnonzero(keep[b]):
                term = np.log1p(np.exp(z[b, a])) - (z[b, a] if a in own else 0.0)
                out[b] += term / np.exp(log_q[b, a])
    return out


def optional(value):
    return None if value is None else jnp.asarray(value)


def make(name, mask, correction):
    return lambda z: LOSSES[name](
        z,
        jnp.asarray(ROWS),
        jnp.asarray(POSITIONS),
        mask=optional(MASKS[mask]),
        log_inclusion=optional(CORRECTIONS[correction]),
    )


def logits(seed=0):
    return np.random.default_rng(seed).normal(0, 2, (B, A)).astype(np.float32)


@pytest.mark.parametrize(
    "mask, correction", [("none", "none"), ("shared", "own"), ("own", "shared"), ("own", "own")]
)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_match_numpy(name, mask, correction):
    z = logits()
    loss = make(name, mask, correction)
    value, pull = jax.vjp(loss, jnp.asarray(z))
    args = (MASKS[mask], CORRECTIONS[correction])
    np.testing.assert_allclose(value, reference(name, z, *args), rtol=2e-5, atol=2e-5)

    weight = np.array([1.0, 2.0, 3.0, -1.0], np.float32)  # not the sum: rows must not mix
    (grad,) = pull(jnp.asarray(weight))
    numeric = np.zeros((B, A))
    for b, a in np.ndindex(B, A):
        step = np.zeros((B, A))
        step[b, a] = 1e-5
        ends = [reference(name, z + sign * step, *args) @ weight for sign in (1, -1)]
        numeric[b, a] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(grad, numeric, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_differences_of_the_loss_itself(name):
    loss = make(name, "own", "own")
    z = jnp.asarray(logits(1))
    direction = jnp.asarray(logits(2))
    total = jax.jit(lambda t: jnp.sum(loss(z + t * direction)))
    slope = jax.grad(total)(jnp.float32(0))
    numeric = (total(jnp.float32(1e-2)) - total(jnp.float32(-1e-2))) / jnp.float32(2e-2)
    np.testing.assert_allclose(slope, numeric, rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("far", [-np.inf, -1e30, 1e30])
def test_masked_places_count_for_nothing_whatever_they_hold(name, far):
    mask = MASKS["own"]
    loss = make(name, "own", "shared")
    z = logits(3)
    hostile = np.where(mask, z, np.float32(far))
    both = jax.jit(lambda z: (loss(z), jax.grad(lambda z: jnp.sum(loss(z)))(z)))
    expected, _ = both(jnp.asarray(z))
    value, grad = both(jnp.asarray(hostile))
    np.testing.assert_array_equal(value, expected)
    assert np.isfinite(grad).all() and not np.asarray(grad)[~mask].any()


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_do_not_overflow(name):
    loss = make(name, "none", "none")
    z = jnp.asarray(logits() * np.float32(1e4))
    value, grad = loss(z), jax.grad(lambda z: jnp.sum(loss(z)))(z)
    assert np.isfinite(value).all() and np.isfinite(grad).all()


def test_an_example_without_labels_costs_nothing_and_has_no_gradient():
    for mask in ("none", "own"):
        loss = make("softmax", mask, "none")
        value, pull = jax.vjp(loss, jnp.asarray(logits()))
        (grad,) = pull(jnp.ones(B))
        assert value[2] == 0 and not np.asarray(grad)[2].any()
    # For the binary loss it is all negatives.
    assert make("binary", "none", "none")(jnp.zeros((B, A)))[2] > 4


@pytest.mark.parametrize("name", LOSSES)
def test_an_example_whose_places_are_all_masked_gives_zero_not_nan(name):
    mask = jnp.zeros((2, 3), bool).at[0].set(True)
    rows, positions = jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32)
    loss = lambda z: jnp.sum(LOSSES[name](z, rows, positions, mask=mask))  # noqa: E731
    value, grad = jax.value_and_grad(loss)(jnp.ones((2, 3)))
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert not np.asarray(grad)[1].any()


def test_a_repeated_label_weighs_double_in_the_softmax_and_once_in_the_binary_loss():
    z = jnp.asarray(logits())
    rows = jnp.zeros(3, jnp.int32)
    softmax = losses.softmax_cross_entropy(z, rows, jnp.array([1, 1, 2], jnp.int32))
    expected = jax.nn.logsumexp(z[0]) - (z[0, 1] + z[0, 1] + z[0, 2]) / jnp.float32(3)
    np.testing.assert_allclose(softmax[0], expected, rtol=1e-5)
    once = losses.binary_cross_entropy(z, rows, jnp.array([1, -1, 2], jnp.int32))
    twice = losses.binary_cross_entropy(z, rows, jnp.array([1, 1, 2], jnp.int32))
    np.testing.assert_array_equal(once, twice)


def test_over_all_rows_both_are_what_optax_gives():
    optax = pytest.importorskip("optax")
    z = jnp.asarray(logits())
    rows, labels = jnp.arange(B, dtype=jnp.int32), jnp.array([5, 0, 2, 2], jnp.int32)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(z, rows, labels),
        optax.softmax_cross_entropy_with_integer_labels(z, labels),
        rtol=1e-5,
    )
    targets = jax.nn.one_hot(labels, A)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(z, rows, labels),
        optax.sigmoid_binary_cross_entropy(z, targets).sum(axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_another_rank_are_refused(name):
    ids = jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=r"logits has shape \(3,\)"):
        LOSSES[name](jnp.zeros(3), ids, ids)
