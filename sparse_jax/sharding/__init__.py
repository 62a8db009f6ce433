"""Past one machine: tables whose rows lie on many processes, and what is computed on them there.

    initialize("192.168.1.10:8476", processes=2, process=0)  # on each, with its own number
    rows = shard_rows(table, mesh())
    run = on_shards(function, mesh(), in_specs=..., out_specs=...)  # function calls `parts`

A shard is a device of the mesh. Which shards there are, and not which process holds them, decides
how sums are ordered: the same shards give the same bits on one machine and on many.
"""

from sparse_jax.sharding import parts
from sparse_jax.sharding import processes as processes
from sparse_jax.sharding import saves as saves
from sparse_jax.sharding import traffic as traffic
from sparse_jax.sharding.placing import AXIS as AXIS
from sparse_jax.sharding.placing import Dealing as Dealing
from sparse_jax.sharding.placing import Load as Load
from sparse_jax.sharding.placing import ShardedRows as ShardedRows
from sparse_jax.sharding.placing import gather_rows as gather_rows
from sparse_jax.sharding.placing import gather_to_first as gather_to_first
from sparse_jax.sharding.placing import imbalance as imbalance
from sparse_jax.sharding.placing import mesh, shard_rows
from sparse_jax.sharding.placing import on_shards as on_shards
from sparse_jax.sharding.processes import hard_exit as hard_exit
from sparse_jax.sharding.processes import initialize as initialize

__all__ = ["mesh", "parts", "shard_rows"]
