"""Faults that public bug reports of other tools led to, in the classifier and the engine.

| row | kind | test |
|---|---|---|
| 8 | updated with other names | test_an_update_whose_ids_have_other_names_is_refused |
| 8a | resumed on other data | test_resuming_on_renumbered_labels_is_refused |
| 9 | files of one model apart | test_one_process_…, test_a_model_of_another_kind_… |
| 12 | divergence goes unnoticed | test_divergence_stops_with_a_cure_and_keeps_the_last_save |
| 17 | labels never trained rank first | test_labels_without_a_point_come_last_in_every_part |
| 18 | a threshold on weights | test_rows_times_a_hundred_give_the_same_model_but_for_scale |
| 19 | jax_enable_x64 | test_an_index_lives_under_x64 |
| 20 | nothing to train on, or to test on | tests/commands/test_xmc.py, tests/xmc/test_model.py |
| 33 | few labels, negative or ready features | tests/xmc/test_model.py |
| 40 | bfloat16 accumulated in bfloat16 | test_bags_of_narrow_rows_are_summed_in_float32 |
| 43 | differentiable in the fallback only | test_exact_topk_has_the_same_gradient_on_both_paths |
"""

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
from in_process import call

from sparse_jax import data, xmc
from sparse_jax.commands import main as program
from sparse_jax.retrieval import topk
from sparse_jax.rows import embedding_bag
from sparse_jax.runtime import checkpoint, saved
from sparse_jax.runtime.lock import locked
from sparse_jax.xmc import label_tree, metrics, wide

pytestmark = pytest.mark.usefixtures("quick_compiles")

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
SMALL = ["--hidden", "8", "--active", "6", "--batch-size", "8", "--lr", "0.03"]


def labelled(path: Path, label) -> str:
    """60 points of 20 features, each with one of six labels."""
    lines = [f"{label(i % 6)} {i % 6}:1 {6 + i % 7}:1" for i in range(60)]
    path.write_text("60 20 6\n" + "\n".join(lines) + "\n")
    return str(path)


def test_resuming_on_renumbered_labels_is_refused(tmp_path, capsys):
    one = labelled(tmp_path / "a.txt", lambda x: x)
    other = labelled(tmp_path / "b.txt", lambda x: 5 - x)
    options = [*SMALL, "--epochs", "2", "--checkpoint", str(tmp_path / "c")]
    assert call(program, capsys, "xmc", "train", one, one, *options)[0] == 0
    status, _, err = call(program, capsys, "xmc", "train", other, other, *options, "--resume")
    assert status == 2 and "with other data" in err
    status, out, _ = call(program, capsys, "xmc", "train", one, one, *options, "--resume")
    assert status == 0 and "resumed at step 16 of 16" in out


def test_an_update_whose_ids_have_other_names_is_refused():
    points = data.read_xmc(TRAIN)
    names = [f"l{i}" for i in range(points.num_labels)]
    model = xmc.fit(points, label_names=names)
    more = data.with_sizes(points.take(slice(20)), num_labels=points.num_labels + 1)
    with pytest.raises(ValueError, match=r"label_names\[0\] = 'l1': must be 'l0'.*numbered as the"):
        xmc.update(model, more, label_names=[*names[1:], names[0], "new"])
    unnamed = xmc.update(model, more)  # its last label is called "label 500" until it has a name
    for grown in (xmc.update(model, more, label_names=[*names, "new"]), unnamed):
        grown = xmc.update(grown, more, label_names=[*names, "new"])
        assert grown.about.label_names == (*names, "new")


def test_divergence_stops_with_a_cure_and_keeps_the_last_save(tmp_path, capsys):
    place = str(tmp_path / "c")
    options = ["--hidden", "16", "--active", "200", "--batch-size", "64", "--epochs", "1"]
    files = ["xmc", "train", TRAIN, TEST]
    assert call(program, capsys, *files, *options, "--checkpoint", place)[0] == 0
    before = sorted(p.name for p in Path(place).iterdir())
    out = tmp_path / "r.json"
    status, _, err = call(
        program, capsys, *files, *options, "--lr", "1e30", "--checkpoint", place, "--json", str(out)
    )
    assert status == 2 and "learning rate" in err and "the loss of step" in err
    assert not out.exists() and sorted(p.name for p in Path(place).iterdir()) == before


@pytest.fixture(scope="module")
def weighted():
    train, test = data.read_xmc(TRAIN), data.read_xmc(TEST)
    chosen = data.weighting.fit(train, "tfidf")
    return data.weighting.apply(chosen, train), data.weighting.apply(chosen, test)


def test_labels_without_a_point_come_last_in_every_part(weighted):
    train, test = weighted
    train = data.with_sizes(train, num_labels=520)
    seen = np.bincount(train.label_ids, minlength=520) > 0
    assert not seen[500:].any()
    model = wide.fit(train, wide.zeros(train), epochs=3)
    batch = next(data.batches(data.with_sizes(test, num_labels=520), 64))
    scores = np.asarray(wide.scores(model, batch))
    assert scores[:, ~seen].max() < scores[:, seen].min()


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_labels_without_a_point_come_last_in_the_whole(preset):
    """Also those that an update makes room for."""
    train, test = (data.with_sizes(data.read_xmc(x), num_labels=520) for x in (TRAIN, TEST))
    unseen = np.setdiff1d(np.arange(520), train.label_ids)
    model = xmc.fit(train, preset=preset)
    # A few more have had no point to train on: their only one was held out.
    first = xmc.predict(model, test, k=520).labels[:, : 515 - unseen.size]
    assert unseen.size >= 20 and not np.isin(first, unseen).any()
    more = data.with_sizes(train.take(slice(20)), num_labels=523)
    more = dataclasses.replace(more, label_ids=np.append(more.label_ids[:-1], np.int32(520)))
    unseen = np.append(unseen, [521, 522])
    first = xmc.predict(xmc.update(model, more), test, k=523).labels[:, : 518 - unseen.size]
    assert 520 in first and not np.isin(first, unseen).any()


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_rows_times_a_hundred_give_the_same_model_but_for_scale(weighted, factor):
    train, test = weighted

    def times(points):
        return dataclasses.replace(
            points, feature_values=points.feature_values * np.float32(factor)
        )

    def precision(score, points):
        found = []
        capacity = data.plan_capacity(points, 64, seed=None, epochs=1)
        for batch in data.batches(points, 64, capacity=capacity):
            found.append(np.asarray(jax.lax.top_k(score(batch), 1)[1]))
        found = np.concatenate(found)[: points.num_points]
        return metrics.precision_at_k(found, points.label_offsets, points.label_ids, 1)

    plain, scaled = label_tree.fit(train), label_tree.fit(times(train))
    assert abs(plain.weights.size - scaled.weights.size) < 0.02 * plain.weights.size
    a = precision(lambda b: label_tree.scores(plain, b), test)
    b = precision(lambda b: label_tree.scores(scaled, b), times(test))
    assert a > 0.4 and abs(a - b) < 0.01
    one = wide.fit(train, wide.zeros(train), epochs=2)
    other = wide.fit(times(train), wide.zeros(train), epochs=2)
    a = precision(lambda b: wide.scores(one, b), test)
    b = precision(lambda b: wide.scores(other, b), times(test))
    assert a > 0.4 and abs(a - b) < 0.01


def test_a_model_of_long_rows_goes_on_where_it_stopped(weighted):
    train = dataclasses.replace(
        weighted[0], feature_values=weighted[0].feature_values * np.float32(100)
    )
    kept: list[wide.WideModel] = []
    whole = wide.fit(
        train,
        wide.zeros(train),
        epochs=2,
        on_epoch=lambda model, done: kept.append(jax.tree.map(jnp.copy, model)),
    )
    again = wide.fit(train, kept[0], epochs=2, first_epoch=1)
    np.testing.assert_allclose(again.weights, whole.weights, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(kept[1].weights, whole.weights)


def test_rows_of_a_length_each_give_the_same_model():
    """A scale for all rows doesn't mend what each has of its own: a row is of unit length first."""
    rng = np.random.default_rng(0)
    points = [
        data.weighting.apply(data.weighting.fit(data.read_xmc(TRAIN), "tfidf"), part)
        for part in (data.read_xmc(TRAIN), data.read_xmc(TEST))
    ]

    def stretched(part):
        factors = 10.0 ** rng.uniform(-2, 2, part.num_points).astype(np.float32)
        values = part.feature_values * np.repeat(factors, np.diff(part.feature_offsets))
        return dataclasses.replace(part, feature_values=values.astype(np.float32))

    plain = xmc.predict(xmc.fit(points[0], weighting="none"), points[1], k=1).labels
    model = xmc.fit(stretched(points[0]), weighting="none")
    other = xmc.predict(model, stretched(points[1]), k=1).labels
    assert np.mean(plain == other) > 0.98


X64 = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
import optax
from sparse_jax import data, optim, xmc
from sparse_jax.retrieval import hashing, index
weights = jax.random.normal(jax.random.key(0), (1000, 16), jnp.float32)
for family in hashing.FAMILIES:
    if family == "minhash":
        continue
    config = index.IndexConfig(family=family, num_tables=4, num_bits=6)
    def live(key, weights):
        lsh = index.init(key, weights, config=config)
        lsh = index.mark(lsh, jnp.arange(10, dtype=jnp.int32))
        lsh = index.maintain(lsh, jnp.int32(100), weights, config=config)
        return index.candidates(lsh, weights[:4], config=config)
    assert jax.jit(live)(jax.random.key(1), weights).ids.dtype == jnp.int32
points = data.XmcData(
    np.arange(61), np.tile(np.arange(2, dtype=np.int32), 30), np.ones(60, np.float32),
    np.arange(61), np.tile(np.arange(2, dtype=np.int32), 30), num_features=2, num_labels=2)
for preset in ("fast", "accurate"):
    assert (xmc.predict(xmc.fit(points, preset=preset), points, k=1).labels[:2, 0] == [0, 1]).all()
print("fine")
"""


@pytest.mark.slow
def test_an_index_lives_under_x64():
    environment = os.environ | quickly.environment()
    done = subprocess.run(
        [sys.executable, "-c", X64], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_bags_of_narrow_rows_are_summed_in_float32():
    ones = jnp.ones((1, 1), jnp.bfloat16)
    zeros = jnp.zeros(1000, jnp.int32)
    total = embedding_bag(ones, zeros, zeros, num_segments=1)
    assert total.dtype == jnp.bfloat16 and float(total[0, 0]) == 1000
    many = jnp.zeros(3000, jnp.int32)  # float16 stops at 2048
    total = embedding_bag(jnp.ones((1, 1), jnp.float16), many, many, num_segments=1)
    assert total.dtype == jnp.float16 and float(total[0, 0]) == 3000
    rows = jnp.array([[1.0], [2.0]], jnp.bfloat16)
    which = jnp.asarray(np.repeat([0, 1], [900, 100]), jnp.int32)
    mean = embedding_bag(rows, which, zeros, num_segments=1, combiner="mean")
    assert mean.dtype == jnp.bfloat16 and abs(float(mean[0, 0]) - 1.1) < 0.005
    weights = jnp.full(1000, 1.001, jnp.float32)  # bfloat16 makes 1 of it
    weighted_total = embedding_bag(ones, zeros, zeros, weights, num_segments=1)
    assert abs(float(weighted_total[0, 0]) - 1001) <= 2

    def loss(rows):
        bag = embedding_bag(rows, zeros, zeros, num_segments=1)
        return jnp.sum(bag.astype(jnp.float32))

    grad = jax.grad(loss)(ones)
    assert grad.dtype == jnp.bfloat16 and float(grad[0, 0]) == 1000


def test_exact_topk_has_the_same_gradient_on_both_paths(kernels):
    keys = jax.random.split(jax.random.key(0), 4)
    queries = jax.random.normal(keys[0], (6, 5))
    weights, bias = jax.random.normal(keys[1], (30, 5)), jax.random.normal(keys[2], (30,))
    some = jnp.tile(jnp.arange(0, 20, 2, dtype=jnp.int32), (6, 1)).at[0, 3].set(-1)

    def dense(q, w, b, allowed):
        scores = q @ w.T + b[None, :]
        scores = jnp.where(allowed, scores, -jnp.inf)
        return jnp.sum(jnp.sin(jnp.sort(scores, axis=1)[:, -4:]))

    everything = jnp.ones((6, 30), bool)
    chosen = jnp.zeros((6, 30), bool).at[jnp.arange(6)[:, None], some].set(some >= 0)
    ours = [
        lambda q, w, b: topk.rows(q, w, b, k=4).scores,
        lambda q, w, b: topk.among(q, w, b, some, k=4).scores,
    ]
    operands = (queries, weights, bias)
    for found, allowed in zip(ours, (everything, chosen), strict=True):
        grads = jax.grad(lambda *x, f=found: jnp.sum(jnp.sin(f(*x))), argnums=(0, 1, 2))
        plain = jax.grad(lambda *x, a=allowed: dense(*x, a), argnums=(0, 1, 2))
        for a, b in zip(grads(*operands), plain(*operands), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_results_are_json_that_every_parser_takes(tmp_path):
    from sparse_jax.runtime.files import write_json

    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "r.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "r.json", {"loss": 1.5})
    assert json.loads((tmp_path / "r.json").read_text()) == {"loss": 1.5}


def test_checkpoints_of_other_programs_are_named(tmp_path, capsys):
    """A folder that another program saved into is refused with a message, not a traceback."""
    checkpoint.save(tmp_path / "c" / "wide", {"w": jnp.ones(3)}, step=1, extra={"other": 1})
    status, _, err = call(
        program, capsys, "xmc", "train", TRAIN, "--checkpoint", str(tmp_path / "c"), "--resume"
    )
    assert status == 2 and "doesn't fit" in err


def test_one_process_writes_to_a_classifier(tmp_path, capsys):
    """Row 9: two trainings, or a training and an update, that end in one directory."""
    points = labelled(tmp_path / "a.txt", lambda x: x)
    model, other = str(tmp_path / "m"), str(tmp_path / "n")
    train = ["xmc", "train", points, "--model"]
    assert call(program, capsys, *train, model)[0] == 0
    before = {path: path.read_bytes() for path in Path(model).iterdir()}
    with locked(model):
        for options in (
            [*train, model],
            ["xmc", "train", points, *SMALL, "--checkpoint", model],
            ["xmc", "update", model, points],
            ["xmc", "update", model, points, "--output", model],
        ):
            status, _, err = call(program, capsys, *options)
            assert status == 2 and f"{model} is in use by process {os.getpid()}" in err
        assert call(program, capsys, "xmc", "update", model, points, "--output", other)[0] == 0
        assert call(program, capsys, "xmc", "predict", model, points)[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    assert call(program, capsys, "xmc", "update", model, points)[0] == 0


def test_a_model_of_another_kind_is_not_written_over(tmp_path, capsys):
    points = labelled(tmp_path / "a.txt", lambda x: x)
    model, other = str(tmp_path / "m"), str(tmp_path / "n")
    saved.save(other, kind="lm", config={}, arrays={"w": np.ones(3)})
    assert call(program, capsys, "xmc", "train", points, "--model", model)[0] == 0
    for options in (
        ["train", points, "--model", other],
        ["update", model, points, "--output", other],
    ):
        status, _, err = call(program, capsys, "xmc", *options)
        assert status == 2 and "holds a model of kind 'lm', which would be lost" in err
    assert saved.load(other, kind="lm").arrays["w"].tolist() == [1, 1, 1]
    for name in ("--model", "--checkpoint"):
        more = SMALL if name == "--checkpoint" else []
        status, _, err = call(program, capsys, "xmc", "train", points, *more, name, points)
        assert status == 2 and "a.txt is a file: must be a directory; name another" in err
