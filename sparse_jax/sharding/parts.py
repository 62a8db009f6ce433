"""What the library computes on rows, where they lie on many shards: inside `jax.shard_map`.

Each function is called by all shards alike, with this shard's share of the rows and of the batch.
None of them stands in a branch on local data: collectives are paired by their order alone.
"""

from sparse_jax.sharding.bags import Entries as Entries
from sparse_jax.sharding.bags import bag_gradient, embedding_bag, gather_entries
from sparse_jax.sharding.exchange import Distinct as Distinct
from sparse_jax.sharding.exchange import Route as Route
from sparse_jax.sharding.exchange import add_rows, give_rows, route, take_rows, unique_ids
from sparse_jax.sharding.finding import ShardSet as ShardSet
from sparse_jax.sharding.finding import (
    active_set,
    candidates,
    search_quantized,
    top_rows,
    without_padding,
)
from sparse_jax.sharding.reducing import count_not_finite, total
from sparse_jax.sharding.softmax import softmax_head

__all__ = [
    "active_set",
    "add_rows",
    "bag_gradient",
    "candidates",
    "count_not_finite",
    "embedding_bag",
    "gather_entries",
    "give_rows",
    "route",
    "search_quantized",
    "softmax_head",
    "take_rows",
    "top_rows",
    "total",
    "unique_ids",
    "without_padding",
]
