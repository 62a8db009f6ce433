"""`RowSparse`: a gradient or an update of some rows of a table, whose ids no tool can add up.

A pytree's leaves are numbers to whoever maps over it: `optax.global_norm` would square the ids, a
scale would multiply them. So they cross `jit` and `scan` as an array of a dtype that has no
arithmetic, the one JAX gives to random keys: such calls raise, and the dtype's name says what to
do instead. In the compiled program it is a reinterpretation of the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as jax_random

from sparse_jax.ops.whole import one_program
from sparse_jax.rows.bags import unique_ids
from sparse_jax.rows.tables import add_rows, check_ids

_HELP = "row ids: give the RowSparse to sparse_jax.rowwise or optim.tree"


def _no_key(*_: Any) -> Any:
    raise TypeError("the ids of a RowSparse are no random key")


@functools.cache
def _id_type() -> Any:
    """The dtype of ids within a pytree, under its name for JAX."""
    return jax_random.define_prng_impl(
        key_shape=(1,),
        seed=_no_key,
        split=_no_key,
        random_bits=_no_key,
        fold_in=_no_key,
        name="sparse_jax_row_ids",
        tag=_HELP,
    )


def _seal(ids: Any) -> Any:
    """int32 ids as an array without arithmetic; whatever else stands in their place as it is."""
    if getattr(ids, "dtype", None) != jnp.int32 or not isinstance(ids, jax.Array | np.ndarray):
        return ids
    words = jax.lax.bitcast_convert_type(jnp.asarray(ids), jnp.uint32)
    return jax.random.wrap_key_data(words[..., None], impl=_id_type())


def _unseal(ids: Any) -> Any:
    """What `_seal` was given."""
    dtype = getattr(ids, "dtype", None)
    sealed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (sealed and isinstance(ids, jax.Array)):
        return ids
    return jax.lax.bitcast_convert_type(jax.random.key_data(ids)[..., 0], jnp.int32)


class RowSparse:
    """A table that is zero but for some rows: a gradient or an update of ``[num_rows, ...]``.

    ``dense[i]`` is the sum of ``rows[j]`` over all j with ``ids[j] == i``. ``params + row_sparse``
    is a scatter-add, so ``optax.apply_updates(params, updates)`` takes it as it is, in place under
    donation. The sum of two is their merge, a ``RowSparse`` of as many ids as both have.

    Give it to :func:`sparse_jax.optim.rowwise`, not to a bare Optax transformation, which maps over
    leaves: it would raise, since ids have no arithmetic there. Norms, scaling, accumulation and
    averages are in :mod:`sparse_jax.optim.tree`.

    Args:
      ids: int32 ``[n]``, padding ``-1``; with repeats, unless ``distinct``.
      rows: array ``[n, ...]``. Rows of padding ids are ignored.
      num_rows: ``N``, static.
      distinct: static; a promise that no id but padding comes twice, as `unique_ids` gives them.
        It saves a look at the ids in each step; a broken promise gives wrong sums.

    Example:
      >>> import jax.numpy as jnp
      >>> g = RowSparse(jnp.asarray([1, -1], jnp.int32), jnp.ones((2, 2)), num_rows=3)
      >>> (jnp.zeros((3, 2)) + 2.0 * g).tolist()
      [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
      >>> (g + g).merged().rows.tolist()
      [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    __slots__ = ("_ids", "distinct", "num_rows", "rows")
    _ids: Any
    rows: jax.Array
    num_rows: int
    distinct: bool

    # NumPy arrays on the left leave the sum to __radd__ instead of making an object array.
    __array_ufunc__ = None

    def __init__(
        self, ids: jax.Array, rows: jax.Array, num_rows: int, *, distinct: bool = False
    ) -> None:
        self._ids, self.rows, self.num_rows, self.distinct = _seal(ids), rows, num_rows, distinct

    @property
    def ids(self) -> jax.Array:
        """int32 ``[n]``."""
        return _unseal(self._ids)

    def __repr__(self) -> str:
        shown = f"ids={self.ids!r}, rows={self.rows!r}, num_rows={self.num_rows}"
        return f"RowSparse({shown}{', distinct=True' if self.distinct else ''})"

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
          f: maps the rows ``[n, ...]``; where ids repeat it must be linear.

        Returns:
          A RowSparse with the rows that ``f`` returned.
        """
        return RowSparse(self._ids, f(self.rows), num_rows=self.num_rows, distinct=self.distinct)

    def merged(self) -> RowSparse:
        """The same with distinct ids, the rows of each summed in their order.

        Returns:
          A RowSparse of as many ids; what is left of them is padding, with rows of zeros. In a
          compiled step it costs a look at the ids, and no more where they are distinct already.

        Raises:
          TypeError: if ids are not int32.
          ValueError: if they have more than one dimension.
        """
        ids = self.ids
        check_ids("ids", ids)
        if self.distinct:
            return self
        if ids.shape[0] < 2:
            return RowSparse(ids, self.rows, num_rows=self.num_rows, distinct=True)
        found, rows = _merge(ids, self.rows, num_rows=self.num_rows)
        return RowSparse(found, rows, num_rows=self.num_rows, distinct=True)

    def to_dense(self) -> jax.Array:
        """The whole table. Costs O(num_rows): for tests and small tables.

        Returns:
          The table ``[num_rows, ...]``.
        """
        return self._added_to(jnp.zeros(self.shape, self.dtype))

    def _added_to(self, table: Any) -> jax.Array:
        merged = self.merged()
        return _add(table, merged.ids, merged.rows)

    def __add__(self, other: Any) -> Any:
        if not hasattr(other, "shape"):
            return NotImplemented
        if tuple(other.shape) != self.shape:
            raise ValueError(
                f"cannot add a RowSparse of shape {self.shape} to an array of shape "
                f"{tuple(other.shape)}: they don't broadcast; give num_rows of that table."
            )
        if isinstance(other, RowSparse):
            ids = jnp.concatenate([self.ids, other.ids])
            return RowSparse(ids, jnp.concatenate([self.rows, other.rows]), self.num_rows)
        if other.dtype == jnp.bfloat16:
            raise TypeError(
                "cannot add rows to a bfloat16 table by +: most steps are below half of its last "
                "place and would be lost; use optim.apply_updates(params, updates, key), which "
                "rounds at random"
            )
        return self._added_to(other)

    __radd__ = __add__

    def __mul__(self, scale: Any) -> RowSparse:
        if isinstance(scale, RowSparse) or np.ndim(scale) != 0:
            return NotImplemented
        return self.map(lambda rows: rows * jnp.asarray(scale).astype(rows.dtype))

    __rmul__ = __mul__


_add = one_program()(add_rows)


@one_program("num_rows")
def _merge(ids: jax.Array, rows: jax.Array, *, num_rows: int) -> tuple[jax.Array, jax.Array]:
    """(distinct ids, sums of their rows), as they are where they are distinct already."""

    def merge() -> tuple[jax.Array, jax.Array]:
        count = ids.shape[0]
        found, place, _ = unique_ids(ids, num_rows=num_rows, size=count)
        place = jnp.where(place < 0, count, place)
        return found, jnp.zeros_like(rows).at[place].add(rows, mode="drop")

    return jax.lax.cond(_repeats(ids, num_rows), merge, lambda: (ids, rows))


def _repeats(ids: jax.Array, num_rows: int) -> jax.Array:
    """Whether an id in [0, num_rows) comes twice, bool []."""
    valid = (ids >= 0) & (ids < num_rows)
    last = jnp.where(valid, ids, num_rows)
    ascending = jnp.all((last[1:] > last[:-1]) | (last[1:] == num_rows))

    def look() -> jax.Array:
        found = unique_ids(ids, num_rows=num_rows, size=1)[2]
        return found < jnp.sum(valid, dtype=jnp.int32)

    return jax.lax.cond(ascending, lambda: jnp.zeros((), bool), look)


def _flatten(x: RowSparse) -> tuple[tuple[Any, Any], tuple[int, bool]]:
    return (x._ids, x.rows), (x.num_rows, x.distinct)


def _flatten_with_keys(x: RowSparse) -> tuple[Any, tuple[int, bool]]:
    keys = map(jax.tree_util.GetAttrKey, ("ids", "rows"))
    children, static = _flatten(x)
    return tuple(zip(keys, children, strict=True)), static


def _unflatten(static: tuple[int, bool], children: Any) -> RowSparse:
    """Of whatever stands in place of arrays: JAX fills trees with other things, too."""
    found = object.__new__(RowSparse)
    found._ids, found.rows = children
    found.num_rows, found.distinct = static
    return found


jax.tree_util.register_pytree_with_keys(RowSparse, _flatten_with_keys, _unflatten, _flatten)
