"""A classifier that is kept: fitted, asked, saved, loaded, and right where data are odd."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quickly
from small_points import points_of

from sparse_jax import data, xmc
from sparse_jax.ops import ffi
from sparse_jax.runtime import saved
from sparse_jax.xmc import inference, label_tree, metrics, mixing, wide
from sparse_jax.xmc.model import network_parts, over_all

pytestmark = pytest.mark.usefixtures("quick_compiles")

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def tiny():
    return [data.read_xmc(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test")]


@pytest.fixture(scope="module")
def model(tiny):
    names = [f"label {i}" for i in range(tiny[0].num_labels)]
    return xmc.fit(tiny[0], label_names=names)


def with_network(model, width=8, count=2):
    """The same beside random networks."""
    keys = jax.random.split(jax.random.key(0), count)
    networks = tuple(
        {
            "embedding": jax.random.normal(key, (model.num_features, width)),
            "hidden_bias": jnp.zeros(width),
            "output": jax.random.normal(key, (model.num_labels, width)),
            "output_bias": jnp.zeros(model.num_labels),
        }
        for key in keys
    )
    encoders, output, output_bias = network_parts(networks)
    return dataclasses.replace(model, encoders=encoders, output=output, output_bias=output_bias)


# ------------------------------------------------------------------------------------- prediction


def test_predicts_better_than_the_most_frequent_label(model, tiny):
    found = xmc.evaluate(xmc.predict(model, tiny[1], k=5), tiny[1])
    assert found["p@1"] > 0.45  # the most frequent label alone has .06
    assert found["ece"] < 0.06


@pytest.mark.parametrize("networks", [False, True])
def test_the_kernel_finds_what_the_dense_formula_does(model, tiny, networks, monkeypatch):
    if networks:
        model = with_network(model)
    some = inference.prepare(model, tiny[1].take(slice(0, 64)))
    batch = inference.padded_batch(some, np.arange(64), 64)
    if not ffi.AVAILABLE:
        pytest.skip("no C++ kernels")
    kernel = jax.jit(lambda m, b: inference.best_labels(m, b, k=7))(model, batch)
    monkeypatch.setattr(ffi, "AVAILABLE", False)
    dense = jax.jit(lambda m, b: inference.best_labels(m, b, k=7))(model, batch)
    np.testing.assert_allclose(kernel.scores, dense.scores, rtol=2e-5, atol=2e-5)
    assert np.mean(np.asarray(kernel.ids) == np.asarray(dense.ids)) > 0.99


def test_any_k_is_a_prefix_of_a_larger_one(model, tiny):
    some = tiny[1].take(slice(0, 30))
    whole = xmc.predict(model, some, k=model.num_labels + 3)
    assert whole.labels.shape == (30, model.num_labels + 3)
    assert (whole.labels[:, model.num_labels :] == -1).all()
    assert (whole.scores[:, model.num_labels :] == 0).all()
    assert (np.sort(whole.labels[:, : model.num_labels]) == np.arange(model.num_labels)).all()
    for k in (1, 2, 5, 100):
        part = xmc.predict(model, some, k=k)
        np.testing.assert_array_equal(part.labels, whole.labels[:, :k])
        np.testing.assert_array_equal(part.scores, whole.scores[:, :k])


def test_scores_are_chances_that_fall(model, tiny):
    scores = xmc.predict(model, tiny[1], k=20).scores
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores, axis=1) <= 1e-6).all()


def test_one_point_is_scored_as_in_any_batch(model, tiny):
    whole = xmc.predict(model, tiny[1], k=5)
    for row in (0, 17, 499):
        one = xmc.predict(model, tiny[1].take([row]), k=5)
        np.testing.assert_array_equal(one.labels[0], whole.labels[row])
        np.testing.assert_array_equal(one.scores[0], whole.scores[row])


def test_makes_no_array_of_all_labels(model, tiny):
    model = with_network(model)
    some = inference.prepare(model, tiny[1].take(slice(0, 64)))
    batch = inference.padded_batch(some, np.arange(64), 64)
    compiled = jax.jit(inference.predict_batch, static_argnames="k").lower(model, batch, k=5)
    shapes = {f"[64,{n}]" for n in (model.num_labels,)} | {f"64,{model.num_labels}]"}
    text = compiled.compile().as_text()
    found = [shape for shape in shapes if shape in text]
    assert bool(found) != ffi.AVAILABLE, found  # the fallback does, which shows the test can fail


def test_unknown_features_are_left_out(model, tiny):
    some = tiny[1].take(slice(0, 20))
    wider = data.with_sizes(some, num_features=some.num_features + 50)
    np.testing.assert_array_equal(xmc.predict(model, wider).scores, xmc.predict(model, some).scores)


def test_works_in_jit_grad_free_and_tree_map(model, tiny):
    copied = jax.tree.map(lambda x: x, model)
    assert copied.about == model.about and hash(copied.about) == hash(model.about)
    assert jax.tree.structure(copied) == jax.tree.structure(model)
    leaves = jax.tree.leaves(model)
    assert leaves and all(isinstance(x, jax.Array) for x in leaves)


@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(model, tiny, k):
    with pytest.raises(ValueError, match=f"k = {k}: must be at least 1"):
        xmc.predict(model, tiny[1], k=k)


# -------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize("networks", [False, True])
def test_loaded_predicts_bit_for_bit(model, tiny, tmp_path, networks):
    model = with_network(model) if networks else model
    xmc.save(model, tmp_path / "m")
    loaded = xmc.load(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, model, loaded)
    for a, b in zip(xmc.predict(model, tiny[1]), xmc.predict(loaded, tiny[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.about == model.about and loaded.about.label_names[3] == "label 3"


@pytest.mark.slow
def test_another_process_predicts_bit_for_bit(model, tiny, tmp_path):
    xmc.save(model, tmp_path / "m")
    code = (
        "import sys, numpy as np\n"
        "from sparse_jax import data, xmc\n"
        "found = xmc.predict(xmc.load('m'), data.read_xmc(sys.argv[1]), k=5)\n"
        "np.savez('found.npz', **found._asdict())\n"
    )
    command = [sys.executable, "-c", code, str(FIXTURES / "xmc_tiny_test.txt")]
    environment = os.environ | quickly.environment()
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120, env=environment)
    found, here = np.load(tmp_path / "found.npz"), xmc.predict(model, tiny[1], k=5)
    np.testing.assert_array_equal(found["labels"], here.labels)
    np.testing.assert_array_equal(found["scores"], here.scores)


def test_a_failed_save_leaves_the_model_before(model, tmp_path, monkeypatch):
    xmc.save(model, tmp_path / "m")
    before = sorted(p.name for p in (tmp_path / "m").iterdir())

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved, "write_atomically", full)
    other = dataclasses.replace(model, mix=mixing.start())
    with pytest.raises(OSError, match="No space"):
        xmc.save(other, tmp_path / "m")
    monkeypatch.undo()
    assert set(before) <= {p.name for p in (tmp_path / "m").iterdir()}
    jax.tree.map(np.testing.assert_array_equal, xmc.load(tmp_path / "m"), model)


def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"has no model\.json"):
        xmc.load(tmp_path)
    xmc.save(model, tmp_path / "m")
    manifest = tmp_path / "m" / "model.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(about | {"kind": "lm"}))
    with pytest.raises(ValueError, match="kind 'lm': must be 'xmc'"):
        xmc.load(tmp_path / "m")
    manifest.write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        xmc.load(tmp_path / "m")
    for text in (json.dumps(about).replace("seed", "qeed"), json.dumps(about | {"config": {}})):
        manifest.write_text(text)
        with pytest.raises(ValueError, match=r"model\.json doesn't fit its arrays"):
            xmc.load(tmp_path / "m")
    manifest.write_text(json.dumps(about))
    arrays = tmp_path / "m" / about["file"]
    arrays.write_bytes(arrays.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        xmc.load(tmp_path / "m")


# ------------------------------------------------------------------------------------ odd data


def test_points_without_labels_are_negatives():
    """Feature 0 brings label 1 in one of ten points; without the nine it seems a sure sign."""
    rows = [({1}, {0: 1})] * 100 + [(set(), {0: 1})] * 900
    rows += [({2}, {1: 1})] * 500 + [({3}, {1: 1})] * 500
    rows += [({0}, {2: 1})] * 200 + [({4}, {4: 1})] * 200 + [({5}, {5: 1})] * 200
    test = [({2}, {0: 1, 1: 1})] * 20 + [({3}, {0: 1, 1: 1})] * 20 + [({1}, {0: 1, 1: 1})] * 4
    train, test = points_of(rows, 6, 6), points_of(test, 6, 6)
    for seed in range(2):
        found = xmc.predict(xmc.fit(train, seed=seed), test, k=1)
        assert metrics.precision_at_k(found.labels, test.label_offsets, test.label_ids, 1) >= 0.45
    # Each part by itself: the chance of label 1 is the one in ten.
    batch = next(data.batches(train.take(slice(8)), 8))
    tree = np.asarray(label_tree.scores(label_tree.fit(train), batch))
    assert tree[0, 1] < 0.5


def test_labels_without_a_point_come_last():
    rows = [({i % 3}, {i % 3: 1}) for i in range(90)]
    train = points_of(rows, 4, 8)
    found = xmc.predict(
        xmc.fit(train), points_of([({0}, {3: 1}), ({0}, {}), ({1}, {1: 1})], 4, 8), k=8
    )
    assert (np.sort(found.labels[:, :3]) == [0, 1, 2]).all()
    assert found.labels[2, 0] == 1


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_many_labels_a_point_train_every_preset(preset):
    rng = np.random.default_rng(0)
    rows = [
        (
            set(rng.choice(3000, 40, replace=False).tolist()),
            {int(f): 1 for f in rng.choice(50, 5, replace=False)},
        )
        for _ in range(80)
    ]
    train = points_of(rows, 50, 3000)
    assert xmc.predict(xmc.fit(train, preset=preset), train, k=5).labels.shape == (80, 5)


@pytest.mark.slow
def test_labels_that_are_few_of_a_long_list_cost_what_they_cost_alone():
    """Ids of a catalogue, most of them in no point: parts are trained over those in some alone."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(12, 3, replace=False).tolist() for _ in range(200)]
    alone = points_of([({own[0] % 4}, dict.fromkeys(own, 1)) for own in drawn], 12, 4)
    listed = np.array([7, 900, 901, 29_999])
    ids = listed[alone.label_ids].astype(np.int32)
    among = dataclasses.replace(alone, label_ids=ids, num_labels=30_000)
    small, large = (xmc.fit(points, preset="accurate") for points in (alone, among))
    assert [t.weights.size for t in large.trees] == [t.weights.size for t in small.trees]
    assert large.output.shape[0] == (30_000 if large.encoders else 0)
    found = xmc.predict(large, among, k=4)
    assert (np.sort(found.labels, axis=1) == listed).all()
    best = xmc.predict(small, alone, k=4)
    assert (found.labels[:, 0] == listed[best.labels[:, 0]]).mean() > 0.98


def test_networks_of_some_labels_leave_the_others_last():
    some = {
        "embedding": jnp.ones((4, 2)),
        "hidden_bias": jnp.zeros(2),
        "output": jnp.ones((2, 2)),
        "output_bias": jnp.array([-15.0, -16.0]),
    }
    _, output, bias = over_all(network_parts((some,)), np.array([1, 3]), 5)
    assert output.shape == (5, 2) and bias[1] == -15 and bias[3] == -16
    assert wide.is_unseen(np.asarray(bias)).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_few_labels(labels):
    train = points_of([({i % labels}, {i % labels: 1}) for i in range(60)], labels, labels)
    model = xmc.fit(train)
    predicted = xmc.predict(model, train, k=5)
    assert (np.sort(predicted.labels[:, :labels]) == np.arange(labels)).all()
    assert (predicted.labels[:, labels:] == -1).all() and (predicted.scores[:, labels:] == 0).all()
    found = xmc.evaluate(predicted, train)
    assert found["p@1"] == 1.0
    assert [k for k in found if k.startswith("p@")] == [f"p@{k}" for k in (1, 3) if k <= labels]


def test_one_point():
    one = points_of([({0}, {0: 1})], 1, 1)
    assert xmc.predict(xmc.fit(one), one, k=1).labels.tolist() == [[0]]


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_few_points_are_all_learned_from(count, preset):
    """None is held out: a label with one point would lose it."""
    train = points_of([({i}, {i: 1}) for i in range(count)], count, count)
    found = xmc.predict(xmc.fit(train, preset=preset), train, k=1)
    assert found.labels[:, 0].tolist() == list(range(count))


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "points is empty"), ([(set(), {0: 1})] * 5, "none of the 5 points has a label")],
)
def test_nothing_to_learn_from(rows, message):
    with pytest.raises(ValueError, match=message):
        xmc.fit(points_of(rows, 2, 2))


def test_no_points_or_labels_to_evaluate_on(model):
    none = points_of([], model.num_features, model.num_labels)
    with pytest.raises(ValueError, match="points is empty"):
        xmc.evaluate(xmc.predict(model, none), none)
    bare = points_of([(set(), {0: 1})], model.num_features, model.num_labels)
    with pytest.raises(ValueError, match="none of the 1 points has a label"):
        xmc.evaluate(xmc.predict(model, bare), bare)


def test_signed_features_train():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    label = (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)
    rows = [({int(own)}, dict(enumerate(row.tolist()))) for own, row in zip(label, x, strict=True)]
    train = points_of(rows, 6, 4)
    found = xmc.evaluate(xmc.predict(xmc.fit(train), train, k=1), train)
    assert found["p@1"] > 0.9
    # Whole numbers, most of them absent: nothing but the sign tells them from counts.
    rows = [({i % 16}, {i % 8: 2 if i % 16 < 8 else -2}) for i in range(320)]
    train = points_of(rows, 8, 16)
    assert data.weighting.choose(train).name == "none"
    found = xmc.evaluate(xmc.predict(xmc.fit(train), train, k=1), train)
    assert found["p@1"] > 0.9


@pytest.fixture(scope="module")
def weighted(tiny):
    """(training points, test points, the best labels of these) by TF-IDF rows of some points."""
    some = tiny[0].take(slice(0, 600))
    idf = data.weighting.fit(some, "tfidf")
    train, test = (data.weighting.apply(idf, points) for points in (some, tiny[1]))
    return train, test, xmc.predict(xmc.fit(train, weighting="none"), test, k=1).labels


@pytest.mark.parametrize("scale", [100.0, 10.0, 0.1])
def test_the_scale_of_weighted_rows_changes_nothing(weighted, scale):
    """Weights below a threshold are cut: rows × 100 would lose all of them."""
    train, test, plain = weighted
    scaled = [
        dataclasses.replace(p, feature_values=p.feature_values * np.float32(scale))
        for p in (train, test)
    ]
    other = xmc.predict(xmc.fit(scaled[0], weighting="none"), scaled[1], k=1).labels
    assert np.mean(plain == other) > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "slow"}, "preset = 'slow': must be one of fast, accurate"),
        ({"seed": -1}, "seed = -1"),
        ({"label_names": ["a"]}, "label_names has 1 names: must have 2"),
        ({"feature_names": ["a"]}, "feature_names has 1 names: must have 2"),
        ({"label_names": [1, 2]}, r"label_names\[0\] = 1: must be a text; give str of each"),
        ({"feature_names": ["a", None]}, r"feature_names\[1\] = None: must be a text"),
        ({"weighting": "log"}, "'log': must be one of"),
    ],
)
def test_bad_arguments(arguments, message):
    train = points_of([({i % 2}, {i % 2: 1}) for i in range(20)], 2, 2)
    with pytest.raises(ValueError, match=message):
        xmc.fit(train, **arguments)


def test_orbax_keeps_a_model(model, tmp_path):
    from sparse_jax.runtime import checkpoint

    checkpoint.save(tmp_path / "c", model, step=1, extra={})
    found = checkpoint.restore(tmp_path / "c", model)
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found[0], model)
