"""The training loop: where it stops, what it saves, what it measures."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import threading
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.runtime import loop
from sparse_jax.runtime.interrupt import Interrupt


class Metrics(NamedTuple):
    loss: float
    size: float


def count(state, batch):
    """A step whose state counts steps and whose loss is the batch."""
    return state + 1, Metrics(batch, 2.0)


def numbers(start):
    return itertools.count(start)


def test_looks_average_the_steps_since_the_last_one():
    looks = []
    clock = loop.Clock()
    found = loop.train(
        0, count, numbers, steps=7, look=looks.append, look_every=3, clock=clock, save=None
    )
    assert found == (7, "steps")
    assert [(x.step, x.total, x.steps, x.metrics["loss"]) for x in looks] == [
        (3, 7, 3, 1.0),
        (6, 7, 3, 4.0),
        (7, 7, 1, 6.0),
    ]
    assert clock.sums == {"loss": 21.0, "size": 14.0} and clock.means()["loss"] == 3.0


@pytest.mark.parametrize("save_every", [0, 1, 2, 7])
def test_looks_do_not_depend_on_saves_and_validations(save_every):
    """Losses whose sums depend on the order of additions: no bit differs."""

    def step(state, batch):
        return state + 1, Metrics(0.1 * 3.0**batch, 2.0)

    looks, clocks = [], [loop.Clock(), loop.Clock()]
    hooks = [{}, {"save": lambda s: None, "validate": lambda s: None, "validate_every": 5}]
    for clock, more in zip(clocks, hooks, strict=True):
        seen = []
        train = functools.partial(loop.train, step=step, batches=numbers, steps=13, clock=clock)
        train(0, look=seen.append, look_every=6, save_every=save_every, **more)
        looks.append([(x.step, x.steps, x.metrics) for x in seen])
    assert [count for _, count, _ in looks[0]] == [6, 6, 1]
    assert looks[0] == looks[1] and clocks[0].sums == clocks[1].sums


def test_a_look_spans_a_save_that_a_run_is_resumed_from():
    records, whole, resumed = [], [], []
    clock = loop.Clock()
    hooks = {"save": lambda s: records.append(clock.record()), "save_every": 4, "look_every": 6}
    loop.train(0, count, numbers, steps=9, clock=clock, look=whole.append, **hooks)
    clock = loop.Clock(**json.loads(json.dumps(records[0])))
    loop.train(4, count, numbers, steps=9, clock=clock, look=resumed.append, look_every=6)
    assert [x[:2] + x[3:5] for x in resumed] == [x[:2] + x[3:5] for x in whole]
    assert resumed[0].steps == 6 and resumed[0].interval == resumed[0].seconds


def test_equal_losses_have_that_mean():
    """Not 1.5, the mean with a zero in front."""
    looks = []
    loop.train(0, count, lambda n: iter([2.0] * 3), steps=3, look=looks.append)
    assert looks[-1].metrics["loss"] == 2.0


def test_hooks_come_in_order_and_the_end_is_saved_once():
    calls = []

    def maintain(state):
        calls.append(("maintain", state))
        return state

    loop.train(
        0,
        count,
        numbers,
        steps=5,
        maintain=maintain,
        maintain_every=2,
        look=lambda x: calls.append(("look", x.step)),
        look_every=2,
        validate=lambda state: calls.append(("validate", state)),
        validate_every=lambda step: step == 4,
        save=lambda state: calls.append(("save", state)),
        save_every=4,
    )
    assert calls == [
        ("maintain", 2),
        ("look", 2),
        ("maintain", 4),
        ("look", 4),
        ("validate", 4),
        ("save", 4),
        ("look", 5),
        ("save", 5),
    ]
    saves = []
    loop.train(0, count, numbers, steps=4, save=saves.append, save_every=4)
    assert saves == [4]


def test_a_resumed_run_goes_on_where_it_stopped():
    first = loop.Clock()
    found = loop.train(0, count, lambda n: iter(range(n, 3)), steps=6, clock=first)
    assert found.reason == "batches"
    again = loop.Clock(**first.record())
    assert again == first and again.seconds > 0
    seen = []

    def step(state, batch):
        seen.append(batch)
        return count(state, batch)

    assert loop.train(found.state, step, numbers, steps=6, clock=again) == (6, "steps")
    assert seen == [3, 4, 5] and again.sums["loss"] == 15.0
    assert loop.train(6, step, numbers, steps=6, clock=again) == (6, "steps") and seen == [3, 4, 5]


def test_a_callback_ends_it():
    assert loop.train(0, count, numbers, steps=9, validate=lambda s: s == 4, validate_every=2) == (
        4,
        "callback",
    )
    assert loop.train(0, count, numbers, steps=9, look=lambda x: True, look_every=3) == (
        3,
        "callback",
    )


def test_time_ends_it_and_looks_do_not_count():
    def step(state, batch):
        time.sleep(0.02)
        return count(state, batch)

    def slow(_):
        time.sleep(0.1)

    clock = loop.Clock()
    found = loop.train(
        0,
        step,
        numbers,
        steps=20,
        max_seconds=0.1,
        clock=clock,
        look=slow,
        look_every=1,
        validate=slow,
        validate_every=1,
        save=slow,
        save_every=1,
    )
    assert found.reason == "time" and 2 <= found.state <= 5
    assert 0.1 <= clock.seconds < 0.2


def test_waiting_for_data_is_measured():
    def slow(start):
        for number in range(start, 4):
            time.sleep(0.03)
            yield number

    clock = loop.Clock()
    loop.train(0, count, slow, steps=4, clock=clock)
    assert 0.1 < clock.waiting <= clock.seconds


def test_ctrl_c_ends_after_a_whole_step_and_saves():
    saves = []

    def step(state, batch):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return count(state, batch)

    before = signal.getsignal(signal.SIGINT)
    found = loop.train(0, step, numbers, steps=9, interrupt=Interrupt(), save=saves.append)
    assert found == (3, "interrupt") and saves == [3]
    assert signal.getsignal(signal.SIGINT) is before
    found = loop.train(0, count, numbers, steps=9, interrupt=Interrupt(0.0))
    assert found == (0, "time")


def test_an_interrupt_in_another_thread_leaves_signals_alone():
    found = []

    def run():
        found.append(loop.train(0, count, numbers, steps=3, interrupt=Interrupt()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(3, "steps")]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_divergence_names_step_rate_and_cure_and_keeps_the_last_save(bad):
    saves = []

    def step(state, batch):
        return state + 1, Metrics(bad if batch == 13 else 1.0, 2.0)

    with pytest.raises(
        loop.Divergence, match=r"step 14 of 40 is -?(nan|inf) at learning rate 0\.25: .*lower"
    ):
        loop.train(
            0,
            step,
            numbers,
            steps=40,
            learning_rate=lambda step, seconds: 0.25,
            look_every=7,
            save=saves.append,
            save_every=5,
        )
    assert saves == [5, 10]


@pytest.mark.parametrize("rows", [20, 1000])  # looked at by the host, and by a program
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_number_that_is_not_finite_is_found_without_another_table(dtype, rows):
    table = np.full((rows, 300), jnp.finfo(dtype).max, dtype)
    assert loop.is_finite(
        {"t": jnp.asarray(table), "none": jnp.zeros((0, 3)), "ids": jnp.arange(3)}
    )
    for place, bad in (((0, 0), np.nan), ((rows // 2, 17), -np.inf), ((-1, -1), -np.nan)):
        spoilt = table.copy()
        spoilt[place] = bad
        assert not loop.is_finite({"t": jnp.asarray(spoilt)})
    assert loop._all_finite.lower(table).compile().memory_analysis().temp_size_in_bytes < 1000


def test_weights_that_are_not_finite_are_not_saved():
    """The loss of the last step was taken before the weights went wrong."""
    saves = []

    def step(state, batch):
        return (jnp.float32(jnp.nan) if batch == 9 else state + 1), Metrics(1.0, 2.0)

    with pytest.raises(loop.Divergence, match="after step 10 of 10"):
        loop.train(jnp.float32(0), step, numbers, steps=10, save=saves.append, save_every=5)
    assert saves == [5.0]
