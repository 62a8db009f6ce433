"""Multiply-adds of training, everything counted, beside those of dense layers.

One multiply-add is one fused multiply and add, or one comparison, exponential, table slot read or
integer pass where there is no product: the unit is an operation on one scalar.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sparse_jax.data import XmcData

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


def whole_training(counts: dict[str, Any], points: XmcData) -> dict[str, float]:
    """Multiply-adds of a whole fit, and of dense one-versus-all training in as many passes.

    The dense classifier has a weight for each pair of a feature and a label: a pass over the
    points takes, for every feature entry, a product and an update for each of the N labels. Ours
    count all parts: the wide part's weights that entries point to, every pass of every node of the
    trees over its points, centroids, and the networks' steps.

    Args:
      counts: of `fit`: "wide" (epochs, weights of each feature), "trees" (a list of the products
        of one pass over each), "networks" (a list of `NetworkRun.costs`), "closed_form" (of
        centroids).
      points: training points.

    Returns:
      "madds", "dense_madds" and "madds_saved".
    """
    epochs, row_lengths = counts["wide"]
    entries = float(points.feature_ids.size)
    wide = 2.0 * epochs * float(row_lengths[points.feature_ids].sum(dtype=np.float64))
    trees = sum(2.0 * passes * products for passes, products in counts.get("trees", ()))
    networks = counts.get("networks", ())
    steps = sum(cost["steps"] * cost["madds_per_step"] for cost in networks)
    dense_steps = sum(cost["steps"] * cost["dense_madds_per_step"] for cost in networks)
    dense = 2.0 * epochs * entries * points.num_labels + dense_steps
    total = wide + trees + steps + counts.get("closed_form", 0.0)
    return {"madds": total, "dense_madds": dense, "madds_saved": 1 - total / max(dense, 1.0)}
