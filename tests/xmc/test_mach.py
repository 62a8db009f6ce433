"""A network whose labels share output rows: trained, kept, asked, and taught new labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import data, xmc
from sparse_jax.data import weighting
from sparse_jax.ops.mach import Buckets, bucket_rows
from sparse_jax.xmc import mach
from sparse_jax.xmc.alone import network_alone
from sparse_jax.xmc.network_options import Options, num_outputs
from sparse_jax.xmc.network_run import NetworkRun
from sparse_jax.xmc.step import Config

pytestmark = pytest.mark.usefixtures("quick_compiles")
LABELS = 200

BITS = """
import numpy as np
from sparse_jax import data
from sparse_jax.runtime.machine import sha256
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

rng = np.random.default_rng(0)
points = data.XmcData(
    np.arange(0, 1201, 4), rng.integers(0, 25, 1200).astype(np.int32) + np.tile(
        np.arange(0, 100, 25, dtype=np.int32), 300), np.ones(1200, np.float32),
    np.arange(301), rng.integers(0, 400, 300).astype(np.int32), num_features=100, num_labels=400)
run = NetworkRun(Options(buckets=32, repetitions=3, hidden=16, epochs=1), points)
run.fit()
print(sha256(run.state.params), run.predict(points, k=3).tolist())
"""


@pytest.mark.slow
@pytest.mark.threads(BITS, counts=(1, 2))
def test_any_number_of_threads_gives_the_same_bits(printed):
    assert printed[1] == printed[2] != ""


def told(labels, *, seed=0, num_labels=LABELS):
    """Points of one label each, told by a feature of its own, among noise."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int32)
    noise = np.stack([rng.permutation(50)[:3] + 300 for _ in labels])
    features = np.concatenate([labels[:, None], noise], axis=1).astype(np.int32)
    return data.XmcData(
        np.arange(0, features.size + 1, 4),
        features.reshape(-1),
        np.full(features.size, 0.5, np.float32),
        np.arange(labels.size + 1),
        labels,
        num_features=350,
        num_labels=num_labels,
    )


def trained(points, **options):
    options = Options(
        **{
            "buckets": 32,
            "repetitions": 3,
            "hidden": 32,
            "epochs": 12,
            "learning_rate": 1e-2,
            **options,
        }
    )
    run = NetworkRun(options, points)
    run.fit()
    return run, network_alone(run, points, weighting.Weighting(None))


@pytest.fixture(scope="module")
def points():
    return told(np.random.default_rng(1).integers(0, LABELS, 3000))


@pytest.fixture(scope="module")
def both(points):
    return trained(points)


def hits(model, points):
    return float(np.mean(xmc.predict(model, points, k=1).labels[:, 0] == points.label_ids))


def test_half_the_rows_tell_all_labels(both, points):
    run, model = both
    assert run.state.params["output"].shape == (96, 32)
    assert num_outputs(run.options, LABELS) == 96
    assert hits(model, points) > 0.9
    assert np.mean(run.predict(points, k=1)[:, 0] == points.label_ids) == hits(model, points)
    assert model.wide.bias.size == model.by_bias.size == 0  # nothing of each label


def test_a_network_is_trained_by_one_call(tmp_path, points):
    """As the command trains it, bit for bit; kept, read and taught more."""
    options = {"hidden": 32, "epochs": 12, "learning_rate": 1e-2}
    model = xmc.fit_network(points, buckets=32, repetitions=3, weighting="none", **options)
    _, same = trained(weighting.apply(weighting.Weighting(None), points))
    np.testing.assert_array_equal(model.output, same.output)
    xmc.save(model, tmp_path)
    again = xmc.load(tmp_path)
    assert again.buckets == model.buckets and hits(again, points) > 0.9
    assert xmc.evaluate(xmc.predict(again, points, k=5), points)["p@1"] > 0.9
    plain = xmc.fit_network(points, hidden=8, epochs=1)
    assert plain.buckets is None and plain.output.shape == (LABELS, 8)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"repetitions": 2}, ValueError, "repetitions = 2: no effect without buckets"),
        ({"buckets": 3}, ValueError, "buckets = 3: must be a power of two"),
        ({"buckets": 4, "repetitions": 0}, ValueError, "repetitions = 0: must be at least 1"),
        ({"hidden": 0}, ValueError, "hidden = 0: must be at least 1"),
        ({"epochs": 1.5}, TypeError, "epochs = 1.5: must be a whole number"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate = nan: must be above 0"),
        ({"weighting": "idf"}, ValueError, "'idf': must be one of"),
        ({"label_names": ["a"]}, ValueError, "label_names has 1 names: must have"),
    ],
)
def test_arguments_of_a_network_that_are_refused(points, given, error, message):
    with pytest.raises(error, match=message):
        xmc.fit_network(points, **given)


def test_scores_are_those_of_summed_rows(both, points):
    _, model = both
    rows = np.asarray(bucket_rows(jnp.arange(LABELS, dtype=jnp.int32), model.buckets))
    output, bias = np.asarray(model.output)[rows].sum(1), np.asarray(model.output_bias)[rows].sum(1)
    hidden = jax.random.normal(jax.random.key(3), (5, 32))
    args = (hidden, model.output, model.output_bias, model.buckets)
    found = mach.best_labels(*args, k=LABELS)  # all buckets are probed
    scores = np.asarray(hidden) @ output.T + bias
    assert np.sort(np.asarray(found.ids)).tolist() == [list(range(LABELS))] * 5
    np.testing.assert_allclose(
        np.take_along_axis(scores, np.asarray(found.ids), 1), found.scores, rtol=1e-4, atol=1e-4
    )
    few = mach.best_labels(*args, k=3, probes=1)
    assert set(np.asarray(few.ids).ravel()) <= set(range(LABELS))


@pytest.mark.parametrize(("labels", "size", "k"), [(20, 1024, 5), (20, 1024, 20), (150, 128, 90)])
def test_as_many_labels_as_are_asked_for(labels, size, k):
    """Buckets that no label has, which nothing was learned of, take no label's place."""
    buckets = Buckets(labels, size, 2, 3)
    rng = np.random.default_rng(0)
    hidden, output = rng.normal(size=(4, 8)), rng.normal(size=(buckets.num_rows, 8))
    bias = rng.normal(size=buckets.num_rows)
    rows = np.asarray(bucket_rows(jnp.arange(labels, dtype=jnp.int32), buckets))
    bias[rows.ravel()] -= 9  # trained ones are as often wrong as not
    found = mach.best_labels(
        *(jnp.asarray(x, jnp.float32) for x in (hidden, output, bias)), buckets, k=k
    )
    ids, scores = np.asarray(found.ids), (hidden @ output.T + bias)[:, rows].sum(-1)
    assert (ids >= 0).all() and all(len(set(row)) == k for row in ids.tolist())
    if labels < 32:  # then all are looked at
        np.testing.assert_array_equal(ids, np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_it_is_kept_in_the_one_format(both, points, tmp_path):
    _, model = both
    xmc.save(model, tmp_path)
    again = xmc.load(tmp_path)
    assert again.buckets == model.buckets == Buckets(LABELS, 32, 3, 0)
    for k in (1, 7):
        for a, b in zip(
            xmc.predict(model, points, k=k), xmc.predict(again, points, k=k), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert xmc.evaluate(xmc.predict(again, points), points)["p@1"] > 0.9


def test_new_labels_are_learned_and_old_ones_stay(both, points):
    _, model = both
    before = hits(model, points)
    new = told(np.repeat(np.arange(LABELS, LABELS + 60), 10), num_labels=LABELS + 60)
    more = xmc.update(model, new)
    assert more.num_labels == more.buckets.num_labels == LABELS + 60
    assert more.output.shape == model.output.shape
    rows = jnp.arange(LABELS, dtype=jnp.int32)
    assert bucket_rows(rows, more.buckets).tolist() == bucket_rows(rows, model.buckets).tolist()
    assert hits(more, new) > 0.9
    assert hits(more, points) > before - 0.02
    twice = xmc.update(model, new)
    np.testing.assert_array_equal(np.asarray(twice.output), np.asarray(more.output))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "lsh"}, "buckets need strategy = 'uniform'"),
        ({"mode": "per_example"}, "mode = 'shared'"),
        ({"loss": "bce"}, "loss = 'softmax'"),
        ({"correction": "logq"}, "correction = 'none'"),
    ],
)
def test_what_does_not_go_with_buckets(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"strategy": "uniform", "buckets": Buckets(5, 4), **options})


def test_narrow_tables_learn(points):
    _, model = trained(points, dtype="bfloat16", optimizer="row-scale")
    assert hits(model, points) > 0.9
    assert model.output.dtype == jnp.bfloat16
