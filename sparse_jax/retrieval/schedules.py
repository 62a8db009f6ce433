"""When to re-hash changed rows and when to rebuild the tables with new functions.

A schedule is a pair of pure functions over a small state, so that it runs inside `jit` and is saved
with everything else: ``state = init()`` and ``due, state = update(state, step, drift)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Schedule",
    "ScheduleState",
    "drifted",
    "exponential",
    "fixed",
    "hamming",
    "never",
]


class ScheduleState(NamedTuple):
    """When the next event or check is due; `init` of a schedule, such as `fixed`, makes one."""

    next_step: jax.Array  # int32 []
    interval: jax.Array  # float32 []


class Schedule(NamedTuple):
    """A pair of pure functions; `fixed`, `exponential`, `drifted` and `never` make one.

    `update(state, step, drift)` gives (due bool [], new state), and calls `drift()` if it needs to.
    """

    init: Callable[[], ScheduleState]
    update: Callable[
        [ScheduleState, jax.Array, Callable[[], jax.Array]], tuple[jax.Array, ScheduleState]
    ]


def fixed(interval: int) -> Schedule:
    """Every `interval` steps.

    Args:
      interval: steps.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: if interval is below 1.

    Example:
      >>> schedule = fixed(3)
      >>> state, dues = schedule.init(), []
      >>> for step in range(1, 8):
      ...     due, state = schedule.update(state, jnp.int32(step), lambda: jnp.float32(0))
      ...     dues.append(bool(due))
      >>> dues
      [False, False, True, False, False, True, False]
    """
    return exponential(interval, growth=1.0)


def exponential(interval: int, *, growth: float) -> Schedule:
    """After `interval` steps, then after an interval `growth` times longer each time.

    As SLIDE does: weights move less as training goes on (Chen et al. 2020, section 4.2).

    Args:
      interval: steps to the first event.
      growth: what each interval is multiplied by for the next, at least 1.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: if interval or growth is below 1.

    Example:
      >>> schedule = exponential(2, growth=2.0)
      >>> state, dues = schedule.init(), []
      >>> for step in range(1, 16):
      ...     due, state = schedule.update(state, jnp.int32(step), lambda: jnp.float32(0))
      ...     dues += [step] if due else []
      >>> dues
      [2, 6, 14]
    """
    _check("interval", interval)
    if growth < 1:
        raise ValueError(f"growth = {growth}: must be at least 1; 1 keeps the interval")

    def init() -> ScheduleState:
        return ScheduleState(jnp.int32(interval), jnp.float32(interval))

    def update(
        state: ScheduleState, step: jax.Array, drift: Callable[[], jax.Array]
    ) -> tuple[jax.Array, ScheduleState]:
        del drift
        due = step >= state.next_step
        longer = jnp.minimum(state.interval * jnp.float32(growth), jnp.float32(2**30))
        later = ScheduleState(step + longer.astype(jnp.int32), longer)
        return due, _select(due, later, state)

    return Schedule(init, update)


def drifted(threshold: float, *, check_every: int) -> Schedule:
    """When the codes have drifted: checked every `check_every` steps.

    Drift is the mean Hamming distance, as a fraction of the bits, between the codes the tables hold
    and those the rows have now; `hamming` measures it. (MONGOOSE, Chen et al. 2021, section 3.1;
    comparing codes as integers, as its code does, would weigh the bits by their place.)

    Args:
      threshold: fraction of the bits, in (0, 1), beyond which codes count as drifted.
      check_every: steps between measurements.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: if threshold is not in (0, 1) or check_every is below 1.

    Example:
      >>> schedule = drifted(0.1, check_every=5)
      >>> state = schedule.init()
      >>> bool(schedule.update(state, jnp.int32(5), lambda: jnp.float32(0.2))[0])
      True
      >>> bool(schedule.update(state, jnp.int32(5), lambda: jnp.float32(0.05))[0])
      False
    """
    _check("check_every", check_every)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold = {threshold}: must be a fraction of the bits, in (0, 1)")

    def init() -> ScheduleState:
        return ScheduleState(jnp.int32(check_every), jnp.float32(check_every))

    def update(
        state: ScheduleState, step: jax.Array, drift: Callable[[], jax.Array]
    ) -> tuple[jax.Array, ScheduleState]:
        check = step >= state.next_step
        measured = jax.lax.cond(check, drift, lambda: jnp.float32(0))
        later = state._replace(next_step=step + jnp.int32(check_every))
        return check & (measured > jnp.float32(threshold)), _select(check, later, state)

    return Schedule(init, update)


def never() -> Schedule:
    """Not once: for strategies without tables, and to leave the functions as drawn.

    Returns:
      A `Schedule`.

    Example:
      >>> schedule = never()
      >>> bool(schedule.update(schedule.init(), jnp.int32(10**9), lambda: jnp.float32(1))[0])
      False
    """
    return fixed(2**31 - 2)


def hamming(codes: jax.Array, others: jax.Array, *, num_bits: int) -> jax.Array:
    """Mean Hamming distance of codes as a fraction of their bits, float32 [].

    Args:
      codes: int32 [...]; a pair with an absent code (−1) doesn't count.
      others: int32 [...], of the same shape.
      num_bits: bits of a code.

    Returns:
      float32 [], from 0 to 1.

    Example:
      >>> float(hamming(jnp.array([0b1100], jnp.int32), jnp.array([0b1001], jnp.int32), num_bits=4))
      0.5
    """
    present = (codes >= 0) & (others >= 0)
    bits = jax.lax.population_count(codes ^ others)
    # Small integers, exact in any order.
    total = jnp.sum(jnp.where(present, bits, 0)).astype(jnp.float32)
    pairs = jnp.sum(present.astype(jnp.int32)).astype(jnp.float32)
    return total / (jnp.maximum(pairs, jnp.float32(1)) * jnp.float32(num_bits))


def _check(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{name} = {steps}: must be at least 1 step")


def _select(due: jax.Array, a: ScheduleState, b: ScheduleState) -> ScheduleState:
    return jax.tree.map(lambda x, y: jnp.where(due, x, y), a, b)
