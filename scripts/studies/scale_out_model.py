"""What a sharded step costs, in formulas: computation, messages and bytes; see docs/scale-out.md.

The constants of a machine are fitted to steps of several shapes, those of a link to exchanges of a
small and of a large array. What is predicted is then a step that neither has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from sparse_jax import sharding
from sparse_jax.xmc import sharded_step

GATHERS = 4  # of a step: the batch, bags, the softmax and the gradient
HEADER = 66  # bytes of a packet: Ethernet, IP, TCP with its time stamps
SEGMENT = 1448  # bytes of data in one, at most
NOTICE = 49  # bytes of gloo's with each piece; counted, not read in its source


class Shape(NamedTuple):
    """A step: a network, a batch, and over how many shards, one a machine."""

    shards: int  # S
    points: int  # b, of a shard; M = S·b in all
    hidden: int = 128  # d
    active: int = 4096  # A, of all shards
    labels: int = 200_000
    features: int = 50_000
    entries: int = 76  # e, features of a point
    labels_each: int = 6  # p

    @property
    def batch(self) -> int:
        """M."""
        return self.shards * self.points

    @property
    def places(self) -> int:
        """C, places of the active set on a shard."""
        return sharded_step.active_here(self.active, self.shards)

    def config(self, distinct_features: int) -> sharded_step.Config:
        """Of the training step."""
        return sharded_step.Config(
            features=sharding.Dealing(self.features, self.shards, "hash"),
            labels=sharding.Dealing(self.labels, self.shards, "hash"),
            hidden=self.hidden,
            active=self.active,
            active_here=self.places,
            distinct_features=distinct_features,
        )


class Machine(NamedTuple):
    """Seconds of one core; `fit` finds them."""

    step: float  # of every step, whatever its size
    product: float  # of a multiplication and addition of the softmax and its gradient
    number: float  # of a number of a row that is read or written
    entry: float  # of an entry of the whole batch that a shard looks at
    unit: float  # of a hidden unit of the whole batch, which each shard computes


class Link(NamedTuple):
    """Between any two machines."""

    round: float  # seconds of an exchange of nothing: software, and the way there
    bytes_per_second: float  # of one machine, both ways at once


class Prediction(NamedTuple):
    """Of one step, in seconds; the last two are of one shard."""

    work: float
    rounds: float
    wire: float
    messages: int
    sent: int  # bytes, to all others together

    @property
    def seconds(self) -> float:
        """All three."""
        return self.work + self.rounds + self.wire


def counts(shape: Shape, distinct_features: int, imbalance: float = 1.0) -> np.ndarray:
    """How often each constant of `Machine` enters a step of the busiest shard, float64 [5].

    Args:
      shape: of the step.
      distinct_features: places for rows of the embedding on a shard.
      imbalance: entries of the busiest shard's rows, times the mean of all.
    """
    d, batch = shape.hidden, shape.batch
    here = imbalance * batch * shape.entries / shape.shards  # entries whose rows lie here
    return np.array(
        [
            1,
            3 * batch * shape.places * d,  # logits, gradients of hidden vectors and of rows
            # Bags and their gradient; then of each place the row, two moments and the gradient.
            d * (2 * here + 7 * (distinct_features + shape.places)),
            batch * shape.entries,
            batch * d,
        ],
        float,
    )


def messages(shards: int) -> int:
    """Of one shard in a step: each of its exchanges is S − 1 in turn."""
    return (shards - 1) * (GATHERS + _to_each(shards))


def _to_each(shards: int) -> int:
    """Exchanges of a block for each shard; two shards gather instead."""
    return 2 if shards > 2 else 0


def pieces(shards: int) -> int:
    """What gloo makes of these messages, each a TCP segment with data if it fits one.

    It sends a message after two notices, and a gathered one in two halves, each with its own.
    """
    return (shards - 1) * (6 * GATHERS + 3 * _to_each(shards))


def sent(shape: Shape) -> int:
    """Bytes that one shard sends in a step."""
    b = shape.points
    entries, labels = b * shape.entries, b * shape.labels_each
    return sharded_step.bytes_sent(shape.config(1), batch_size=b, entries=entries, labels=labels)


def on_wire(shape: Shape) -> float:
    """Bytes of packets that one shard sends in a step, but for those that only acknowledge."""
    parts, size = pieces(shape.shards), sent(shape)
    return size + NOTICE * parts + HEADER * (parts + size / SEGMENT)


def predict(
    shape: Shape,
    machine: Machine,
    link: Link,
    distinct_features: int,
    *,
    cores: int = 1,
    imbalance: float = 1.0,
) -> Prediction:
    """A step: what its shards compute, and how long they wait for each other.

    Args:
      shape: of the step.
      machine: one core of it.
      link: between two machines.
      distinct_features: places for rows of the embedding on a shard.
      cores: that share a shard's work evenly.
      imbalance: as in `counts`.
    """
    work = counts(shape, distinct_features, imbalance) @ np.array(machine) / cores
    number, size = messages(shape.shards), sent(shape)
    return Prediction(float(work), number * link.round, size / link.bytes_per_second, number, size)


def fit(rows: Sequence[np.ndarray], seconds: Sequence[float]) -> Machine:
    """The machine, none of its constants negative, by least squares of relative errors.

    Args:
      rows: `counts` of each step that was measured.
      seconds: what it took of one core.
    """
    matrix = np.stack(rows) / np.array(seconds)[:, None]
    scale = matrix.max(axis=0)
    found, _ = nnls(matrix / scale, np.ones(len(seconds)))
    return Machine(*map(float, found / scale))


def link_of(small: float, large: float, size: int) -> Link:
    """A link, of the seconds that two machines take to exchange a few bytes, and `size` each."""
    return Link(small, size / max(large - small, 1e-9))


class Memory(NamedTuple):
    """A language model whose rows of contexts lie on many machines."""

    shards: int
    tokens: int  # a step, of a shard
    rows: float = 1e11 / 64
    width: int = 64
    orders: int = 7  # contexts of a token, a row each
    followers: int = 8
    trunk: int = 336_898  # weights of the dense part, whose gradient is summed

    @property
    def bytes_here(self) -> float:
        """Of a shard's part: numbers of the row; scale, tag and count; followers."""
        return self.rows / self.shards * 4 * (self.width + 3 + self.followers)

    @property
    def sent(self) -> float:
        """Bytes of a shard in a step: ids and tags out, rows with what is known back, gradients."""
        context = 4 * (2 + self.width + 1 + self.followers + self.width)
        others = (self.shards - 1) / self.shards
        return others * (self.tokens * self.orders * context + 2 * 4 * self.trunk)

    @property
    def messages(self) -> int:
        """Three exchanges of contexts, and a sum in two halves."""
        return 5 * (self.shards - 1)
