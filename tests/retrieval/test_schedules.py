"""When schedules are due, inside and outside `jit`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.retrieval import schedules


def no_drift():
    return jnp.float32(0)


def dues(schedule, steps, drift=no_drift):
    """The steps among `steps` at which the schedule is due, by one scan."""

    def body(state, step):
        due, state = schedule.update(state, step, drift)
        return state, due

    steps = np.asarray(steps, np.int32)
    _, due = jax.jit(lambda state: jax.lax.scan(body, state, jnp.asarray(steps)))(schedule.init())
    return steps[np.asarray(due)].tolist()


def test_fixed_is_due_every_interval():
    assert dues(schedules.fixed(3), range(1, 12)) == [3, 6, 9]
    assert dues(schedules.fixed(1), range(1, 5)) == [1, 2, 3, 4]


def test_a_step_that_was_skipped_over_is_made_up_once():
    # Asked after chunks of 4 steps: late, but neither lost nor repeated.
    assert dues(schedules.fixed(3), range(4, 25, 4)) == [4, 8, 12, 16, 20, 24]
    assert dues(schedules.fixed(6), range(4, 33, 4)) == [8, 16, 24, 32]


def test_exponential_intervals_grow():
    assert dues(schedules.exponential(2, growth=2.0), range(1, 40)) == [2, 6, 14, 30]
    # 10, 10 + 15, 25 + 22 (22.5 cut), 47 + 33 (33.75 cut): the interval itself is kept exact.
    assert dues(schedules.exponential(10, growth=1.5), range(1, 100)) == [10, 25, 47, 80]


def test_exponential_intervals_stay_within_int32():
    schedule = schedules.exponential(2**20, growth=1e9)
    due, state = schedule.update(schedule.init(), jnp.int32(2**20), no_drift)
    assert bool(due) and int(state.next_step) == 2**20 + 2**30
    due, _ = schedule.update(state, jnp.int32(2**30), no_drift)
    assert not bool(due)


def test_never_is_not_due():
    assert dues(schedules.never(), [1, 1000, 2**30, 2**31 - 3]) == []


def test_drifted_is_due_at_checks_that_find_drift():
    schedule = schedules.drifted(0.1, check_every=5)
    assert dues(schedule, range(1, 21), lambda: jnp.float32(0.11)) == [5, 10, 15, 20]
    assert dues(schedule, range(1, 21), lambda: jnp.float32(0.1)) == []  # above, not at
    assert dues(schedule, range(1, 21)) == []


@pytest.mark.parametrize("jitted", [False, True])
def test_drift_is_measured_only_when_checked(jitted):
    measured = []

    def drift():
        jax.debug.callback(lambda: measured.append(1))
        return jnp.float32(1)

    schedule = schedules.drifted(0.1, check_every=4)
    update = lambda state, step: schedule.update(state, step, drift)  # noqa: E731
    update = jax.jit(update) if jitted else update
    state = schedule.init()
    due = []
    for step in range(1, 10):
        now, state = update(state, jnp.int32(step))
        due.append(bool(now))
    jax.effects_barrier()
    assert len(measured) == 2 and np.flatnonzero(due).tolist() == [3, 7]


def test_time_based_schedules_never_measure():
    def drift():
        raise AssertionError("measured")

    for schedule in (schedules.fixed(1), schedules.exponential(1, growth=2.0), schedules.never()):
        schedule.update(schedule.init(), jnp.int32(1), drift)


def test_hamming_counts_bits_wherever_they_stand():
    # The highest and the lowest bit weigh alike: as integers these differ by 128 and by 1.
    a = jnp.zeros((1, 2), jnp.int32)
    for changed in (1, 128):
        b = jnp.array([[changed, 0]], jnp.int32)
        assert float(schedules.hamming(a, b, num_bits=8)) == 1 / 16
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**9, (2, 50, 4)).astype(np.int32)
    expected = np.mean([bin(x).count("1") for x in (a ^ b).ravel()]) / 9
    measured = schedules.hamming(jnp.asarray(a), jnp.asarray(b), num_bits=9)
    np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_hamming_leaves_absent_codes_out():
    a = jnp.array([3, -1, 0, -1], jnp.int32)
    b = jnp.array([0, 5, -1, -1], jnp.int32)
    assert float(schedules.hamming(a, b, num_bits=4)) == 0.5
    nothing = jnp.full(3, -1, jnp.int32)
    assert float(schedules.hamming(nothing, nothing, num_bits=4)) == 0.0


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: schedules.fixed(0), "interval = 0"),
        (lambda: schedules.exponential(-1, growth=2.0), "interval = -1"),
        (lambda: schedules.exponential(5, growth=0.5), "growth = 0.5"),
        (lambda: schedules.drifted(0.1, check_every=0), "check_every = 0"),
        (lambda: schedules.drifted(0.0, check_every=5), "threshold = 0.0"),
        (lambda: schedules.drifted(1.0, check_every=5), "threshold = 1.0"),
    ],
)
def test_errors_name_the_argument_and_its_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()
