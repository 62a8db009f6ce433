"""Seeded 32-bit hashes, the same in C++ and in plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mix(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 on uint32 words."""
    h = h ^ (h >> jnp.uint32(16))
    h = h * jnp.uint32(0x85EBCA6B)
    h = h ^ (h >> jnp.uint32(13))
    h = h * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> jnp.uint32(16))


def priority(seed: jax.Array, table: jax.Array, ids: jax.Array) -> jax.Array:
    """Seeded order of ids inside a table, uint32."""
    salt = mix(seed.astype(jnp.uint32) ^ mix(table.astype(jnp.uint32)))
    return mix(ids.astype(jnp.uint32) ^ salt)
