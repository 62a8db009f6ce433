"""The mixer of hashes, against integers of Python."""

import jax.numpy as jnp

from sparse_jax.ops import mixing


def test_mixing_is_murmurs_finalizer():
    def finalizer(h: int) -> int:
        h ^= h >> 16
        h = h * 0x85EBCA6B % 2**32
        h ^= h >> 13
        h = h * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    words = [0, 1, 2**31, 2**32 - 1, 0xDEADBEEF]
    found = mixing.mix(jnp.asarray(words, jnp.uint32)).tolist()
    assert found == [finalizer(word) for word in words]
    seed, table, ids = 7, 3, [0, 5, 2**31 - 1]
    found = mixing.priority(jnp.int32(seed), jnp.uint32(table), jnp.asarray(ids, jnp.int32))
    salt = finalizer(seed ^ finalizer(table))
    assert found.tolist() == [finalizer(i ^ salt) for i in ids]
