"""What is computed on active rows: which rows, dense and sparse products, losses over them."""

from sparse_jax.layers import active, losses
from sparse_jax.layers.dense import (
    SparseActivation,
    normalize,
    read_sparse,
    sparse_dense,
    sparse_dense_init,
    sparse_hidden,
)
from sparse_jax.layers.sampled_softmax import softmax_head

__all__ = [
    "SparseActivation",
    "active",
    "losses",
    "normalize",
    "read_sparse",
    "softmax_head",
    "sparse_dense",
    "sparse_dense_init",
    "sparse_hidden",
]
