"""Training: equal to the dense network where it must be, in place, reproducible, and it learns."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sparse_jax import data, optim
from sparse_jax.layers import active, losses
from sparse_jax.ops import ffi
from sparse_jax.retrieval import index, schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.xmc import inference, metrics, network, network_options
from sparse_jax.xmc import step as T

pytestmark = pytest.mark.usefixtures("quick_compiles")

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL_INDEX = IndexConfig(
    num_tables=4, num_bits=4, rehash=schedules.fixed(2), rebuild=schedules.fixed(5)
)
POINTS = synthetic.make_data(6 * 8 - 3, num_features=60, num_labels=40, features=8)
BATCHES = synthetic.make_batches(POINTS, 8)


def make(tx: Any, *, seed: int = 0, points: data.XmcData = POINTS, **options: Any) -> Any:
    """(config, state, step): small, jitted with donation."""
    fixed = {"distinct_features": 60, "max_labels": 3, "dropout": 0.0, "index": SMALL_INDEX}
    options = fixed | options
    config = T.Config(**options)
    state = synthetic.start(points, tx, config=config, hidden=8, seed=seed)
    return config, state, jax.jit(T.make_step(tx, config=config), donate_argnums=0)


# The dense network, written down once more without anything of the library's.


def dense_logits(params: network.Params, batch: data.Batch) -> jax.Array:
    real = batch.feature_ids >= 0
    entries = jnp.where(real[:, None], params["embedding"][batch.feature_ids], 0.0)
    bags = jax.ops.segment_sum(
        entries * batch.feature_values[:, None], batch.feature_rows, len(batch.row_mask)
    )
    hidden = jnp.maximum(bags + params["hidden_bias"][None, :], 0.0)
    hidden = hidden / jnp.sqrt(jnp.mean(hidden**2, axis=1, keepdims=True) + 1e-6)
    return hidden @ params["output"].T + params["output_bias"][None, :]


def dense_loss(params: network.Params, batch: data.Batch, *, loss: str) -> jax.Array:
    logits = dense_logits(params, batch)
    many_hot = np.zeros(logits.shape, np.float32)
    for row, label in zip(batch.label_rows, batch.label_ids, strict=True):
        if label >= 0:
            many_hot[row, label] = 1.0
    if loss == "softmax":
        shares = many_hot / np.maximum(many_hot.sum(1, keepdims=True), 1)
        each = -jnp.sum(shares * jax.nn.log_softmax(logits), axis=1)
        each = each * np.sqrt(many_hot.sum(1))
    else:
        each = -jnp.sum(
            many_hot * jax.nn.log_sigmoid(logits) + (1 - many_hot) * jax.nn.log_sigmoid(-logits),
            axis=1,
        )
    return jnp.sum(each * batch.row_mask.astype(np.float32)) / np.float32(batch.row_mask.sum())


def dense_step(tx: Any, params: network.Params, batch: data.Batch, *, loss: str) -> Any:
    loss_of = jax.jit(lambda params: jax.value_and_grad(dense_loss)(params, batch, loss=loss))
    value, grads = loss_of(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = tx.update(grads, tx.init(params), params)
        return value, optax.apply_updates(params, updates), opt_state


@pytest.mark.parametrize(
    ("strategy", "mode", "loss", "correction", "optimizer"),
    [
        ("lsh", "shared", "softmax", "none", "adam"),
        ("lsh", "per_example", "softmax", "logq", "sgd"),
        ("uniform", "shared", "softmax", "logq", "sgd"),
        ("uniform", "shared", "bce", "logq", "adam"),
        ("uniform", "per_example", "bce", "none", "adam"),
        ("oracle", "shared", "softmax", "none", "sgd"),
        ("dense", "shared", "softmax", "none", "adam"),
        ("dense", "shared", "bce", "none", "sgd"),
    ],
)
def test_with_all_rows_active_it_is_the_dense_network(
    strategy: str, mode: str, loss: str, correction: str, optimizer: str
) -> None:
    # Adam divides by the root of the gradient's square: a larger eps keeps rounding in its place.
    tx = optax.sgd(1.0) if optimizer == "sgd" else optax.adam(0.1, eps=1e-4)
    _, state, step = make(
        tx if strategy == "dense" else optim.rowwise(tx),
        strategy=strategy,
        mode=mode,
        loss=loss,
        correction=correction,
        active=40,
    )
    before = jax.tree.map(np.asarray, state.params)
    before = jax.tree.map(np.copy, before)
    batch = BATCHES[-1]  # padded: five points of eight
    assert not batch.row_mask.all()
    value, params, opt_state = dense_step(tx, before, batch, loss=loss)
    state, seen = step(state, batch)
    np.testing.assert_allclose(seen.loss, value, rtol=1e-5)
    assert int(seen.dropped_labels) == int(seen.dropped_features) == 0
    # Under SGD at rate 1 this compares gradients, under Adam both moments as well.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6)
    jax.tree.map(close, state.params, params)
    jax.tree.map(close, state.opt_state, opt_state)
    best = np.asarray(jnp.argsort(-dense_logits(state.params, BATCHES[0]), axis=1))[:, :5]
    np.testing.assert_array_equal(inference.predict_dense(state.params, BATCHES[0], k=5), best)


@pytest.mark.parametrize(
    ("mode", "correction", "loss"),
    [("shared", "lsh", "softmax"), ("shared", "lsh", "bce"), ("per_example", "logq", "softmax")],
)
def test_corrections_run(mode: str, correction: str, loss: str) -> None:
    tx = optim.rowwise(optax.sgd(0.1))
    _, state, step = make(tx, mode=mode, correction=correction, loss=loss, active=24)
    state, seen = step(state, BATCHES[0])
    assert np.isfinite(seen.loss)
    assert all(np.isfinite(x).all() for x in state.params.values())


@pytest.mark.parametrize("mode", T.MODES)
def test_corrected_samples_are_unbiased(mode: str) -> None:
    """The mean over draws of the partition function, and of BCE's sum, is the full one."""
    num_rows, draws = 200, 2000
    logits = jax.random.normal(jax.random.key(1), (1, num_rows))
    labels, rows = jnp.array([7, 30], jnp.int32), jnp.zeros(2, jnp.int32)
    found = jnp.array([[3, 30, 99]], jnp.int32)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        if mode == "shared":
            chosen = active.shared_set(key, labels, found, size=40, num_rows=num_rows)
        else:
            chosen = active.per_example_sets(
                key, labels, rows, found, batch_size=1, max_labels=2, size=40, num_rows=num_rows
            )
        logs = active.log_inclusion(chosen, num_rows=num_rows)
        some = logits[0, chosen.ids].reshape(1, -1)
        arguments = (some, rows, chosen.positions)
        softmax = losses.softmax_cross_entropy(*arguments, mask=chosen.mask, log_inclusion=logs)
        bce = losses.binary_cross_entropy(*arguments, mask=chosen.mask, log_inclusion=logs)
        return jnp.exp(softmax[0] + logits[0, labels].mean()), bce[0]

    partitions, sums = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws))
    full = losses.binary_cross_entropy(logits, rows, labels)[0]
    for samples, true in ((partitions, jnp.exp(logits).sum()), (sums, full)):
        error = abs(float(samples.mean()) - float(true))
        assert error < 3 * float(samples.std()) / draws**0.5
        assert float(samples.std()) / draws**0.5 < 0.01 * float(true)


@pytest.mark.parametrize("strategy", ["lsh", "uniform"])
def test_compiles_once_and_works_in_place(strategy: str) -> None:
    tx = optim.rowwise(optax.adam(1e-2))
    config, state, step = make(tx, strategy=strategy, active=24)
    maintain = jax.jit(T.make_maintain(config=config), donate_argnums=0)

    def places(state: T.TrainState) -> dict[str, int]:
        tables = None if state.index is None else state.index.tables
        kept = {"params": state.params, "slots": state.opt_state, "tables": tables}
        return {
            jax.tree_util.keystr(path): leaf.unsafe_buffer_pointer()
            for path, leaf in jax.tree_util.tree_leaves_with_path(kept)
            if leaf.ndim >= 1
        }

    state, _ = step(state, BATCHES[0])
    state = maintain(state)
    before = places(state)
    for batch in BATCHES[1:4]:  # a re-hash comes along
        state, _ = step(state, batch)
        assert places(state) == before
        state = maintain(state)
        assert places(state) == before
    assert step._cache_size() == 1 and maintain._cache_size() == 1


def test_scan_equals_single_steps() -> None:
    tx = optim.rowwise(optax.adam(1e-2))
    config, state, step = make(tx, active=24)
    _, scanned, _ = make(tx, active=24)
    multi_step = jax.jit(T.make_multi_step(tx, config=config), donate_argnums=0)
    maintain = jax.jit(T.make_maintain(config=config), donate_argnums=0)
    for three in (BATCHES[:3], BATCHES[3:6]):
        each = []
        for batch in three:
            state, seen = step(state, batch)
            each.append(seen)
        state = maintain(state)
        scanned, together = multi_step(scanned, data.stack(three))
        for i, seen in enumerate(each):
            np.testing.assert_allclose(together.loss[i], seen.loss, rtol=1e-6)
    assert int(scanned.index.rebuilds) == 1 and int(scanned.index.rehashed) > 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (scanned.params, scanned.opt_state), (state.params, state.opt_state))
    assert int(scanned.step) == int(state.step) == 6


def test_kernels_off_is_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ffi.AVAILABLE:
        pytest.skip("no C++ kernels to compare with")
    found = []
    for available in (True, False):
        monkeypatch.setattr(ffi, "AVAILABLE", available)
        _, state, step = make(optim.rowwise(optax.sgd(0.5)), active=24)
        for batch in BATCHES[:3]:
            state, seen = step(state, batch)
        found.append((state.params, seen))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *found)


def test_an_empty_batch_changes_nothing() -> None:
    tx = optim.rowwise(optax.sgd(0.5))
    _, state, step = make(tx, active=24)
    before = jax.tree.map(np.array, state.params)
    full = BATCHES[0]
    empty = dataclasses.replace(
        full,
        feature_ids=np.full_like(full.feature_ids, -1),
        feature_values=np.zeros_like(full.feature_values),
        label_ids=np.full_like(full.label_ids, -1),
        label_counts=np.zeros_like(full.label_counts),
        row_mask=np.zeros_like(full.row_mask),
    )
    state, seen = step(state, empty)
    assert float(seen.loss) == 0.0 and float(seen.p_at_1) == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


def test_a_mixed_step_is_that_in_float32_within_a_hundredth() -> None:
    tx = optim.rowwise(optax.sgd(0.1))
    moves, losses = [], []
    for precision in ("float32", "mixed"):
        _, state, step = make(tx, strategy="uniform", active=40, precision=precision)
        before = jax.tree.map(np.array, state.params)
        state, seen = step(state, BATCHES[0])
        moves.append(jax.tree.map(lambda x, y: np.asarray(x) - y, state.params, before))
        losses.append(float(seen.loss))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.01)
    for name, move in moves[0].items():
        apart = np.linalg.norm(moves[1][name] - move)
        assert 0 < apart < 0.01 * np.linalg.norm(move), name


@pytest.mark.parametrize("fast", [False, True])
def test_auto_is_mixed_where_the_processor_and_the_loss_have_it(monkeypatch, fast) -> None:
    monkeypatch.setattr(network_options.bf16, "has_products", lambda: fast)
    for options, mixed in (
        ({"precision": "auto"}, fast),
        ({"precision": "auto", "loss": "bce"}, False),
        ({"precision": "auto", "strategy": "lsh", "correction": "lsh"}, False),
        ({"precision": "mixed"}, True),
        ({}, False),
    ):
        found = network_options.precision_of(network_options.Options(**options))
        assert found == ("mixed" if mixed else "float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "lhs"}, "strategy = 'lhs': must be one of lsh, uniform, ranked, oracle"),
        ({"mode": "both"}, "mode = 'both'"),
        ({"loss": "hinge"}, "loss = 'hinge'"),
        ({"correction": "lsh", "strategy": "uniform"}, "needs strategy = 'lsh'"),
        ({"correction": "lsh", "mode": "per_example"}, "needs mode = 'shared'"),
        ({"precision": "half"}, "precision = 'half': must be one of float32, mixed"),
        ({"precision": "mixed", "loss": "bce"}, "precision = 'mixed' needs mode = 'shared', loss"),
        ({"precision": "mixed", "mode": "per_example"}, "precision = 'mixed' needs"),
        ({"precision": "mixed", "correction": "lsh"}, "precision = 'mixed' needs"),
        ({"active": 0}, "active = 0"),
        ({"dropout": 1.0}, "dropout = 1.0: must be at least 0 and below 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        T.Config(**options)


@pytest.mark.slow
def test_learns_and_predicts_through_the_tables() -> None:
    train, test = (data.read_xmc(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
    idf = data.fit_idf(train)
    train, test = data.apply_tfidf(train, idf), data.apply_tfidf(test, idf)
    size, epochs = 64, 6
    capacity = data.plan_capacity(train, size, seed=0, epochs=epochs)
    config = T.Config(
        active=min(train.num_labels, capacity.distinct_labels + 100),
        distinct_features=capacity.distinct_features,
        index=IndexConfig(num_bits=5, num_tables=32, max_candidates=64),
    )
    tx = optim.rowwise(optax.adam(3e-3))
    state = synthetic.start(train, tx, config=config, hidden=64)
    step = jax.jit(T.make_step(tx, config=config), donate_argnums=0)
    maintain = jax.jit(T.make_maintain(config=config), donate_argnums=0)
    by_epoch = []
    for epoch in range(epochs):
        seen = []
        for batch in data.batches(train, size, seed=0, epoch=epoch, capacity=capacity):
            state, told = step(state, batch)
            state = maintain(state)
            seen.append(told)
            assert int(told.dropped_labels) == int(told.dropped_features) == 0
        by_epoch.append(float(np.mean([m.loss for m in seen])))
    assert by_epoch[-1] < 0.7 * by_epoch[0]

    def score(predicted: np.ndarray) -> float:
        return metrics.evaluate(predicted, test.label_offsets, test.label_ids)["p@1"]

    popular = np.argsort(-np.bincount(train.label_ids, minlength=train.num_labels))[:5]
    baseline = score(np.tile(popular.astype(np.int32), (test.num_points, 1)))
    predict = jax.jit(functools.partial(inference.predict_dense, k=5))
    dense = inference.predict_all(test, lambda batch: predict(state.params, batch), k=5)
    assert score(dense) > 2 * baseline

    rebuilt = index.init(
        jax.random.key(5),
        state.params["output"],
        state.params["output_bias"],
        config=config.index,
    )
    options = {"k": 5, "config": config.index, "max_candidates": config.index.max_candidates}
    through = jax.jit(functools.partial(inference.predict_sparse, **options))
    sparse = inference.predict_all(test, lambda b: through(state.params, rebuilt, b), k=5)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(dense, sparse, strict=True)])
    chance = config.index.max_candidates / train.num_labels
    print("dense", score(dense), "sparse", score(sparse), "recall@5", recall)
    assert recall > 3.5 * chance
    assert score(sparse) > 0.6 * score(dense) > baseline


def _run(mode: str, loss: str, counts: tuple[int, ...]) -> Any:
    program = f"import synthetic; synthetic.train_and_print('lsh', {mode!r}, {loss!r})"
    return pytest.param(counts, marks=pytest.mark.threads(program, counts=counts), id=mode)


@pytest.mark.parametrize(
    "counts", [_run("shared", "softmax", (1, 2)), _run("per_example", "bce", (1, 5))]
)
def test_same_bits_at_any_number_of_threads(
    counts: tuple[int, ...], printed: dict[int, str]
) -> None:
    assert printed[1].startswith("params ")
    assert all(printed[count] == printed[1] for count in counts)
