"""Reading, weighting and batching of sparse training data."""

from sparse_jax.data import weighting
from sparse_jax.data.batching import (
    Batch,
    Capacity,
    batches,
    epoch_order,
    make_batch,
    num_batches,
    plan_capacity,
    stack,
)
from sparse_jax.data.csr import concatenate, from_csr, to_csr, with_sizes
from sparse_jax.data.jsonl import read_jsonl
from sparse_jax.data.names import read_names
from sparse_jax.data.prefetch import prefetch
from sparse_jax.data.tfidf import apply_tfidf, fit_idf
from sparse_jax.data.vocabulary import Vocabulary
from sparse_jax.data.xmc import XmcData, XmcFormatError, read_xmc, write_xmc

__all__ = [
    "Batch",
    "Capacity",
    "Vocabulary",
    "XmcData",
    "XmcFormatError",
    "apply_tfidf",
    "batches",
    "concatenate",
    "epoch_order",
    "fit_idf",
    "from_csr",
    "make_batch",
    "num_batches",
    "plan_capacity",
    "prefetch",
    "read_jsonl",
    "read_names",
    "read_xmc",
    "stack",
    "to_csr",
    "weighting",
    "with_sizes",
    "write_xmc",
]
