"""Multiply-adds of a training step, everything counted, and those of the dense network.

One multiply-add is one fused multiply and add, or one comparison, exponential, table slot read or
integer pass where there is no product: the unit is an operation on one scalar.
"""

from __future__ import annotations

import dataclasses

ADAM = 10
"""Operations of Adam on one scalar: two moments, two bias corrections, root, quotient, update."""
LOGIT = 4
"""Operations of the loss on one logit: maximum, exponential, sum, gradient."""


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """Means over the steps of a run."""

    batch_size: int
    hidden: int
    num_features: int
    num_labels: int
    feature_entries: float  # in a batch
    touched_features: float  # distinct rows of the embedding updated
    active: float  # places of the active set that an example's logits are computed for
    touched_labels: float  # distinct rows of the output layer updated
    hash_madds: int = 0  # of one hash evaluation
    bucket_slots: int = 0  # num_tables × capacity: slots a query reads, or a row's codes may move
    rehashed_rows: float = 0.0  # rows hashed again in a step, rebuilds included


def sparse_step(counts: StepCounts) -> dict[str, float]:
    """Multiply-adds of one step by stage, "total" among them.

    Example:
      >>> counts = StepCounts(batch_size=2, hidden=4, num_features=9, num_labels=100,
      ...                     feature_entries=6, touched_features=5, active=10, touched_labels=10)
      >>> sparse_step(counts)["products"]
      240.0
    """
    c = counts
    uses_tables = c.bucket_slots > 0
    stages = {
        "bag": 2.0 * c.feature_entries * c.hidden,
        # Forward, and the gradients with respect to the hidden layer and to the rows.
        "products": 3.0 * c.batch_size * c.active * c.hidden,
        "loss": float(LOGIT * c.batch_size * c.active),
        "optimizer": float(ADAM)
        * (c.touched_features * c.hidden + c.touched_labels * (c.hidden + 1) + c.hidden),
        "hash": float(c.batch_size * c.hash_madds),
        # A slot read, counted in the map, keyed and ranked.
        "query": 4.0 * c.batch_size * c.bucket_slots,
        # An upper bound: what plain JAX did in passes over all labels is O(active) in the kernel.
        "active_set": (4.0 if uses_tables else 3.0) * c.num_labels,
        "rehash": c.rehashed_rows * (c.hash_madds + c.bucket_slots),
    }
    return stages | {"total": sum(stages.values())}


def dense_step(counts: StepCounts) -> dict[str, float]:
    """The same for the dense network: all logits, and an optimizer that walks all rows.

    Example:
      >>> counts = StepCounts(batch_size=2, hidden=4, num_features=9, num_labels=100,
      ...                     feature_entries=6, touched_features=5, active=10, touched_labels=10)
      >>> dense_step(counts)["products"]
      2400.0
    """
    c = counts
    stages = {
        "bag": 2.0 * c.feature_entries * c.hidden,
        "products": 3.0 * c.batch_size * c.num_labels * c.hidden,
        "loss": float(LOGIT * c.batch_size * c.num_labels),
        "optimizer": float(ADAM)
        * (c.num_features * c.hidden + c.num_labels * (c.hidden + 1) + c.hidden),
    }
    return stages | {"total": sum(stages.values())}
