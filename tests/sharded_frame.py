"""What the checks of sharded parts share: a table dealt to the devices there are, and numbers.

`sharded_checks` and `sharded_training` run on several devices in one process, which XLA makes up
when it starts; `sharded_processes` in several processes of 6 devices together. Arrays are dealt to
the shards unevenly: N is a multiple of neither.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import quickly

from sparse_jax import sharding as sh
from sparse_jax.sharding import processes

TOGETHER = "SPARSE_JAX_PROCESSES" in os.environ
SHARDS, N, D = (6 if TOGETHER else 8), 203, 5
SPLIT, ALL = jax.P(sh.AXIS), jax.P()
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((N, D)).astype(np.float32)
START = RNG.bit_generator.state


def run(function: Any, *args: Any, split: str, outs: Any = SPLIT) -> Any:
    """Calls it on the mesh; split says of each argument whether it is split: "s" or "a" for all."""
    specs = tuple(SPLIT if kind == "s" else ALL for kind in split)
    mapped = sh.on_shards(function, sh.mesh(SHARDS), in_specs=specs, out_specs=outs)
    return jax.tree.map(processes.whole, jax.jit(mapped)(*args))


def dealt(by: Any, table: np.ndarray = TABLE) -> sh.ShardedRows:
    return sh.shard_rows(table, sh.mesh(SHARDS), by=by)


def whole(array: np.ndarray, dealing: sh.Dealing) -> np.ndarray:
    """A result of `run` in order of id."""
    owners, slots = map(np.asarray, dealing.place(np.arange(dealing.num_rows, dtype=np.int32)))
    return array[owners * dealing.per_shard + slots]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def some_ids(count: int, most: int = N) -> np.ndarray:
    """Ids of all shards, repeats, padding and what is no row among them."""
    ids = RNG.integers(0, most, SHARDS * count).astype(np.int32)
    ids[::7], ids[3::11], ids[5::13] = -1, most, most + 4
    return ids


def real(ids: np.ndarray, most: int = N) -> np.ndarray:
    return np.where(ids < most, ids, np.int32(-1))


def taken_of(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows of one table; zeros for padding."""
    return np.where(ids[:, None] >= 0, table[ids], np.float32(0))


def head_arguments(by: Any = "hash") -> Any:
    """(dealing, key, labels, label rows) of all shards, one example without labels."""
    examples = 2 * SHARDS
    labels = np.full((examples, 3), -1, np.int32)
    for row in range(examples):
        labels[row, : row % 3] = RNG.choice(N, row % 3, replace=False)
    rows_of = np.repeat(np.arange(examples, dtype=np.int32), 3)
    dealing = sh.Dealing(N, SHARDS, by)
    return dealing, jax.random.key(3), labels.reshape(-1), rows_of


def start(devices: int) -> None:
    """As `conftest` sets JAX up, with this many devices, compiled fast.

    Where a row lies is found in one program for each shape, not operation by operation: each
    process would compile all of them.
    """
    sh.initialize(shards=devices)
    for name in ("place", "ids_of"):
        setattr(sh.Dealing, name, jax.jit(getattr(sh.Dealing, name), static_argnums=0))
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    quickly.switch(True)


def main(checks: dict[str, Callable[[], None]], names: list[str]) -> None:
    """Runs the checks; prints what each of them raised, as JSON."""
    raised = {}
    for name in names or list(checks):
        RNG.bit_generator.state = START  # each check has its numbers, whichever ran before
        try:
            checks[name]()
            raised[name] = ""
        except Exception:
            raised[name] = traceback.format_exc()
    print(json.dumps(raised), flush=True)
