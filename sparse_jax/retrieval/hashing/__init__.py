"""LSH families and key transforms: pure functions of a pytree of parameters.

Each family is a module with `init(key, dim, *, num_tables, num_bits, ...) -> params`,
`hash(params, x) -> int32 [..., num_tables]`, and `madds(params) -> int`. Codes lie in
[0, params.num_buckets) and are the same bits for every batch size, thread count and machine.

| name | module | input | law of one bit or digit |
|---|---|---|---|
| simhash | `simhash` | dense | 1 - theta / pi |
| srp | `srp` | dense | tends to 1 - theta / pi |
| wta | `wta` | dense | rank order |
| dwta | `dwta` | sparse or after a ReLU | rank order among non-zeros |
| minhash | `minhash` | sets, padded with -1 | Jaccard |
| fastsrp | `fastsrp` | wide, sparse | tends to 1 - theta / pi |
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import jax

from sparse_jax.retrieval.hashing import dwta, fastsrp, minhash, simhash, srp, transforms, wta

__all__ = [
    "FAMILIES",
    "dwta",
    "fastsrp",
    "hash",
    "madds",
    "minhash",
    "simhash",
    "srp",
    "transforms",
    "wta",
]

# A new family is one entry here: its module, and what its `init` returns.
_ALL: tuple[tuple[ModuleType, type], ...] = (
    (simhash, simhash.SimHash),
    (srp, srp.SparseProjection),
    (wta, wta.WTA),
    (dwta, dwta.DWTA),
    (minhash, minhash.MinHash),
    (fastsrp, fastsrp.FastSRP),
)

#: Family modules by name.
FAMILIES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module, _ in _ALL}


def about(name: str) -> str:
    """What a family is, in the first line of its module's words; for --help.

    Example:
      >>> about("simhash").startswith("SimHash")
      True
    """
    return (FAMILIES[name].__doc__ or "").strip().splitlines()[0].rstrip(".")


@functools.singledispatch
def hash(params: Any, x: jax.Array) -> jax.Array:
    """Hash x with whichever family `params` belongs to.

    Args:
      params: what a family's `init` returned.
      x: floating [..., dim], or for minhash int32 [..., n].

    Returns:
      int32 [..., num_tables] in [0, params.num_buckets).

    Raises:
      ValueError: `params` is of no family, or x does not fit it.

    Example:
      >>> import jax
      >>> params = FAMILIES["simhash"].init(jax.random.key(0), 16, num_tables=4, num_bits=8)
      >>> hash(params, jax.numpy.ones((2, 16))).shape
      (2, 4)
    """
    raise ValueError(_unknown(params))


@functools.singledispatch
def madds(params: Any) -> int:
    """Multiply-adds or comparisons of hashing one vector with `params`, as executed.

    Args:
      params: what a family's `init` returned.

    Returns:
      A number of operations for one vector.

    Raises:
      ValueError: `params` is of no family.

    Example:
      >>> import jax
      >>> madds(FAMILIES["simhash"].init(jax.random.key(0), 16, num_tables=4, num_bits=8))
      512
    """
    raise ValueError(_unknown(params))


def _unknown(params: Any) -> str:
    return (
        f"params must come from the init of one of {sorted(FAMILIES)}, got {type(params)}; "
        "for example FAMILIES['simhash'].init(key, dim, num_tables=..., num_bits=...)"
    )


for _module, _type in _ALL:
    hash.register(_type)(_module.hash)
    madds.register(_type)(_module.madds)
