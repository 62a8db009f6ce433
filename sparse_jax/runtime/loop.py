"""One training loop: steps over batches, one clock, clean stops, and saves that are worth keeping.

`train` runs a step function over batches until the steps, the time or the batches run out, a
callback asks to stop, or Ctrl-C comes. Nothing here waits for the device at each step: metrics stay
on the device until the next look. Progress goes to callbacks, so a progress bar is the caller's.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.finite import all_finite
from sparse_jax.runtime.interrupt import Interrupt

__all__ = ["Clock", "Divergence", "Look", "LossMetrics", "Outcome", "every", "is_finite", "train"]

Reason = Literal["steps", "batches", "time", "interrupt", "callback"]
When = int | Callable[[int], bool]
"""Every so many steps (0 = never), or a function of the steps done."""


class LossMetrics(NamedTuple):
    """The least that a step reports."""

    loss: jax.Array  # float32 []


class Look(NamedTuple):
    """What is known when the loop has waited for its steps."""

    step: int  # done
    total: int  # to do
    seconds: float  # of training so far
    metrics: dict[str, float]  # means over the steps since the last look
    steps: int  # how many those are
    interval: float  # training seconds they took


class Outcome(NamedTuple):
    """How training ended."""

    state: Any
    reason: Reason


class Divergence(ValueError):
    """The loss or the weights are no longer finite; the last save is from before that."""


def _empty_window() -> dict[str, Any]:
    return {"steps": 0, "seconds": 0.0, "sums": {}}


@dataclasses.dataclass
class Clock:
    """Where training stands. `train` moves it on; all of it goes into a checkpoint as JSON.

    `seconds` leave out looks, validation and saving. `waiting` is an upper bound on the time the
    device had nothing to do because the next batch was not there. `sums` of the metrics are over
    all steps, `window` holds those of the steps since the last look.
    """

    step: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    window: dict[str, Any] = dataclasses.field(default_factory=_empty_window)
    _started: float | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def now(self) -> float:
        """Training seconds including the stretch in progress."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self.seconds + running

    def means(self) -> dict[str, float]:
        """Means of the metrics over all steps."""
        return {name: value / max(self.step, 1) for name, value in self.sums.items()}

    def record(self) -> dict[str, Any]:
        """As JSON, for `Clock(**record)` in a resumed run."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "waiting": self.waiting,
            "sums": dict(self.sums),
            "window": self.window | {"sums": dict(self.window["sums"])},
        }

    def start(self) -> None:
        """Counts from now on."""
        if self._started is None:
            self._started = time.perf_counter()

    def pause(self) -> float:
        """Stops counting; returns the seconds since `start`."""
        before, self.seconds, self._started = self.seconds, self.now, None
        return self.seconds - before


def every(when: When, step: int) -> bool:
    """Whether something is due after so many steps.

    Example:
      >>> every(10, 20), every(10, 25), every(0, 20), every(lambda step: step in (3, 5), 5)
      (True, False, False, True)
    """
    if callable(when):
        return when(step)
    return when > 0 and step % when == 0


def is_finite(tree: Any) -> bool:
    """Whether all floating-point arrays of a tree are free of NaN and infinities.

    Example:
      >>> is_finite({"w": jnp.ones(2), "ids": jnp.arange(2)}), is_finite([jnp.array([jnp.inf])])
      (True, False)
    """
    floats = [
        x
        for x in jax.tree.leaves(tree)
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return all(_is_finite(x) for x in floats)


_all_finite = jax.jit(all_finite)
_SMALL = 1 << 16  # numbers, which the host looks at sooner than a program for their shape compiles


def _is_finite(x: Any) -> bool:
    if x.size <= _SMALL and getattr(x, "is_fully_addressable", True):
        return bool(np.isfinite(np.asarray(x)).all())
    return bool(_all_finite(x))


def train(
    state: Any,
    step: Callable[[Any, Any], tuple[Any, Any]],
    batches: Callable[[int], Iterator[Any]],
    *,
    steps: int,
    clock: Clock | None = None,
    max_seconds: float | None = None,
    interrupt: Interrupt | None = None,
    learning_rate: Callable[[int, float], float] | None = None,
    maintain: Callable[[Any], Any] | None = None,
    maintain_every: When = 1,
    look: Callable[[Look], bool | None] | None = None,
    look_every: When = 50,
    validate: Callable[[Any], bool | None] | None = None,
    validate_every: When = 0,
    save: Callable[[Any], None] | None = None,
    save_every: When = 0,
) -> Outcome:
    """Trains.

    After a step come, where they are due and in this order: maintain, look, validate, save. At the
    end, unless the state has just been saved, it is saved again, whatever the reason for the end.
    What a look sees doesn't depend on the others.

    Args:
      state: what `step` takes; it may be donated.
      step: step(state, batch) → (state, metrics), metrics a NamedTuple of scalars, one of them
        `loss`. Jit it.
      batches: batches(n) → the batches from step n on; what runs out ends the training.
      steps: of the whole training, those of an earlier run that is resumed included.
      clock: where an earlier run stopped; moved on in place. `clock.step` and `clock.now` say
        where training stands, for a learning rate that depends on it.
      max_seconds: of training, those of an earlier run included.
      interrupt: asked before each step, and entered as a context. Without one, Ctrl-C raises
        KeyboardInterrupt as usual.
      learning_rate: learning_rate(step, seconds), for the message of `Divergence`.
      maintain: maintain(state) → state.
      maintain_every: when.
      look: hears how training goes; returns whether to stop.
      look_every: when; also after the last step.
      validate: validate(state) → whether to stop.
      validate_every: when.
      save: save(state). Called with finite weights only.
      save_every: when, besides the end.

    Returns:
      An `Outcome`. Its reason is "steps", "batches", "time", "interrupt" or "callback".

    Raises:
      Divergence: if a loss is NaN or infinite, or a weight at the end or when it was to be saved.
        Nothing is saved then.

    Example:
      >>> def step(w, x):
      ...     return w - 0.5 * (w - x), LossMetrics((w - x) ** 2)
      >>> found = train(jnp.float32(1), step, lambda n: iter([0.0] * (8 - n)), steps=8)
      >>> found.reason, float(found.state)
      ('steps', 0.00390625)
    """
    clock = clock if clock is not None else Clock()
    pending: list[_Pending] = []
    last_saved = clock.step

    def report() -> bool:
        """Looks at the steps since the last look; whether it asks to stop."""
        _settle(pending, clock, steps)
        window, clock.window = clock.window, _empty_window()
        count = window["steps"]
        if look is None or not count:
            return False
        means = {name: value / count for name, value in window["sums"].items()}
        return bool(look(Look(clock.step, steps, clock.seconds, means, count, window["seconds"])))

    def store(state: Any) -> None:
        nonlocal last_saved
        if not is_finite(state):
            raise Divergence(
                f"the weights after step {clock.step} of {steps} hold NaN or infinities: "
                "nothing was saved over the last save; lower the learning rate"
            )
        if save is not None:
            save(state)
        last_saved = clock.step

    reason: Reason = "steps"
    if interrupt is not None:
        interrupt.__enter__()
    try:
        source = batches(clock.step) if clock.step < steps else iter(())
        clock.start()
        while clock.step < steps:
            if interrupt is not None and interrupt.ended:
                reason = "interrupt" if interrupt.asked else "time"
                break
            if max_seconds is not None and clock.now >= max_seconds:
                reason = "time"
                break
            asked = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                reason = "batches"
                break
            if not pending or _is_ready(pending[-1].metrics):
                clock.waiting += time.perf_counter() - asked
            now = None if learning_rate is None else learning_rate(clock.step, clock.now)
            state, metrics = step(state, batch)
            clock.step += 1
            pending.append(_Pending(clock.step, now, metrics))
            if maintain is not None and every(maintain_every, clock.step):
                state = maintain(state)
            looks = every(look_every, clock.step)
            validates = validate is not None and every(validate_every, clock.step)
            saves = save is not None and every(save_every, clock.step)
            if looks or validates or saves:
                _settle(pending, clock, steps)
                stops = looks and report()
                if validates and validate is not None:
                    stops = bool(validate(state)) or stops
                if saves:
                    store(state)
                clock.start()
                if stops:
                    reason = "callback"
                    break
        report()
        if clock.step != last_saved:
            store(state)
    finally:
        clock.pause()
        if interrupt is not None:
            interrupt.__exit__()
    return Outcome(state, reason)


class _Pending(NamedTuple):
    """A step that nobody has waited for."""

    step: int
    learning_rate: float | None
    metrics: Any


def _is_ready(metrics: Any) -> bool:
    return all(x.is_ready() for x in metrics if hasattr(x, "is_ready"))


def _settle(pending: list[_Pending], clock: Clock, total: int) -> None:
    """Waits for steps, stops the clock, and adds up their metrics.

    Step by step: no bit of a sum depends on how often it was waited.
    """
    metrics = [{name: float(x) for name, x in e.metrics._asdict().items()} for e in pending]
    clock.window["seconds"] += clock.pause()
    for entry, values in zip(pending, metrics, strict=True):
        loss = values["loss"]
        if not math.isfinite(loss):
            at = "" if entry.learning_rate is None else f" at learning rate {entry.learning_rate:g}"
            raise Divergence(
                f"the loss of step {entry.step} of {total} is {loss}{at}: nothing was saved since; "
                "lower the learning rate, or go on from the last save with a lower one"
            )
        for name, value in values.items():
            for sums in (clock.sums, clock.window["sums"]):
                sums[name] = sums.get(name, 0.0) + value
    clock.window["steps"] += len(pending)
    pending.clear()
