"""Sums and gathers over shards, inside `jax.shard_map`, in an order that is fixed.

`psum` adds in the order of the links, which differs between one process and many; `pmax` loses NaN.
Here all values are gathered and reduced in the order of the shards: the same bits on each of them,
whichever processes hold them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.sharding.placing import AXIS


def gather(x: jax.Array) -> jax.Array:
    """Those of all shards, one after the other along the first axis: [n, ...] to [S·n, ...]."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def swap(x: jax.Array) -> jax.Array:
    """Block s goes to shard s: of [S, ...], out[s] is what shard s had for this one."""
    return jax.lax.all_to_all(x, AXIS, 0, 0)


def total(x: jax.Array) -> jax.Array:
    """The sum over shards, added in their order.

    Args:
      x: array [...], of one shape on all shards.

    Returns:
      [...], the same bits on each.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> run = on_shards(total, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> float(run(jnp.float32(2)))
      2.0
    """
    return _in_order(jax.lax.all_gather(x, AXIS))


def total_of_own(x: jax.Array) -> jax.Array:
    """Block s of the sum over shards stays on shard s: [S·n, ...] to [n, ...], in their order."""
    size = jax.lax.axis_size(AXIS)
    return _in_order(swap(x.reshape(size, x.shape[0] // size, *x.shape[1:])))


def _in_order(parts: jax.Array) -> jax.Array:
    found = parts[0]
    for shard in range(1, parts.shape[0]):
        found = found + parts[shard]
    return found


def count_not_finite(tree: Any) -> jax.Array:
    """How many floats of all shards are NaN or infinite, by a sum: a maximum would lose NaN.

    Args:
      tree: arrays of this shard.

    Returns:
      int32 [], the same on all.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> run = on_shards(count_not_finite, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> int(run(jnp.array([1.0, jnp.nan, jnp.inf])))
      2
    """
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    here = [jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in floats]
    return total(sum(here, jnp.int32(0)))
