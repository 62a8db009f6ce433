"""Reading, weighting and batching of sparse training data."""

from sparse_jax.data.batching import (
    Batch,
    Capacity,
    batches,
    epoch_order,
    make_batch,
    num_batches,
    plan_capacity,
    prefetch,
    stack,
)
from sparse_jax.data.jsonl import read_jsonl
from sparse_jax.data.tfidf import apply_tfidf, fit_idf
from sparse_jax.data.xmc import XmcData, XmcFormatError, read_xmc, write_xmc

__all__ = [
    "Batch",
    "Capacity",
    "XmcData",
    "XmcFormatError",
    "apply_tfidf",
    "batches",
    "epoch_order",
    "fit_idf",
    "make_batch",
    "num_batches",
    "plan_capacity",
    "prefetch",
    "read_jsonl",
    "read_xmc",
    "stack",
    "write_xmc",
]
