"""What one network is and how it learns: its options, and what they become for some points."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import optax

from sparse_jax import data
from sparse_jax.ops import bf16
from sparse_jax.ops.mach import Buckets
from sparse_jax.optim import fused, rates, row_scale
from sparse_jax.retrieval import schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.xmc import step as training
from sparse_jax.xmc.negatives import STRATEGIES

NEGATIVES = 256  # places of an active set beyond those that a batch's own labels may need
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": fused.adam,
    "row-scale": row_scale,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a network is and how it learns. The defaults serve `train_xmc.py` and the presets."""

    strategy: str = "uniform"  # one of `negatives.STRATEGIES`
    mode: training.Mode = "shared"  # one active set for a batch, or "per_example"
    active: int | None = None  # its size; None: what the labels need and NEGATIVES more
    hidden: int = 128
    loss: training.Loss = "softmax"  # or "bce"
    correction: training.Correction = "none"  # for the chance of being sampled: or "logq", "lsh"
    family: str = "simhash"
    transform: str = "centred"  # of the keys
    tables: int = 16
    bits: int = 8  # of a bucket id
    candidates: int = 3  # ranked ones taken from the tables for each example
    rehash: int = 50  # steps until changed rows are hashed again at first; grows by a fifth
    dtype: str = "float32"  # of the tables of features and labels: or "bfloat16"
    precision: str = "float32"  # of the output layer's products: "mixed", or "auto"
    buckets: int | None = None  # of each repetition, to which labels are hashed; None: a row each
    repetitions: int = 4  # where there are buckets: a label's row is the sum of so many
    epochs: int = 5
    batch_size: int = 128
    optimizer: str = "adam"  # one of OPTIMIZERS
    learning_rate: float = 3e-3  # its peak; decays to 0
    seed: int = 0


FORMER = {"optimizer": "adam", "precision": "float32", "buckets": None, "repetitions": 4}
"""What runs have that were saved before it could be chosen."""


def precision_of(options: Options) -> str:
    """The precision: "auto" is "mixed" where processor and loss have it."""
    if options.precision != "auto":
        return options.precision
    plain = training.Config(loss=options.loss, mode=options.mode, correction=options.correction)
    return "mixed" if bf16.has_products() and plain.in_one_piece else "float32"


def buckets_of(options: Options, num_labels: int) -> Buckets | None:
    """How so many labels are hashed; None where each has a row.

    Raises:
      ValueError: if buckets or repetitions are out of range.
    """
    if options.buckets is None:
        return None
    return Buckets(num_labels, options.buckets, options.repetitions, options.seed % 2**32)


def num_outputs(options: Options, num_labels: int) -> int:
    """Rows of the output layer of so many labels."""
    buckets = buckets_of(options, num_labels)
    return num_labels if buckets is None else buckets.num_rows


def peak_rate(options: Options) -> float:
    """The largest learning rate: where a label has R rows, which all take a step, an R-th."""
    return options.learning_rate / (options.repetitions if options.buckets else 1)


def make_optimizer(options: Options, *, steps: int) -> optax.GradientTransformation:
    """The optimizer of so many steps, its rate decaying to 0.

    Raises:
      ValueError: if there is none of that name.
    """
    if options.optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer = {options.optimizer!r}: must be one of {known}")
    rate = rates.cosine(peak_rate(options), steps=max(steps, 1))
    if options.optimizer == "adam" and STRATEGIES[options.strategy].whole_layer:
        return optax.adam(rate)
    return OPTIMIZERS[options.optimizer](rate)


def make_config(options: Options, points: data.XmcData, capacity: data.Capacity) -> training.Config:
    """The static configuration, checked against the data.

    Raises:
      ValueError: if an active set of the size asked for can't hold a batch's labels.
    """
    max_labels = int(np.diff(points.label_offsets).max(initial=1))
    needed = capacity.distinct_labels if options.mode == "shared" else max_labels
    active = options.active
    if active is None:
        active = -(-(needed + NEGATIVES) // 64) * 64
        if points.num_labels <= 2 * active:  # then all of them serve better
            active = points.num_labels
    whole = STRATEGIES[options.strategy].whole_layer
    if not whole and min(active, points.num_labels) < needed:
        holder = "batch" if options.mode == "shared" else "point"
        raise ValueError(
            f"active = {active}: must be at least {needed}, the distinct labels of a {holder}; "
            "leave it out to let the data decide"
        )
    return training.Config(
        active=active,
        strategy=options.strategy,
        mode=options.mode,
        loss=options.loss,
        correction=options.correction,
        precision=precision_of(options),
        buckets=buckets_of(options, points.num_labels),
        distinct_features=max(1, capacity.distinct_features),
        max_labels=max_labels,
        index=IndexConfig(
            family=options.family,
            transform=options.transform,
            num_tables=options.tables,
            num_bits=options.bits,
            max_candidates=options.candidates,
            rehash=schedules.exponential(options.rehash, growth=1.2),
            rebuild=schedules.exponential(10 * options.rehash, growth=1.5),
        ),
    )
