"""One rule for learning rates: a short warm-up, then a decay to 0 along a line or a cosine.

`scale` is the rule on the host, where the decay may follow the share of the time as well as the
share of the steps; a step takes its result as an argument. `cosine` is a schedule that Optax
evaluates inside the compiled step, by steps alone.
"""

from __future__ import annotations

import math
from typing import Literal

import optax

__all__ = ["Shape", "cosine", "default_warmup", "scale"]

Shape = Literal["linear", "cosine"]


def default_warmup(steps: int) -> int:
    """A tenth of the steps, from 1 to 100.

    Example:
      >>> default_warmup(5), default_warmup(300), default_warmup(9000)
      (1, 30, 100)
    """
    return min(100, max(1, steps // 10))


def scale(
    step: int,
    *,
    steps: int,
    warmup: int | None = None,
    seconds: float = 0.0,
    max_seconds: float | None = None,
    shape: Shape = "linear",
) -> float:
    """What the peak learning rates are multiplied by, from 0 to 1.

    min(1, (step + 1) / warmup) · decay(share), where share is that of the steps done or, if it is
    larger, that of the time spent; decay is 1 − share, or (1 + cos(π · share)) / 2.

    Args:
      step: steps done.
      steps: of the whole training.
      warmup: steps to the peak; None: `default_warmup`.
      seconds: spent so far.
      max_seconds: that the decay ends after, at the latest; None: by steps alone.
      shape: of the decay.

    Raises:
      ValueError: if steps, warmup or max_seconds is not positive, or shape is unknown.

    Example:
      >>> [round(scale(step, steps=100, warmup=2), 3) for step in (0, 1, 50, 100)]
      [0.5, 0.99, 0.5, 0.0]
      >>> scale(0, steps=100, warmup=1, seconds=9.0, max_seconds=10.0, shape="linear")
      0.09999999999999998
    """
    warmup = default_warmup(steps) if warmup is None else warmup
    for name, value in (("steps", steps), ("warmup", warmup)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    done = step / steps
    if max_seconds is not None:
        if not max_seconds > 0:
            raise ValueError(f"max_seconds = {max_seconds}: must be above 0, or None")
        done = max(done, min(1.0, seconds / max_seconds))
    if shape == "linear":
        decay = max(0.0, 1.0 - done)
    elif shape == "cosine":
        decay = (1.0 + math.cos(math.pi * min(done, 1.0))) / 2
    else:
        raise ValueError(f"shape = {shape!r}: must be 'linear' or 'cosine'")
    return min(1.0, (step + 1) / warmup) * decay


def cosine(learning_rate: float, *, steps: int, warmup: int | None = None) -> optax.Schedule:
    """A schedule for Optax: up along a line from 0, then down along a cosine to 0 at `steps`.

    Args:
      learning_rate: at the peak.
      steps: of the whole training.
      warmup: steps to the peak, the first of them at a rate of 0; None: `default_warmup`, or 0
        where there is a single step, which takes the peak.

    Raises:
      ValueError: if steps is not positive, or the peak would come after the last step.

    Example:
      >>> schedule = cosine(1.0, steps=100, warmup=10)
      >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.5, 1.0, 0.5, 0.0]

    References:
      Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1")
    if warmup is None:
        warmup = default_warmup(steps) if steps > 1 else 0
    if not 0 <= warmup < steps:
        raise ValueError(
            f"warmup = {warmup}: must be from 0 to {steps - 1}, below steps = {steps}; "
            "leave it out to let the steps decide"
        )
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)
