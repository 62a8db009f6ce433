"""What is computed on active rows: which rows, dense and sparse products, losses over them."""

# Not listed in `__all__`, but kept under these names.
from sparse_jax.layers import active as active
from sparse_jax.layers import losses as losses
from sparse_jax.layers.compiling import check_donated as check_donated
from sparse_jax.layers.compiling import export_checks as export_checks
from sparse_jax.layers.dense import SparseActivation as SparseActivation
from sparse_jax.layers.dense import normalize as normalize
from sparse_jax.layers.dense import read_sparse as read_sparse
from sparse_jax.layers.dense import sparse_dense, sparse_dense_init
from sparse_jax.layers.dense import sparse_hidden as sparse_hidden
from sparse_jax.layers.gradients import value_and_grad as value_and_grad
from sparse_jax.layers.reading import look_up as look_up
from sparse_jax.layers.sampled_softmax import softmax_head

__all__ = [
    "softmax_head",
    "sparse_dense",
    "sparse_dense_init",
]
