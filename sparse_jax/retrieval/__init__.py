"""Which rows a query should see: hashing, tables, indexes over them, exact and quantized search."""

from sparse_jax.retrieval import hashing, index, quantized, schedules, tables, topk, tuner

__all__ = ["hashing", "index", "quantized", "schedules", "tables", "topk", "tuner"]
