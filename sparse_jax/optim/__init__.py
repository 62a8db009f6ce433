"""Optax on row slices: an optimizer touches the rows that a gradient names, and no others."""

# Not listed in `__all__`, but kept under these names. `rowwise` is listed as `sparse_jax.rowwise`.
from sparse_jax.optim import average as average
from sparse_jax.optim import fused as fused
from sparse_jax.optim import rates as rates
from sparse_jax.optim import tree as tree
from sparse_jax.optim.row_scale import RowScaleState as RowScaleState
from sparse_jax.optim.row_scale import row_scale as row_scale
from sparse_jax.optim.rowwise import ElapsedState as ElapsedState
from sparse_jax.optim.rowwise import apply_scaled as apply_scaled
from sparse_jax.optim.rowwise import apply_updates
from sparse_jax.optim.rowwise import rowwise as rowwise

__all__ = ["apply_updates"]
