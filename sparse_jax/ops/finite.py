"""Whether an array is free of NaN and infinities, told without another array of its size."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def all_finite(x: jax.Array) -> jax.Array:
    """Whether no number is NaN or infinite, bool [].

    Of isfinite(x) XLA:CPU would write an array: a byte for each number of all tables. A maximum
    would lose NaN: that of a large array on the CPU does.

    Example:
      >>> bool(all_finite(jnp.ones(3))), bool(all_finite(jnp.array([1.0, jnp.nan])))
      (True, False)
    """
    return jnp.sum(x * 0) == 0
