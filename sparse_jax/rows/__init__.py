"""Rows of large tables: gather, scatter, sparse updates, unique ids, embedding bags.

A *table* is an array ``[N, ...]`` with so many rows that a step may touch only some of them.
This room names those rows by ``int32`` ids, with ``-1`` for padding, and knows nothing of the
optimizer (see :mod:`sparse_jax.optim`) or of how the ids were found.
"""

from sparse_jax.rows.bags import Combiner as Combiner
from sparse_jax.rows.bags import embedding_bag
from sparse_jax.rows.bags import unique_ids as unique_ids
from sparse_jax.rows.sparse import RowSparse
from sparse_jax.rows.tables import add_rows, take_rows
from sparse_jax.rows.tables import check_ids as check_ids
from sparse_jax.rows.tables import draw_rows as draw_rows
from sparse_jax.rows.tables import set_rows as set_rows
from sparse_jax.rows.tables import slice_rows as slice_rows

__all__ = [
    "RowSparse",
    "add_rows",
    "embedding_bag",
    "take_rows",
]
