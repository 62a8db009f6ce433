"""Which rows a query should see: hashing, tables, indexes over them, exact and quantized search."""

# Those `as` themselves aren't listed in `__all__`, but kept under these names.
from sparse_jax.retrieval import duplicates as duplicates
from sparse_jax.retrieval import hashing, index, quantized, tables, tuner
from sparse_jax.retrieval import schedules as schedules
from sparse_jax.retrieval import topk as topk

__all__ = ["hashing", "index", "quantized", "tables", "tuner"]
