"""`xmc train --memory BYTES`: a network that is stored and learned so that its training fits."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable

import jax

from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.machine import rss_bytes
from sparse_jax.xmc import fitting_memory
from sparse_jax.xmc.fitting_memory import FIELDS, Prediction, Probe
from sparse_jax.xmc.negatives import STRATEGIES
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def size_of(text: str) -> int:
    """Bytes as people write them.

    Args:
      text: a number and a unit, or a number of bytes.

    Returns:
      Bytes, at least 1.

    Raises:
      argparse.ArgumentTypeError: if it is anything else.

    Example:
      >>> size_of("8GB"), size_of("1.5 GiB"), size_of("512mb")
      (8000000000, 1610612736, 512000000)
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    units = {name.lower(): size for name, size in _UNITS.items()} | {"": 1}
    size = float(found[1]) * units.get(found[2], 0) if found else 0.0
    if not 1 <= size < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text}: must be bytes, at least 1, such as 8GB (10^9 each), 512MB, or 8GiB (2^30)"
        )
    return int(size)


def nothing_left(options: Options, given: list[str]) -> bool:
    """Whether a budget has nothing to choose.

    Args:
      options: of the network.
      given: the fields that the user gave.
    """
    strategy = STRATEGIES[options.strategy]
    chosen = ["optimizer"] if strategy.whole_layer else ["dtype", "optimizer"]
    if strategy.uses_index:
        chosen += ["tables", "bits"]
    return set(chosen) <= set(given)


def fit_into(
    budget: int,
    options: Options,
    given: list[str],
    make: Callable[[Options], NetworkRun],
    *,
    num_features: int,
    num_labels: int,
    resumed: str | None,
) -> tuple[NetworkRun, Prediction]:
    """A run that should fit into the budget, begun or to be resumed; says what was chosen.

    Args:
      budget: bytes of the process.
      options: of the network.
      given: the fields that the user gave.
      make: a run of some options that hasn't begun.
      num_features: F.
      num_labels: N.
      resumed: a directory of checkpoints; the choice made there stays.

    Returns:
      The run, and what it should take.

    Raises:
      ValueError: if nothing fits.
    """
    saved = checkpoint.read_extra(resumed) if resumed else None
    if saved is not None:
        was = {name: saved["options"][name] for name in FIELDS if name in saved["options"]}
        options = dataclasses.replace(options, **{n: x for n, x in was.items() if n not in given})
        given = list(FIELDS)
    last: list[NetworkRun] = []

    def measure(tried: Options) -> Probe:
        last[:] = [make(tried)]
        return fitting_memory.probe(last[0])

    chosen, prediction = fitting_memory.choose(
        options,
        num_features,
        num_labels,
        budget,
        given=given,
        measure=measure,
        process=rss_bytes(),
    )
    print(f"memory: {fitting_memory.in_words(chosen, prediction, budget)}")
    if saved is None:
        last[0].begin(jax.random.key(chosen.seed))
    return last[0], prediction
