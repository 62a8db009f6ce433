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


def gather_together(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """`gather` of arrays of 32 bits, of any shapes and dtypes, in one exchange.

    Each exchange is a round trip, which costs more than its bytes where arrays are small.

    Args:
      arrays: [n, ...] each, of 32-bit dtypes.

    Returns:
      [S·n, ...] of each.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> run = on_shards(gather_together, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> [x.tolist() for x in run(jnp.ones(2), jnp.full((1, 1), 7))]
      [[1.0, 1.0], [[7]]]
    """
    bits = [jax.lax.bitcast_convert_type(x, jnp.int32).reshape(-1) for x in arrays]
    whole = jax.lax.all_gather(jnp.concatenate(bits), AXIS)
    found, start = [], 0
    for x in arrays:
        piece = jax.lax.bitcast_convert_type(whole[:, start : start + x.size], x.dtype)
        found.append(piece.reshape(-1, *x.shape[1:]))
        start += x.size
    return tuple(found)


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
    return in_order(jax.lax.all_gather(x, AXIS))


def total_of_own(x: jax.Array) -> jax.Array:
    """Block s of the sum over shards stays on shard s: [S·n, ...] to [n, ...], in their order."""
    size = jax.lax.axis_size(AXIS)
    return in_order(swap(x.reshape(size, x.shape[0] // size, *x.shape[1:])))


def total_for_all(x: jax.Array, *counts: jax.Array) -> tuple[jax.Array, ...]:
    """The sum over shards on each, of a block for each shard: a reduction in their order.

    Two shards send each other what they have, in one exchange; more of them sum a block each and
    gather the sums, which are the same bytes as of two, not S / 2 times as many.

    Args:
      x: float32 [S·n, ...], of one shape on all shards.
      counts: int32 [], summed on the way.

    Returns:
      [S·n, ...], and [] of each count; the same bits on all shards.

    Example:
      >>> from sparse_jax.sharding import mesh, on_shards
      >>> run = on_shards(total_for_all, mesh(1), in_specs=jax.P(), out_specs=jax.P())
      >>> [x.tolist() for x in run(jnp.ones(2), jnp.int32(3))]
      [[1.0, 1.0], 3]
    """
    shards = jax.lax.axis_size(AXIS)
    if shards > 2:
        x = total_of_own(x)
    found, *told = gather_together(x, *(count[None] for count in counts))
    if shards == 2:
        found = in_order(found.reshape(shards, *x.shape))
    return found, *(jnp.sum(count, dtype=jnp.int32) for count in told)


def in_order(parts: jax.Array) -> jax.Array:
    """The sum of [S, ...] over its first axis, one after the other."""
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
