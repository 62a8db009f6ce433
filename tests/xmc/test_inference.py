"""Prediction: exact, through the tables and through learned lists, on one small network."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
import synthetic

from sparse_jax import data
from sparse_jax.retrieval import index
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.xmc import inference, network

pytestmark = pytest.mark.usefixtures("quick_compiles")

POINTS = synthetic.make_data(100, num_features=60, num_labels=300, features=8)
CAPACITY = data.plan_capacity(POINTS, 32, seed=None, epochs=1)
BATCHES = list(data.batches(POINTS, 32, capacity=CAPACITY))


@functools.cache
def small_network() -> tuple[network.Params, np.ndarray]:
    """Parameters, and the exact logits of all points."""
    params = network.init_params(jax.random.key(0), num_features=60, num_labels=300, hidden=16)
    params["output_bias"] = 0.1 * jax.random.normal(jax.random.key(1), (300,))
    bags = np.zeros((100, 16), np.float32)
    rows = np.repeat(np.arange(100), np.diff(POINTS.feature_offsets))
    entries = np.asarray(params["embedding"])[POINTS.feature_ids] * POINTS.feature_values[:, None]
    np.add.at(bags, rows, entries)
    hidden = np.maximum(bags + np.asarray(params["hidden_bias"]), 0)
    hidden /= np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-6)
    return params, hidden @ np.asarray(params["output"]).T + np.asarray(params["output_bias"])


def predict(function, **options):
    params, logits = small_network()
    run = jax.jit(lambda batch: function(params, batch=batch, **options))
    return inference.predict_all(POINTS, run, k=options["k"], batch_size=32), logits


def assert_best(found: np.ndarray, logits: np.ndarray) -> None:
    """The logits of what was found are the largest ones: ids may differ where they tie."""
    got = np.take_along_axis(logits, found, axis=1)
    want = -np.sort(-logits, axis=1)[:, : found.shape[1]]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_dense_finds_the_largest_logits(kernels):
    assert_best(*predict(inference.predict_dense, k=4))


def test_sparse_ranks_candidates_by_exact_logits(kernels):
    params, logits = small_network()
    config = IndexConfig(num_tables=4, num_bits=3, capacity=300)
    lsh = index.init(jax.random.key(2), params["output"], config=config)
    found, _ = predict(
        functools.partial(inference.predict_sparse, index=lsh, config=config),
        k=5,
        max_candidates=40,
    )
    for at, batch in enumerate(BATCHES):
        hidden = network.hidden_layer(
            params["embedding"], params["hidden_bias"], batch.feature_ids, batch
        )
        forty = dataclasses.replace(config, max_candidates=40)
        allowed = np.asarray(index.candidates(lsh, hidden, config=forty).ids)
        for row, ids in enumerate(found[at * 32 : (at + 1) * 32]):
            few = allowed[row][allowed[row] >= 0]
            want = few[np.argsort(-logits[at * 32 + row][few], kind="stable")][:5]
            np.testing.assert_allclose(
                logits[at * 32 + row][ids], logits[at * 32 + row][want], rtol=1e-4, atol=1e-5
            )


def test_quantized_rescoring_all_rows_is_exact_and_rescoring_some_is_near(kernels):
    params, logits = small_network()
    coded = inference.quantize(jax.random.key(3), params, BATCHES)
    quantized = functools.partial(inference.predict_quantized, index=coded)
    everything, _ = predict(quantized, k=4, rescored=300)
    assert_best(everything, logits)
    some, _ = predict(quantized, k=4, rescored=20)
    best = np.argsort(-logits, axis=1)[:, :4]
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(best, some, strict=True)])
    assert recall > 0.7  # a fifteenth of the rows at random: .07


def test_quantize_wants_points():
    params, _ = small_network()
    with pytest.raises(ValueError, match="batches is empty"):
        inference.quantize(jax.random.key(3), params, [])


def test_sparse_refuses_more_than_it_ranks():
    with pytest.raises(ValueError, match="k = 257: must be at most max_candidates = 256"):
        inference.predict_sparse(
            {},
            None,
            BATCHES[0],
            k=257,
            config=IndexConfig(),  # type: ignore[arg-type]
        )
