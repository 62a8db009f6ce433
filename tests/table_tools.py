"""What the tests of the tables share: small sizes, jitted functions, comparison bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
from model_tables import Model

from sparse_jax.retrieval import tables

ROWS, TABLES, BUCKETS, BATCH, QUERIES = 11, 2, 3, 4, 2
WILD = [-(2**31), -(2**31) + 1, -2, 2**31 - 1]
SIZES = dict(num_tables=TABLES, num_buckets=BUCKETS)


@functools.cache
def jitted(kind):
    """One set of jitted functions for "ffi" and "jax": jit remembers by function."""
    return types.SimpleNamespace(
        build=jax.jit(lambda t, c: tables.build(t, c)),
        insert=jax.jit(lambda t, i, c: tables.insert(t, i, c)),
        update=jax.jit(lambda t, i, c: tables.update(t, i, c)),
        remove=jax.jit(lambda t, i: tables.remove(t, i)),
        query=jax.jit(lambda t, c, n: tables.query(t, c, max_candidates=n), static_argnums=2),
    )


def ints(values):
    return jnp.asarray(np.asarray(values, np.int32))


def random_codes(seed, rows, num_tables=TABLES, num_buckets=BUCKETS):
    return np.random.default_rng(seed).integers(-1, num_buckets, (rows, num_tables), np.int32)


def state(t):
    return {f.name: getattr(t, f.name) for f in dataclasses.fields(t) if f.name != "policy"}


def assert_same(a, b):
    """Bit for bit, whichever of `HashTables`, `Model` or NamedTuple they are."""
    a, b = (x.arrays() if isinstance(x, Model) else x for x in (a, b))
    a, b = (state(x) if isinstance(x, tables.HashTables) else x for x in (a, b))
    if isinstance(a, dict):
        for name in set(a) & set(b):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    else:
        jax.tree.map(np.testing.assert_array_equal, a, b)
