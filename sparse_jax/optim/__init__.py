"""Optax on row slices: an optimizer touches the rows that a gradient names, and no others."""

from sparse_jax.optim import fused, rates
from sparse_jax.optim.rowwise import ElapsedState, apply_scaled, apply_updates, rowwise

__all__ = ["ElapsedState", "apply_scaled", "apply_updates", "fused", "rates", "rowwise"]
