"""Optax's transformations on `RowSparse`: right on the rows touched, or refused, never wrong.

For each, inside `rowwise` and bare. Inside: the update of the dense gradient, at a first step, or a
refusal with the reason. Bare: the dense update too, or an error; never a number in silence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax import optim
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

EQUAL, REFUSED = "equal", "refused"
TABLE = {
    "adabelief": (lambda: optax.adabelief(0.1), EQUAL),
    "adadelta": (lambda: optax.adadelta(0.1), EQUAL),
    "adafactor": (lambda: optax.adafactor(0.1), REFUSED),
    "adagrad": (lambda: optax.adagrad(0.1), EQUAL),
    "adam": (lambda: optax.adam(0.1), EQUAL),
    "adamax": (lambda: optax.adamax(0.1), EQUAL),
    "adamaxw": (lambda: optax.adamaxw(0.1), EQUAL),
    "adamw": (lambda: optax.adamw(0.1), EQUAL),
    "adan": (lambda: optax.adan(0.1), EQUAL),
    "amsgrad": (lambda: optax.amsgrad(0.1), EQUAL),
    "fromage": (lambda: optax.fromage(0.1), REFUSED),
    "lamb": (lambda: optax.lamb(0.1), REFUSED),
    "lars": (lambda: optax.lars(0.1), REFUSED),
    "lion": (lambda: optax.lion(0.1), EQUAL),
    "nadam": (lambda: optax.nadam(0.1), EQUAL),
    "nadamw": (lambda: optax.nadamw(0.1), EQUAL),
    "noisy_sgd": (lambda: optax.noisy_sgd(0.1, key=0), REFUSED),
    "novograd": (lambda: optax.novograd(0.1), REFUSED),
    "optimistic_gradient_descent": (lambda: optax.optimistic_gradient_descent(0.1), EQUAL),
    "optimistic_adam_v2": (lambda: optax.optimistic_adam_v2(0.1), EQUAL),
    "polyak_sgd": (lambda: optax.polyak_sgd(0.1), REFUSED),
    "radam": (lambda: optax.radam(0.1), EQUAL),
    "rmsprop": (lambda: optax.rmsprop(0.1), EQUAL),
    "rmsprop, centered": (lambda: optax.rmsprop(0.1, centered=True), EQUAL),
    "rprop": (lambda: optax.rprop(0.1), EQUAL),
    "sgd": (lambda: optax.sgd(0.1), EQUAL),
    "sgd, momentum": (lambda: optax.sgd(0.1, momentum=0.9), EQUAL),
    "sgd, nesterov": (lambda: optax.sgd(0.1, momentum=0.9, nesterov=True), EQUAL),
    "sign_sgd": (lambda: optax.sign_sgd(0.1), EQUAL),
    "sm3": (lambda: optax.sm3(0.1), REFUSED),
    "yogi": (lambda: optax.yogi(0.1), EQUAL),
    "contrib.ademamix": (lambda: optax.contrib.ademamix(0.1), EQUAL),
    "contrib.muon": (lambda: optax.contrib.muon(0.1), REFUSED),
    "contrib.prodigy": (lambda: optax.contrib.prodigy(0.1), REFUSED),
    "contrib.dadapt_adamw": (lambda: optax.contrib.dadapt_adamw(0.1), REFUSED),
    "contrib.schedule_free_adamw": (lambda: optax.contrib.schedule_free_adamw(0.1), EQUAL),
    "contrib.cocob": (lambda: optax.contrib.cocob(0.1), EQUAL),
    "contrib.dog": (lambda: optax.contrib.dog(0.1), REFUSED),
    "adaptive_grad_clip": (lambda: optax.adaptive_grad_clip(0.1), REFUSED),
    "add_decayed_weights": (lambda: optax.add_decayed_weights(0.1), EQUAL),
    "add_noise": (lambda: optax.add_noise(0.1, 0.5, 0), REFUSED),
    "apply_every": (lambda: optax.apply_every(2), REFUSED),
    "apply_if_finite": (lambda: optax.apply_if_finite(optax.adam(0.1), 3), EQUAL),
    "bias_correction by chain": (
        lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda s: -0.1)),
        EQUAL,
    ),
    "centralize": (lambda: optax.centralize(), EQUAL),
    "clip": (lambda: optax.clip(0.3), EQUAL),
    "clip_by_block_rms": (lambda: optax.clip_by_block_rms(0.1), REFUSED),
    "clip_by_global_norm": (lambda: optax.clip_by_global_norm(0.1), EQUAL),
    "ema": (lambda: optax.ema(0.9), EQUAL),
    "identity": (lambda: optax.identity(), EQUAL),
    "keep_params_nonnegative": (lambda: optax.keep_params_nonnegative(), EQUAL),
    "inject_hyperparams": (lambda: optax.inject_hyperparams(optax.adam)(0.1), EQUAL),
    "masked": (lambda: optax.masked(optax.sgd(0.1), {"table": True, "bias": False}), EQUAL),
    "MultiSteps": (lambda: optax.MultiSteps(optax.adam(0.1), 2), REFUSED),
    "normalize_by_update_norm": (lambda: optax.normalize_by_update_norm(), EQUAL),
    "partition": (
        lambda: optax.partition(
            {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"table": "a", "bias": "b"}
        ),
        EQUAL,
    ),
    "scale": (lambda: optax.scale(0.5), EQUAL),
    "scale_by_adadelta": (lambda: optax.scale_by_adadelta(), EQUAL),
    "scale_by_adan": (lambda: optax.scale_by_adan(), EQUAL),
    "scale_by_adam": (lambda: optax.scale_by_adam(), EQUAL),
    "scale_by_amsgrad": (lambda: optax.scale_by_amsgrad(), EQUAL),
    "scale_by_backtracking_linesearch": (
        lambda: optax.scale_by_backtracking_linesearch(5),
        REFUSED,
    ),
    "scale_by_belief": (lambda: optax.scale_by_belief(), EQUAL),
    "scale_by_distance_over_gradients": (
        lambda: optax.scale_by_distance_over_gradients(),
        REFUSED,
    ),
    "scale_by_learning_rate": (lambda: optax.scale_by_learning_rate(0.1), EQUAL),
    "scale_by_lbfgs": (lambda: optax.scale_by_lbfgs(), REFUSED),
    "scale_by_lion": (lambda: optax.scale_by_lion(), EQUAL),
    "scale_by_novograd": (lambda: optax.scale_by_novograd(), REFUSED),
    "scale_by_optimistic_gradient": (lambda: optax.scale_by_optimistic_gradient(), EQUAL),
    "scale_by_param_block_norm": (lambda: optax.scale_by_param_block_norm(), REFUSED),
    "scale_by_param_block_rms": (lambda: optax.scale_by_param_block_rms(), REFUSED),
    "scale_by_radam": (lambda: optax.scale_by_radam(), EQUAL),
    "scale_by_rms": (lambda: optax.scale_by_rms(), EQUAL),
    "scale_by_rprop": (lambda: optax.scale_by_rprop(0.1), EQUAL),
    "scale_by_rss": (lambda: optax.scale_by_rss(), EQUAL),
    "scale_by_sign": (lambda: optax.scale_by_sign(), EQUAL),
    "scale_by_sm3": (lambda: optax.scale_by_sm3(), REFUSED),
    "scale_by_stddev": (lambda: optax.scale_by_stddev(), EQUAL),
    "scale_by_trust_ratio": (lambda: optax.scale_by_trust_ratio(), REFUSED),
    "scale_by_yogi": (lambda: optax.scale_by_yogi(), EQUAL),
    "set_to_zero": (lambda: optax.set_to_zero(), EQUAL),
    "trace": (lambda: optax.trace(0.9), EQUAL),
    "zero_nans": (lambda: optax.zero_nans(), REFUSED),
}
# What these do is what the optimizers do that are made of them, but for the rate.
PARTS = {
    "scale_by_adadelta": "adadelta",
    "scale_by_adan": "adan",
    "scale_by_adam": "adam",
    "scale_by_amsgrad": "amsgrad",
    "scale_by_belief": "adabelief",
    "scale_by_lion": "lion",
    "scale_by_novograd": "novograd",
    "scale_by_optimistic_gradient": "optimistic_gradient_descent",
    "scale_by_radam": "radam",
    "scale_by_rms": "rmsprop",
    "scale_by_rprop": "rprop",
    "scale_by_rss": "adagrad",
    "scale_by_sign": "sign_sgd",
    "scale_by_sm3": "sm3",
    "scale_by_stddev": "rmsprop, centered",
    "scale_by_yogi": "yogi",
}
# Quick tests hold these against dense ones over several steps in test_rowwise.py.
STEPPED = {"adagrad", "adamw", "apply_if_finite", "clip", "clip_by_global_norm", "partition"}
STEPPED |= {"inject_hyperparams", "sgd", "sgd, momentum"}
SLOW = STEPPED | set(PARTS)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TABLE]
PARAMS = {"table": jnp.asarray(np.linspace(0.5, 2, 12, dtype=np.float32).reshape(6, 2))}
PARAMS["bias"] = jnp.ones(2)
# Row 4 twice: gradients of gathered rows come so, and their sum is the dense one.
ROWS = jnp.asarray([[0.5, -1], [2, 0.25], [-0.75, 1], [9, 9]], jnp.float32)
GRADS = {
    "table": RowSparse(jnp.asarray([4, 1, 4, -1], jnp.int32), ROWS, num_rows=6),
    "bias": jnp.asarray([1.0, -2.0]),
}
DENSE = {"table": GRADS["table"].to_dense(), "bias": GRADS["bias"]}
TOUCHED = [1, 4]


def update(tx: optax.GradientTransformation, grads: dict) -> dict:
    with jax.numpy_dtype_promotion("standard"):
        tx = tx.gradient_transformation() if isinstance(tx, optax.MultiSteps) else tx
        return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


def rows_of(updates: dict) -> np.ndarray:
    table = updates["table"]
    return np.asarray(table.to_dense() if isinstance(table, RowSparse) else table)[TOUCHED]


@pytest.mark.parametrize("name", NAMES)
def test_inside_rowwise(name):
    make, expected = TABLE[name]
    if expected == REFUSED:
        with pytest.raises((ValueError, TypeError)) as caught:
            update(optim.rowwise(make()), GRADS)
        assert len(str(caught.value)) > 40
        return
    ours, dense = update(optim.rowwise(make()), GRADS), update(make(), DENSE)
    np.testing.assert_allclose(rows_of(ours), rows_of(dense), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours["bias"], dense["bias"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_bare_it_is_right_or_refused(name):
    make, _ = TABLE[name]
    try:
        ours = update(make(), GRADS)
    except Exception:  # whatever Optax or JAX says: the point is that it says something
        return
    dense = update(make(), DENSE)
    np.testing.assert_allclose(rows_of(ours), rows_of(dense), rtol=1e-5, atol=1e-7)


def test_there_are_sixty():
    assert len(TABLE) >= 60
    for part, whole in PARTS.items():
        assert TABLE[part][1] == TABLE[whole][1]


OF_TREES = {
    "norm": (optax.tree.norm, optim.tree.global_norm),
    "scale": (lambda t: optax.tree.scale(2.0, t), lambda t: optim.tree.scale(t, 2.0)),
    "add": (lambda t: optax.tree.add(t, t), lambda t: optim.tree.add(t, t)),
    "cast": (lambda t: optax.tree.cast(t, jnp.bfloat16), lambda t: optim.tree.cast(t, "bfloat16")),
    "clip": (
        lambda t: optax.clip_by_global_norm(0.5).update(t, optax.EmptyState())[0],
        lambda t: optim.tree.clip_by_global_norm(t, 0.5),
    ),
    "sum": (optax.tree.sum, None),
    "max": (optax.tree.max, None),
    "vdot": (lambda t: optax.tree.vdot(t, t), None),
    "sub": (lambda t: optax.tree.sub(t, t), None),
    "mul": (lambda t: optax.tree.mul(t, t), None),
}


@pytest.mark.parametrize("name", OF_TREES)
def test_functions_of_trees(name):
    """Optax's refuse a `RowSparse`; ours give what Optax's give for the dense table."""
    optaxs, ours = OF_TREES[name]
    with pytest.raises(Exception) as caught:
        optaxs(GRADS)
    assert isinstance(caught.value, TypeError | NotImplementedError | AssertionError | ValueError)
    if ours is None:
        return
    found, expected = ours(GRADS), optaxs(DENSE)
    if name == "norm":
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        tolerance = {"rtol": 2e-2} if name == "cast" else {"rtol": 1e-6}
        wide = found["table"].map(lambda r: r.astype(jnp.float32)).to_dense()
        np.testing.assert_allclose(wide, expected["table"].astype(jnp.float32), **tolerance)
        np.testing.assert_allclose(
            np.asarray(found["bias"], np.float32), np.asarray(expected["bias"], np.float32)
        )
