"""What rowwise refuses: transformations whose rows depend on each other, and wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparse_jax.optim import rowwise
from sparse_jax.rows import RowSparse

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D = 6, 3
LABELS = {"table": "rows", "bias": "dense"}
REFUSED = {
    "adafactor": optax.adafactor(0.1),
    "lamb": optax.lamb(0.1),
    "lars": optax.lars(0.1),
    "trust_ratio": optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
    "sm3": optax.sm3(0.1),
    "novograd": optax.novograd(0.1),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2),
    "apply_every": optax.apply_every(2),
    "lbfgs": optax.lbfgs(0.1),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(0.1)),
    "adaptive_grad_clip": optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
    "prodigy": optax.contrib.prodigy(),
    "muon": optax.contrib.muon(0.1),
    "nested": optax.masked(optax.chain(optax.clip(1.0), optax.lamb(0.1)), True),
    "partition": optax.partition({"rows": optax.adam(0.1), "dense": optax.lamb(0.1)}, LABELS),
}


def make_params():
    return {"table": jnp.ones((N, D)), "bias": jnp.ones(D)}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_dependent_rows(name):
    with pytest.raises(ValueError, match="rowwise cannot run this transformation") as error:
        rowwise(REFUSED[name]).init(make_params())
    assert "optax.partition" in str(error.value)


def test_refuses_transformations_it_never_heard_of():
    zeros_like = lambda p: jax.tree.map(jnp.zeros_like, p)  # noqa: E731

    def flat_init(params):
        return jnp.concatenate([p.reshape(-1) for p in jax.tree.leaves(params)] or [jnp.zeros(0)])

    def flat_update(grads, state, params=None):
        return grads, state + jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(grads)])

    def mean_update(grads, state, params=None):
        new = jax.tree.map(lambda s, g: s + g - jnp.mean(s), state, grads)
        return grads, new

    def needs_update(grads, state, params=None, *, temperature):
        return grads, state

    for init, update, why in (
        (flat_init, flat_update, "on row slices it raises"),
        (zeros_like, mean_update, "slots of a row depend"),
        (lambda p: optax.EmptyState(), needs_update, "default values"),
    ):
        with pytest.raises(ValueError, match=why):
            rowwise(optax.GradientTransformationExtraArgs(init, update)).init(make_params())


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="decay must be one of"):
        rowwise(optax.sgd(0.1), decay="lazy")
    with pytest.raises(TypeError, match="GradientTransformation"):
        rowwise(0.1)
    tx = rowwise(optax.sgd(0.1))
    params = make_params()
    state = tx.init(params)
    bias = params["bias"]
    ids = np.asarray([1, 2])
    rows = jnp.ones((2, D))
    for bad in (ids, ids.astype(np.float32), ids.tolist()):
        grads = {"table": RowSparse(bad, rows, num_rows=N), "bias": bias}
        with pytest.raises(TypeError, match=r"grads\['table'\].ids must be"):
            tx.update(grads, state, params)
    ids = ids.astype(np.int32)
    with pytest.raises(ValueError, match="num_rows"):
        tx.update({"table": RowSparse(ids, rows, num_rows=N + 1), "bias": bias}, state, params)
    with pytest.raises(ValueError, match="one row an id"):
        tx.update({"table": RowSparse(ids, rows[:1], num_rows=N), "bias": bias}, state, params)


def test_label_functions_that_cannot_be_traced_say_so():
    def labels(params):
        return {name: "rows" for name in params.keys()}

    tx = rowwise(optax.partition({"rows": optax.adam(0.1)}, labels))
    with pytest.raises(ValueError, match="give them trees"):
        tx.init(make_params())
