"""Chooses how a network is stored and learned, so that its training fits into given memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.retrieval import tuner
from sparse_jax.retrieval.index_config import IndexConfig
from sparse_jax.runtime.machine import peak_rss_bytes, rss_bytes
from sparse_jax.xmc import network
from sparse_jax.xmc.negatives import STRATEGIES
from sparse_jax.xmc.network_options import Options, make_optimizer, num_outputs
from sparse_jax.xmc.network_run import NetworkRun

FIELDS = ("dtype", "optimizer", "tables", "bits")  # of `Options`, that may be chosen
STORED = (("float32", "adam"), ("bfloat16", "adam"), ("bfloat16", "row-scale"))
NUM_TABLES = (4, 8, 16, 32, 64)
BUCKETS = (2, 3, 4, 5)  # log2 of the rows in a mean bucket
_LATER = 64_000_000  # bytes of what is imported and compiled to save a run and to test it
_QUERIES = 8  # of the sample that ranks tables and bits
_BEST = 5  # rows of a query that its candidates should hold


class Probe(NamedTuple):
    """What a run takes beside its state, once it is compiled; `probe` finds it."""

    process: int  # bytes of the program, the data, and what is compiled
    temporaries: int  # bytes that the first state, a step or the tables' upkeep takes at most
    peak: int = 0  # the most bytes that the process has held so far


class Prediction(NamedTuple):
    """Bytes of a training run."""

    process: int  # the program, the data, what is compiled
    weights: int
    moments: int  # of the optimizer
    hash_tables: int
    temporaries: int
    before: int = 0  # the most bytes that the process has held so far

    @property
    def total(self) -> int:
        """The most bytes that the process should hold."""
        return max(self.before, sum(self[:-1]))


class _Index(NamedTuple):
    tables: int
    bits: int
    size: int  # bytes


def choose(
    options: Options,
    num_features: int,
    num_labels: int,
    budget: int,
    *,
    given: Collection[str],
    measure: Callable[[Options], Probe],
    process: int = 0,
) -> tuple[Options, Prediction]:
    """The first way to store and learn a network that fits into the budget.

    In this order: float32 with Adam, 12 bytes a weight; bfloat16 with Adam, 10; bfloat16 with one
    scale a row, 2 bytes a weight and 4 a row. An index of the output layer has the tables and bits
    with the best predicted recall for what each of these leaves.

    Args:
      options: of the run.
      num_features: F.
      num_labels: N.
      budget: bytes that the process may hold.
      given: those of FIELDS that stay as they are in `options`.
      measure: what a run of some options takes beside its state, such as `probe`, which compiles
        it; asked only where process and state fit.
      process: bytes that the process holds already.

    Returns:
      The options, with what was chosen; and what they should take.

    Raises:
      ValueError: if nothing fits, with the least that would do.

    Example:
      >>> chosen, prediction = choose(
      ...     Options(hidden=100), 6000, 4000, 11_000_000, given=(),
      ...     measure=lambda options: Probe(process=500_000, temporaries=200_000))
      >>> chosen.dtype, chosen.optimizer, prediction.weights, prediction.moments
      ('bfloat16', 'adam', 2016400, 8032808)
    """
    indexes = _indexes(options, num_labels, given)
    tries: dict[Options, Prediction] = {}

    def attempt(stored: Options, index: _Index) -> Options:
        tried = dataclasses.replace(stored, tables=index.tables, bits=index.bits)
        if tried not in tries:
            found = measure(tried)
            state = _state_bytes(tried, num_features, num_labels)
            tries[tried] = Prediction(
                found.process, *state, index.size, found.temporaries, before=found.peak
            )
        return tried

    temporaries = 0  # of the last try: the next takes about as many, so few are tried
    for stored in _stored(options, given):
        state = sum(_state_bytes(stored, num_features, num_labels))
        left = budget - process - temporaries - state
        while index := next((each for each in indexes if each.size <= left), None):
            tried = attempt(stored, index)
            if tries[tried].total <= budget:
                return tried, tries[tried]
            process, temporaries = tries[tried].process, tries[tried].temporaries
            left = min(budget - process - temporaries - state, index.size - 1)
    tried = attempt(stored, min(indexes, key=lambda index: index.size))
    if tries[tried].total <= budget:
        return tried, tries[tried]
    least = min(tries, key=lambda each: tries[each].total)
    raise ValueError(_too_little(budget, least, tries[least], given))


def probe(run: NetworkRun) -> Probe:
    """What a compiled run that hasn't begun takes beside its state, by XLA's own account.

    Args:
      run: made with `begun=False`.

    Returns:
      A `Probe`.
    """
    compiled: tuple[Any, ...] = (run.start, run.run_step, run.maintain)
    found = [each.memory_analysis() for each in compiled]
    state = found[0].output_size_in_bytes
    used = [
        x.argument_size_in_bytes
        + x.output_size_in_bytes
        + x.temp_size_in_bytes
        - x.alias_size_in_bytes
        for x in found
    ]
    return Probe(rss_bytes() + _LATER, max(used) - state, peak_rss_bytes())


def in_words(options: Options, prediction: Prediction, budget: int) -> str:
    """What was chosen and the bytes it should take, for people.

    Args:
      options: chosen.
      prediction: of these.
      budget: bytes.

    Returns:
      A line.

    Example:
      >>> in_words(Options(), Prediction(400_000_000, 80_000_000, 160_000_000, 0, 0), 2 * 10**9)
      'float32, --optimizer adam: 640 MB of 2.00 GB predicted (process 400 MB, weights 80 MB, \
moments 160 MB)'
    """
    chosen = [options.dtype, f"--optimizer {options.optimizer}"]
    if prediction.hash_tables:
        chosen.append(f"{options.tables} tables of {options.bits} bits")
    parts = ", ".join(
        f"{name.replace('_', ' ')} {shown(size)}"
        for name, size in zip(prediction._fields[:-1], prediction[:-1], strict=True)
        if size
    )
    return f"{', '.join(chosen)}: {shown(prediction.total)} of {shown(budget)} predicted ({parts})"


def shown(size: int) -> str:
    """Bytes for people.

    Args:
      size: bytes.

    Returns:
      A number with its unit.

    Example:
      >>> shown(1_234_567_890), shown(56_000_000), shown(1_500_000)
      ('1.23 GB', '56 MB', '1.5 MB')
    """
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def _stored(options: Options, given: Collection[str]) -> Iterator[Options]:
    """Ways to store the weights and to learn them, the largest first."""
    ways: tuple[tuple[str, str], ...] = STORED
    if "dtype" in given or STRATEGIES[options.strategy].whole_layer:
        ways = tuple((options.dtype, optimizer) for optimizer in ("adam", "row-scale"))
    if "optimizer" in given:
        ways = tuple((dtype, options.optimizer) for dtype, _ in ways)
    for dtype, optimizer in dict.fromkeys(ways):
        yield dataclasses.replace(options, dtype=dtype, optimizer=optimizer)


def _state_bytes(options: Options, num_features: int, num_labels: int) -> tuple[int, int]:
    """Bytes of the weights, and of what the optimizer keeps of them."""

    def weights() -> network.Params:
        return network.init_params(
            jax.random.key(0),
            num_features=num_features,
            num_labels=num_outputs(options, num_labels),
            hidden=options.hidden,
            dtype=jnp.dtype(options.dtype),
        )

    params = jax.eval_shape(weights)
    return _nbytes(params), _nbytes(jax.eval_shape(make_optimizer(options, steps=1).init, params))


def _indexes(options: Options, num_labels: int, given: Collection[str]) -> list[_Index]:
    """Tables and bits that an index may have, the best predicted recall first."""
    if not STRATEGIES[options.strategy].uses_index:
        return [_Index(options.tables, options.bits, 0)]
    pairs = [(options.tables, options.bits)]
    if "tables" not in given or "bits" not in given:
        plans = tuner.plan(
            _random_sample(num_labels, options.hidden),
            batch_size=1,
            memory=2**62,
            active_fraction=min(1.0, (options.candidates + 0.5) / num_labels),
            families=(options.family,),
            num_tables=(options.tables,) if "tables" in given else NUM_TABLES,
            num_bits=(options.bits,) if "bits" in given else _widths(options.family, num_labels),
            fill=(4,),  # as IndexConfig has it by itself
        )
        pairs = [(plan.config.num_tables, plan.config.num_bits) for plan in plans]
    return [
        _Index(tables, bits, _index_bytes(options.family, tables, bits, num_labels, options.hidden))
        for tables, bits in pairs
    ]


def _widths(family: str, num_labels: int) -> list[int]:
    """Bits with which a mean bucket has about 4 to 32 rows."""
    digit = 3 if family in ("wta", "dwta") else 1  # bits that go together
    rows = math.log2(max(2, num_labels))
    most = 20 // digit
    return sorted({min(most, max(1, round((rows - less) / digit))) * digit for less in BUCKETS})


def _index_bytes(family: str, tables: int, bits: int, num_rows: int, dim: int) -> int:
    config = IndexConfig(family=family, num_tables=tables, num_bits=bits)
    return tuner.predict_bytes(num_rows, dim, config=config)


def _random_sample(num_rows: int, dim: int) -> tuner.Sample:
    """Rows and queries as before any training: random, and each query's best rows among so many.

    The component of N random rows along a query is normal, which says where the best of them lie.
    """
    rng = np.random.default_rng(0)
    best = min(_BEST, num_rows)
    queries = rng.standard_normal((_QUERIES, dim), np.float32)
    rows = rng.standard_normal((min(512, num_rows), dim), np.float32)
    near = rng.standard_normal((_QUERIES, best, dim), np.float32)
    units = queries[:, None, :] / np.linalg.norm(queries, axis=1)[:, None, None]
    ranks = [NormalDist().inv_cdf(1 - (rank + 0.5) / num_rows) for rank in range(best)]
    along = np.asarray(ranks, np.float32)[None, :, None]
    near += (along - np.sum(near * units, axis=-1, keepdims=True)) * units
    zeros = np.zeros(dim, np.float32)
    return tuner.Sample(rows, zeros, near, queries, zeros, num_rows)


def _too_little(budget: int, options: Options, needed: Prediction, given: Collection[str]) -> str:
    """What to say where nothing fits."""
    fixed = max(needed.process, needed.before)
    tables = f" and {options.tables} tables of {options.bits} bits" * (needed.hash_tables > 0)
    share = "" if options.buckets else ", or --buckets, by which labels share rows"
    freed = [f"--{name}" for name in FIELDS if name in given]
    let = f", or leave out {', '.join(freed)}" if freed else ""
    cure = f"take a smaller --hidden than {options.hidden}{share}{let}"
    if fixed >= budget:
        cure = "no network is small enough: give more memory, or fewer points"
    return (
        f"--memory {shown(budget)}: must be at least {shown(_rounded_up(needed.total))}, "
        f"what {options.dtype} with --optimizer {options.optimizer}{tables} takes, of which "
        f"program and data are {shown(fixed)}; {cure}"
    )


def _rounded_up(size: int) -> int:
    """A little more, as `shown` shows it exactly: no two processes hold the same."""
    step = 10**7 if size >= 0.98e9 else 10**6 if size >= 0.98e7 else 10**5
    return math.ceil(1.01 * size / step) * step


def _nbytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
