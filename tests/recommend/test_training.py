"""The encoder against plain references, what is held out, and the mix."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from walks import SMALL, chains

from sparse_jax import data, recommend
from sparse_jax.recommend import encoder, fitting, mixing, presets, training
from sparse_jax.recommend.model import Mix, Shape

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_windows_predict_each_event_once():
    histories = data.of_lists([[f"{n}" for n in range(8)], ["3"], ["1", "2"]])
    rows = training.windows(histories, 3)
    learned = [(int(a), int(b)) for row in rows for a, b in itertools.pairwise(row) if a >= 0]
    assert sorted(learned) == sorted([(n, n + 1) for n in range(7)] + [(1, 2)])
    assert rows[0].tolist() == [4, 5, 6, 7] and rows[2].tolist() == [-1, -1, 0, 1]


def test_the_encoder_sees_nothing_later():
    shape = Shape(width=8, length=4, blocks=2)
    params = encoder.init(jax.random.key(0), 9, shape=shape)
    one = np.array([[-1, 3, 4, 5]], np.int32)
    other = np.array([[-1, 3, 4, 8]], np.int32)
    encode = jax.jit(functools.partial(encoder.encode, shape=shape, dropout=0.0))
    a, b = (np.asarray(encode(params, x)) for x in (one, other))
    assert np.array_equal(a[:, 1:3], b[:, 1:3]) and not np.allclose(a[:, 3], b[:, 3])


def test_the_loss_over_all_items_is_the_plain_softmax():
    shape = Shape(width=8, length=4)
    params = encoder.init(jax.random.key(0), 9, shape=shape)
    params["items"] = params["items"] * np.float32(30)
    rows = np.array([[-1, -1, 3, 4, 5], [1, 2, 0, 7, 8]], np.int32)
    loss = functools.partial(encoder.loss, shape=shape, dropout=0.0, max_targets=8, active_size=9)
    found = jax.jit(loss)(params, rows, jax.random.key(1))
    encode = jax.jit(functools.partial(encoder.encode, shape=shape, dropout=0.0))
    hidden = np.asarray(encode(params, rows[:, :-1]))
    logits = (hidden @ np.asarray(params["items"]).T).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    learned = (rows[:, :-1] >= 0) & (rows[:, 1:] >= 0)
    picked = np.take_along_axis(logs, np.maximum(rows[:, 1:], 0)[..., None], axis=-1)[..., 0]
    assert learned.sum() == 6
    np.testing.assert_allclose(float(found), -picked[learned].mean(), rtol=1e-5)


def test_sampled_losses_are_about_the_whole_one():
    """The correction makes the sum over all items right on average."""
    shape = Shape(width=8, length=4)
    params = encoder.init(jax.random.key(0), 200, shape=shape)
    params["items"] = params["items"] * np.float32(10)
    rows = np.arange(10, dtype=np.int32).reshape(2, 5)
    of = {"shape": shape, "dropout": 0.0, "max_targets": 8}
    keys = jax.random.split(jax.random.key(1), 30)
    some = jax.jit(functools.partial(encoder.loss, active_size=60, **of))
    whole = jax.jit(functools.partial(encoder.loss, active_size=200, **of))
    sampled = [some(params, rows, key) for key in keys]
    full = whole(params, rows, keys[0])
    assert abs(float(np.mean(sampled)) - float(full)) < 0.05


def test_users_who_only_repeat_leave_the_mix_as_it_is():
    rows = [["tea", "egg", "tea"], ["egg", "tea", "egg"]] * 20
    model = recommend.fit(data.of_lists(rows), preset="linear")
    found = recommend.predict(model, [["tea"]], k=1)
    assert model.names(found.items[0]) == ["egg"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(split, whole, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "best", SMALL)
    again = recommend.fit(split.train, preset="best")
    assert np.array_equal(again.output, whole.output) and again.mix == whole.mix
    assert np.array_equal(again.pairs.weights, whole.pairs.weights)


def test_held_out_events_are_of_some_users_and_not_trained_on():
    histories = chains()
    held_out = fitting.hold_out(histories, 0)
    assert len(held_out.targets) == len(histories.items) // 25
    assert len(held_out.train.items) == len(histories.items) - len(held_out.targets)
    user = held_out.contexts.user_names[0]
    row = histories.user_names.index(user)
    assert held_out.contexts.of(0).tolist() == histories.of(row)[:-1].tolist()
    assert held_out.targets[0] == histories.of(row)[-1]


def test_a_few_users_of_long_histories_are_held_out_whole():
    histories = data.of_lists([[f"{n * k % 97}" for n in range(60)] for k in range(1, 31)])
    assert len(fitting.hold_out(histories, 0).targets) == 30


@pytest.mark.parametrize(
    ("each", "steps"), [(1, 75), (20, 1500), (99, 1500), (101, 1515), (9999, 20_000)]
)
def test_few_histories_are_seen_more_often(each, steps):
    assert presets.PRESETS["fast"].num_steps(each) == steps


def test_the_closed_form_is_solved_where_items_are_few(split, monkeypatch):
    small = dataclasses.replace(SMALL, encoders=0)
    monkeypatch.setitem(presets.PRESETS, "fast", small)
    assert recommend.fit(split.train).closed is not None
    monkeypatch.setitem(presets.PRESETS, "fast", dataclasses.replace(small, max_closed=39))
    assert recommend.fit(split.train).closed is None
    assert presets.PRESETS["best"].max_closed > 10_000


def test_two_users_are_enough():
    model = recommend.fit(data.of_lists([["a", "b"], ["a", "b"]]), preset="linear")
    assert model.names(recommend.predict(model, [["a"]], k=1).items[0]) == ["b"]


def test_the_mix_is_the_best_of_those_tried(whole, split):
    chosen = mixing.choose(whole, split)

    def figure(model):
        return recommend.evaluate(model, split.contexts, split.targets, ks=(10,))["ndcg@10"]

    start = mixing.with_mix(whole, Mix(3.0, 0.7, 0.0))
    assert figure(chosen) >= figure(start)


def test_progress_and_interrupt(split, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "best", SMALL)
    stages: list[str] = []

    class Stop:
        ended = asked = True

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    recommend.fit(
        split.train,
        preset="best",
        interrupt=Stop(),
        progress=lambda stage, *_: stages.append(stage),
    )
    assert stages == ["mix"]


BITS = """
import hashlib
from sparse_jax import data, recommend
from sparse_jax.recommend import presets
from sparse_jax.recommend.model import Shape

shape = Shape(width=8, length=6)
presets.PRESETS["fast"] = presets.Preset(1, shape, epochs=2, batch_size=16, active=16)
rows = [[f"i{(7 * n + step * (1 + n % 3)) % 30}" for step in range(3 + n % 9)] for n in range(90)]
model = recommend.fit(data.of_lists(rows))
found = recommend.predict(model, rows, k=5)
arrays = [model.output, model.bias, *model.pairs, *found]
print(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
"""


@pytest.mark.threads(BITS, counts=(1, 2))
def test_threads_make_no_difference(printed):
    assert printed[1] == printed[2] != ""
