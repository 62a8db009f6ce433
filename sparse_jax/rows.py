"""Rows of large tables: gather, scatter, sparse updates, unique ids, embedding bags.

A *table* is an array ``[N, ...]`` with so many rows that a step may touch only some of them.
This module names those rows by ``int32`` ids, with ``-1`` for padding, and knows nothing of the
optimizer (see :mod:`sparse_jax.optim`) or of how the ids were found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import rows as ops_rows
from sparse_jax.ops import unique
from sparse_jax.ops.bag import weighted_sum
from sparse_jax.ops.bf16 import add_bf16, take_bf16

__all__ = [
    "RowSparse",
    "add_rows",
    "embedding_bag",
    "take_rows",
    "unique_ids",
]

Combiner = Literal["sum", "mean", "sqrtn"]
_COMBINERS = ("sum", "mean", "sqrtn")


def check_ids(name: str, ids: Any) -> None:
    """Refuses anything but a one-dimensional int32 array, at trace time."""
    dtype = getattr(ids, "dtype", None)
    if dtype is None:
        raise TypeError(
            f"{name} must be an int32 array, got {type(ids).__name__}: "
            f"pass jnp.asarray({name}, jnp.int32)."
        )
    if dtype != jnp.int32:
        raise TypeError(
            f"{name} must be int32, got {dtype}: with x64 off JAX would cut wider ids short in "
            f"silence, and arithmetic on a RowSparse (outside rowwise) turns its ids into floats. "
            f"Check the range on the host, then cast with {name}.astype('int32')."
        )
    if len(ids.shape) != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(ids.shape)}.")


def _scatter_index(ids: jax.Array, num_rows: int) -> jax.Array:
    """Ids for a scatter with mode="drop": padding goes past the end, each to a place of its own.

    Distinct places keep the promise of ``unique_indices=True`` true for padding as well.
    """
    ids = jnp.asarray(ids)
    past_end = num_rows + jnp.arange(ids.shape[0], dtype=jnp.int32)
    return jnp.where((ids >= 0) & (ids < num_rows), ids, past_end)


def draw_rows(
    draw: Callable[[jax.Array, tuple[int, int]], jax.Array],
    key: jax.Array,
    num_rows: int,
    dim: int,
    *,
    block: int = 1 << 16,
) -> jax.Array:
    """A table of random rows, drawn in blocks: its random bits are never all in memory at once.

    Args:
      draw: draw(key, shape) -> array of that shape, such as `jax.random.normal`.
      key: PRNG key.
      num_rows: N.
      dim: d.
      block: rows drawn together; a table of no more is the single call draw(key, (N, d)).

    Returns:
      [N, d], of the dtype drawn.

    Example:
      >>> draw_rows(jax.random.normal, jax.random.key(0), 5, 2, block=2).shape
      (5, 2)
    """
    if num_rows <= block:
        return draw(key, (num_rows, dim))
    keys = jax.random.split(key, -(-num_rows // block))
    dtype = jax.eval_shape(lambda key: draw(key, (block, dim)), key).dtype
    # XLA:CPU would convert all of a bfloat16 table at each block: it is filled as words.
    stored = jnp.uint16 if dtype == jnp.bfloat16 else dtype

    def fill(number: jax.Array, table: jax.Array) -> jax.Array:
        # The last block begins early enough to be whole, over rows of the one before.
        start = jnp.minimum(number * block, num_rows - block)
        rows = jax.lax.bitcast_convert_type(draw(keys[number], (block, dim)), stored)
        return jax.lax.dynamic_update_slice_in_dim(table, rows, start, 0)

    table = jax.lax.fori_loop(0, len(keys), fill, jnp.zeros((num_rows, dim), stored))
    return jax.lax.bitcast_convert_type(table, dtype)


def take_rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Gathers rows of a table; padding gives zeros.

    ``out[i] = table[ids[i]]`` if ``0 <= ids[i] < N`` else ``0``.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, ``-1`` for padding. Repeats are allowed.

    Returns:
      Array ``[n, ...]`` of the table's dtype, but float32 of a bfloat16 table. With kernels, that
      one isn't differentiable in the table: differentiate with respect to the rows.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if ``ids`` is not one-dimensional.

    Example:
      >>> import jax.numpy as jnp
      >>> take_rows(jnp.asarray([[1.0], [2.0]]), jnp.asarray([1, -1], jnp.int32)).tolist()
      [[2.0], [0.0]]
    """
    check_ids("ids", ids)
    ids = jnp.asarray(ids)
    table = jnp.asarray(table)
    if table.dtype == jnp.bfloat16:
        return take_bf16(table, ids)
    # Negative indices would count from the end, even with mode="fill".
    index = jnp.where(ids < 0, table.shape[0], ids)
    return table.at[index].get(mode="fill", fill_value=0)


def slice_rows(table: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """Rows start … start + size − 1, float32 [size, ...]; start is int32 [], size static."""
    if table.dtype == jnp.bfloat16:
        return take_rows(table, start + jnp.arange(size, dtype=jnp.int32))
    return jax.lax.dynamic_slice_in_dim(table, start, size)


def _check_rows(table: Any, ids: Any, rows: Any) -> None:
    check_ids("ids", ids)
    expected = (*ids.shape, *table.shape[1:])
    if tuple(rows.shape) != expected:
        raise ValueError(
            f"rows must have shape {expected} for {ids.shape[0]} ids into a table of shape "
            f"{tuple(table.shape)}, got {tuple(rows.shape)}."
        )


def add_rows(
    table: jax.Array, ids: jax.Array, rows: jax.Array, *, seed: jax.Array | None = None
) -> jax.Array:
    """Adds rows into a table: ``table[ids[i]] += rows[i]``, in place under donation.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, distinct apart from padding ``-1``, which is dropped.
      rows: array ``[n, ...]``, cast to the table's dtype.
      seed: uint32 ``[]`` for a bfloat16 table: its sums are then made of float32 rows and rounded
        by :func:`sparse_jax.rounding.stochastic_round`, lest small steps be lost.

    Returns:
      The new table ``[N, ...]``.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if the shapes don't fit.

    Example:
      >>> import jax.numpy as jnp
      >>> add_rows(jnp.zeros((2, 1)), jnp.asarray([1, -1], jnp.int32), jnp.ones((2, 1))).tolist()
      [[0.0], [1.0]]
    """
    _check_rows(table, ids, rows)
    table = jnp.asarray(table)
    if seed is not None and table.dtype == jnp.bfloat16:
        return add_bf16(table, jnp.asarray(ids), jnp.asarray(rows).astype(jnp.float32), seed)
    index = _scatter_index(ids, table.shape[0])
    return ops_rows.add_rows(table, index, jnp.asarray(rows).astype(table.dtype))


def set_rows(table: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Writes rows into a table: ``table[ids[i]] = rows[i]``, in place under donation.

    Args:
      table: array ``[N, ...]``.
      ids: int32 ``[n]``, distinct apart from padding ``-1``, which is dropped.
      rows: array ``[n, ...]``, cast to the table's dtype.

    Returns:
      The new table ``[N, ...]``.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if the shapes don't fit.

    Example:
      >>> import jax.numpy as jnp
      >>> set_rows(jnp.zeros((2, 1)), jnp.asarray([0, -1], jnp.int32), jnp.ones((2, 1))).tolist()
      [[1.0], [0.0]]
    """
    _check_rows(table, ids, rows)
    table = jnp.asarray(table)
    index = _scatter_index(ids, table.shape[0])
    return table.at[index].set(
        jnp.asarray(rows).astype(table.dtype), mode="drop", unique_indices=True
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RowSparse:
    """A table that is zero but for some rows: a gradient or an update of ``[num_rows, ...]``.

    ``dense[ids[i]] = rows[i]``, all other rows zero. ``params + row_sparse`` is a scatter-add,
    so ``optax.apply_updates(params, updates)`` takes it as it is, in place under donation.

    Give it to :func:`sparse_jax.optim.rowwise`, not to a bare Optax transformation: that would
    map over the ids as well as the rows.

    Attributes:
      ids: int32 ``[n]``, distinct apart from padding ``-1``.
      rows: array ``[n, ...]``. Rows of padding ids are ignored.
      num_rows: ``N``, static.

    Example:
      >>> import jax.numpy as jnp
      >>> g = RowSparse(jnp.asarray([1, -1], jnp.int32), jnp.ones((2, 2)), num_rows=3)
      >>> (jnp.zeros((3, 2)) + 2.0 * g).tolist()
      [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
    """

    ids: jax.Array
    rows: jax.Array
    num_rows: int = dataclasses.field(metadata=dict(static=True))

    # NumPy arrays on the left leave the sum to __radd__ instead of making an object array.
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table: ``(num_rows, ...)``."""
        return (self.num_rows, *self.rows.shape[1:])

    @property
    def dtype(self) -> Any:
        """Dtype of the rows."""
        return self.rows.dtype

    def map(self, f: Callable[[jax.Array], jax.Array]) -> RowSparse:
        """Applies a function to the rows and keeps the ids.

        Args:
          f: maps the rows ``[n, ...]``.

        Returns:
          A RowSparse with the rows that ``f`` returned.
        """
        return RowSparse(self.ids, f(self.rows), num_rows=self.num_rows)

    def to_dense(self) -> jax.Array:
        """The whole table. Costs O(num_rows): for tests and small tables.

        Returns:
          The table ``[num_rows, ...]``.
        """
        return add_rows(jnp.zeros(self.shape, self.dtype), self.ids, self.rows)

    def __add__(self, table: Any) -> jax.Array:
        if isinstance(table, RowSparse) or not hasattr(table, "shape"):
            return NotImplemented
        if tuple(table.shape) != self.shape:
            raise ValueError(
                f"cannot add a RowSparse of shape {self.shape} to an array of shape "
                f"{tuple(table.shape)}: they don't broadcast; give num_rows of that table."
            )
        return add_rows(table, self.ids, self.rows)

    __radd__ = __add__

    def __mul__(self, scale: Any) -> RowSparse:
        if isinstance(scale, RowSparse) or np.ndim(scale) != 0:
            return NotImplemented
        return self.map(lambda rows: rows * jnp.asarray(scale).astype(rows.dtype))

    __rmul__ = __mul__


def unique_ids(
    ids: jax.Array, *, num_rows: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distinct ids of a batch in ascending order, and where each entry went.

    ``unique[inverse[i]] == ids[i]`` for every entry whose ``inverse`` is not ``-1``.

    Args:
      ids: int32 ``[n]``. Padding ``-1``, and any other value outside ``[0, num_rows)``, is left
        out.
      num_rows: rows of the table the ids point into, static.
      size: length of ``unique``, static.

    Returns:
      ``(unique, inverse, count)``: int32 ``[size]`` ascending with ``-1`` at the end; int32
      ``[n]`` with ``-1`` for padding; int32 ``[]``, the number of distinct ids. If ``count`` is
      more than ``size``, the largest ids found no place and their ``inverse`` is ``-1``: compare
      the two.

    Raises:
      TypeError: if ``ids`` is not an int32 array.
      ValueError: if ``ids`` is not one-dimensional, or ``num_rows`` or ``size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> u, inv, n = unique_ids(jnp.asarray([7, -1, 2, 7], jnp.int32), num_rows=9, size=3)
      >>> u.tolist(), inv.tolist(), int(n)
      ([2, 7, -1], [1, -1, 0, 1], 2)
    """
    check_ids("ids", ids)
    for name, value in (("num_rows", num_rows), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    return unique.unique_ids(jnp.asarray(ids), num_rows=num_rows, size=size)


def embedding_bag(
    rows: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_segments: int,
    combiner: Combiner = "sum",
) -> jax.Array:
    """Weighted sums of rows over ragged bags, one bag an example.

    With ``E(b)`` the entries ``j`` of bag ``b``::

        out[b] = sum_{j in E(b)} weights[j] * rows[positions[j]] / norm(b)
        norm   = 1 | sum_j weights[j] | sqrt(sum_j weights[j]^2)    (sum | mean | sqrtn)

    Differentiable in ``rows`` and ``weights``; identical bits at any thread count. An empty bag,
    or one whose norm is zero, gives zeros.

    Args:
      rows: float ``[u, d]``, usually the rows that :func:`unique_ids` named, gathered once.
      positions: int32 ``[nnz]`` into ``rows``; ``-1`` for padding.
      segments: int32 ``[nnz]``, the bag of each entry; ascending is fastest, any order is right.
      weights: float ``[nnz]``, or None for ones.
      num_segments: number of bags, static.
      combiner: ``"sum"``, ``"mean"`` or ``"sqrtn"``.

    Returns:
      Array ``[num_segments, d]`` of the rows' dtype; narrow ones are summed in float32.

    Raises:
      TypeError: if ``positions`` or ``segments`` is not an int32 array.
      ValueError: if the lengths differ, or the combiner is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
      >>> positions = jnp.asarray([0, 1, 1, -1], jnp.int32)
      >>> segments = jnp.asarray([0, 0, 1, 1], jnp.int32)
      >>> embedding_bag(rows, positions, segments, num_segments=2, combiner="mean").tolist()
      [[2.0, 3.0], [3.0, 4.0]]

    References:
      The combiners are those of TensorFlow's ``tf.nn.embedding_lookup_sparse``.
    """
    if combiner not in _COMBINERS:
        raise ValueError(f"combiner must be one of {_COMBINERS}, got {combiner!r}.")
    check_ids("positions", positions)
    check_ids("segments", segments)
    if positions.shape != segments.shape:
        raise ValueError(
            f"positions and segments must have equal lengths, got {positions.shape[0]} and "
            f"{segments.shape[0]}."
        )
    if weights is not None and tuple(weights.shape) != tuple(positions.shape):
        raise ValueError(
            f"weights must have the shape of positions {tuple(positions.shape)}, got "
            f"{tuple(weights.shape)}."
        )
    rows, positions, segments = jnp.asarray(rows), jnp.asarray(positions), jnp.asarray(segments)
    given = rows.dtype
    if given in (jnp.bfloat16, jnp.float16):
        # A sum in bfloat16 stops at 256 ones: sums and gradients are taken in float32.
        rows = rows.astype(jnp.float32)
    valid = (positions >= 0) & (positions < rows.shape[0])
    valid &= (segments >= 0) & (segments < num_segments)
    if weights is None:
        w = valid.astype(rows.dtype)
    else:
        w = jnp.where(valid, jnp.asarray(weights).astype(rows.dtype), jnp.zeros((), rows.dtype))
    total = weighted_sum(rows, jnp.where(valid, positions, -1), segments, w, num_segments)
    if combiner == "sum":
        return total.astype(given)
    bag = jnp.where(valid, segments, num_segments)
    parts = w if combiner == "mean" else w * w
    norm = jnp.zeros(num_segments, rows.dtype).at[bag].add(parts, mode="drop")
    empty = norm == jnp.zeros((), norm.dtype)
    # Guard the denominator, not only the quotient, or the gradient of an empty bag is NaN.
    norm = jnp.where(empty, jnp.ones((), norm.dtype), norm)
    norm = norm if combiner == "mean" else jnp.sqrt(norm)
    mean = jnp.where(empty[:, None], jnp.zeros((), total.dtype), total / norm[:, None])
    return mean.astype(given)
