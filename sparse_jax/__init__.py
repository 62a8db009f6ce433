"""sparse_jax: dynamic sparsity on CPUs for JAX.

Hash tables pick, for each batch, the few rows of a large layer that matter; jitted XLA operations
gather them; Optax updates them and nothing else.
"""

from sparse_jax import (
    accounting,
    active,
    checkpoint,
    data,
    fused,
    hashing,
    index,
    inference,
    layers,
    losses,
    metrics,
    network,
    optim,
    rounding,
    rows,
    schedules,
    tables,
    training,
)
from sparse_jax.optim import rowwise
from sparse_jax.rows import RowSparse, embedding_bag, take_rows, unique_ids

__all__ = [
    "RowSparse",
    "accounting",
    "active",
    "checkpoint",
    "data",
    "embedding_bag",
    "fused",
    "hashing",
    "index",
    "inference",
    "layers",
    "losses",
    "metrics",
    "network",
    "optim",
    "rounding",
    "rows",
    "rowwise",
    "schedules",
    "tables",
    "take_rows",
    "training",
    "unique_ids",
]

__version__ = "0.1.0"
