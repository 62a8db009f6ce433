"""Hash families at the sizes of their tests, and inputs for them."""

from __future__ import annotations

import functools

import jax
import numpy as np

from sparse_jax.retrieval import hashing

DENSE = ["simhash", "srp", "wta", "dwta", "fastsrp"]
ALL = [*DENSE, "minhash"]
BITS = {"simhash": 7, "srp": 7, "wta": 6, "dwta": 6, "fastsrp": 7, "minhash": 9}
EXTRA = {
    "srp": dict(density=0.25),
    "wta": dict(window=4),
    "dwta": dict(window=4),
    "fastsrp": dict(bin_size=5),
    "minhash": dict(num_hashes=2),
}


def make(name, dim=37, num_tables=6, seed=0, **kwargs):
    """Parameters of a family, drawn under jit: eager calls compile each operation alone."""
    options = {"num_bits": BITS[name]} | EXTRA.get(name, {}) | kwargs
    if not isinstance(seed, int):
        return hashing.FAMILIES[name].init(seed, dim, num_tables=num_tables, **options)
    return _drawn(name, dim, num_tables, tuple(options.items()))(jax.random.key(seed))


@functools.cache
def _drawn(name, dim, num_tables, options):
    init = hashing.FAMILIES[name].init
    return jax.jit(lambda key: init(key, dim, num_tables=num_tables, **dict(options)))


hash_jit = jax.jit(hashing.hash)


def inputs(name, n=11, dim=37, seed=1):
    rng = np.random.default_rng(seed)
    if name == "minhash":
        return rng.integers(-8, 500, (n, 13)).astype(np.int32)
    x = rng.normal(size=(n, dim)) * np.exp2(rng.integers(-30, 30, (n, 1)))
    x[n // 2 :] = np.maximum(x[n // 2 :], 0) * (rng.random((n - n // 2, dim)) < 0.3)
    return x.astype(np.float32)
