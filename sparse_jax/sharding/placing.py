"""Where the rows of a table lie: dealt to shards by range or by hash, and where to find them.

A table of N rows over S shards is an array [S·n, ...] with n = ceil(N / S): shard s holds rows
s·n … (s + 1)·n − 1 of it, on a device of its own. By range, the row of id i is row i; by hash it is
row π(i), π being a fixed permutation, which spreads the ids that a batch asks for often. What is
left over is zero and never asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparse_jax.ops import mixing
from sparse_jax.runtime.trees import aligned_empty
from sparse_jax.sharding import processes

AXIS = "shards"
"""The name of the mesh's one axis."""

By = Literal["range", "hash"]
_WAYS = ("range", "hash")
_TURNS = 3  # of the permutation; each mixes both halves of an id
_SEED = 0x5EED
_CHUNK = 1 << 15  # rows of all shards gathered at a time


def mesh(shards: int | None = None) -> Mesh:
    """One axis, "shards", over the devices of all processes, those of a process side by side.

    Args:
      shards: S, where one process has more devices than that; None takes all of them.

    Returns:
      A `jax.sharding.Mesh` for `jax.shard_map`.

    Raises:
      ValueError: if there are fewer devices, or a process would be left out.

    Example:
      >>> mesh(1).axis_names, mesh(1).size
      (('shards',), 1)
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(devices) if shards is None else shards
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"shards = {count}: must be from 1 to {len(devices)}, the devices there are; call "
            "sharding.initialize(shards=...) first, or jax.config.update('jax_num_cpu_devices', S)"
        )
    if jax.process_count() > 1 and count != len(devices):
        raise ValueError(
            f"shards = {count}: must be {len(devices)}, the devices of all processes; a process "
            "without a shard would wait for ever"
        )
    return Mesh(np.array(devices[:count]), (AXIS,))


def own_shards(mesh: Mesh) -> list[int]:
    """The shards of this process, by number."""
    here = jax.process_index()
    return [n for n, device in enumerate(mesh.devices.flat) if device.process_index == here]


def on_mesh(pieces: list[np.ndarray], mesh: Mesh) -> jax.Array:
    """Arrays of this process's shards, of equal shapes, as one of all shards."""
    devices = [mesh.devices.flat[shard] for shard in own_shards(mesh)]
    arrays = [jax.device_put(x, d) for x, d in zip(pieces, devices, strict=True)]
    shape = (mesh.size * len(pieces[0]), *pieces[0].shape[1:])
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def on_shards(function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any) -> Any:
    """`jax.shard_map` for the functions of `parts`.

    What they gather is the same on all shards, which JAX can't tell: its check is off.

    Args:
      function: of this shard's arrays.
      mesh: of `sharding.mesh`.
      in_specs: `jax.P("shards")` for what is split along its first axis, `jax.P()` for what all
        have; a tree, or one for all arguments.
      out_specs: the same of the results.

    Returns:
      The function of whole arrays.

    Example:
      >>> run = on_shards(lambda x: 2 * x, mesh(1), in_specs=jax.P(AXIS), out_specs=jax.P(AXIS))
      >>> run(jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


@dataclasses.dataclass(frozen=True)
class Dealing:
    """Which shard holds which row; static, so that it can be closed over or hashed.

    Args:
      num_rows: N.
      shards: S.
      by: "range" or "hash".

    Raises:
      ValueError: if a size is out of range, or the way unknown.

    Example:
      >>> dealing = Dealing(10, 4)
      >>> owners, slots = dealing.place(jnp.asarray([0, 9, -1], jnp.int32))
      >>> dealing.per_shard, owners.tolist(), slots.tolist()
      (3, [0, 3, -1], [0, 0, -1])
    """

    num_rows: int
    shards: int
    by: By = "range"

    def __post_init__(self) -> None:
        if self.by not in _WAYS:
            raise ValueError(f"by = {self.by!r}: must be one of {', '.join(_WAYS)}")
        if self.shards < 1:
            raise ValueError(f"shards = {self.shards}: must be at least 1")
        if not 1 <= self.num_rows < 2**31 - self.shards:
            raise ValueError(
                f"num_rows = {self.num_rows}: must be from 1 to {2**31 - self.shards - 1}; ids are "
                "int32"
            )

    @property
    def per_shard(self) -> int:
        """n, the rows of a shard, those left over included."""
        return -(-self.num_rows // self.shards)

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def place(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where rows are.

        Args:
          ids: int32 [...]; padding −1, and whatever else is no row.

        Returns:
          (shards, rows within them), int32 [...] both; −1 for padding.
        """
        at, n = self.row_of(ids), jnp.int32(self.per_shard)
        real = at >= 0
        return jnp.where(real, at // n, -1), jnp.where(real, at % n, -1)

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def row_of(self, ids: jax.Array) -> jax.Array:
        """Where rows are in the array of all shards.

        Args:
          ids: int32 [...]; padding −1, and whatever else is no row.

        Returns:
          int32 [...], from 0 to S·n − 1: shard · n + the row within it; −1 for padding.
        """
        real = (ids >= 0) & (ids < self.num_rows)
        at = jnp.where(real, ids, 0)
        if self.by == "hash":
            at = _permute(at, self.per_shard * self.shards, forth=True)
        return jnp.where(real, at, -1)

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def ids_of(self, shard: jax.Array, slots: jax.Array) -> jax.Array:
        """The inverse of `place`.

        Args:
          shard: int32 [] or [...].
          slots: int32 [...], rows within it; −1 is padding.

        Returns:
          int32 [...], ids; −1 for padding and for what is left over.
        """
        n = self.per_shard
        real = (slots >= 0) & (slots < n)
        at = jnp.where(real, slots, 0) + shard * jnp.int32(n)
        if self.by == "hash":
            at = _permute(at, n * self.shards, forth=False)
        return jnp.where(real & (at < self.num_rows), at, -1)


def _permute(x: jax.Array, size: int, *, forth: bool) -> jax.Array:
    """A fixed permutation of 0 … size − 1, or its inverse.

    Rounds of Feistel over two digits of bases a·b ≥ size permute all pairs of digits; what falls
    outside, less than one in √size, walks on until it is inside (Black & Rogaway 2002).
    """
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    tops, seed = (jnp.uint32(a), jnp.uint32(b)), jnp.uint32(_SEED)
    order = range(2 * _TURNS) if forth else reversed(range(2 * _TURNS))

    def once(x: jax.Array) -> jax.Array:
        digits = [x // tops[1], x % tops[1]]
        for turn in order_list:
            to = turn % 2
            mixed = mixing.priority(seed, jnp.uint32(turn), digits[1 - to]) % tops[to]
            step = mixed if forth else tops[to] - mixed
            digits[to] = (digits[to] + step) % tops[to]
        return digits[0] * tops[1] + digits[1]

    order_list = list(order)
    outside = lambda x: x >= jnp.uint32(size)  # noqa: E731
    return jax.lax.while_loop(
        lambda x: jnp.any(outside(x)),
        lambda x: jnp.where(outside(x), once(x), x),
        once(x.astype(jnp.uint32)),
    ).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShardedRows:
    """A table whose rows lie on shards; `shard_rows` makes it."""

    array: jax.Array  # [S·n, ...], sharded along its rows
    dealing: Dealing = dataclasses.field(metadata={"static": True})


def shard_rows(
    table: Any,
    mesh: Mesh,
    *,
    by: By = "range",
    num_rows: int | None = None,
) -> ShardedRows:
    """Deals the rows of a table to the shards of a mesh. Each process calls it with the same table.

    Args:
      table: array [N, ...]; or a function of int32 NumPy ids [m] that gives their rows [m, ...], so
        that no process need hold the whole: it is asked for one shard's rows at a time.
      mesh: of `sharding.mesh`.
      by: "range", neighbours together; or "hash", spread.
      num_rows: N, where the table is a function.

    Returns:
      `ShardedRows`.

    Raises:
      ValueError: if sizes are out of range, or other processes were given another table.
      TypeError: if the dtype is not of 32 bits or less: JAX would cut it short.

    Example:
      >>> rows = shard_rows(np.eye(3, dtype=np.float32), mesh(1), by="hash")
      >>> rows.array.shape, gather_rows(rows).tolist()[0]
      ((3, 3), [1.0, 0.0, 0.0])
    """
    count = num_rows if callable(table) else len(table)
    if count is None:
        raise ValueError("num_rows = None: must be given where the table is a function")
    dealing = Dealing(count, mesh.shape[AXIS], by)
    rows_of: Callable[[np.ndarray], Any] = table if callable(table) else _reader(table)
    first = np.asarray(rows_of(np.zeros(1, np.int32)))
    if first.dtype.itemsize > 4:
        raise TypeError(f"table is {first.dtype}: must be of 32 bits or less; cast it knowingly")
    shape = (dealing.per_shard * dealing.shards, *first.shape[1:])
    processes.agree("shard_rows", [count, by, list(shape), str(first.dtype)])

    def of_shard(index: Any) -> np.ndarray:
        start = index[0].start or 0
        shard = jnp.int32(start // dealing.per_shard)
        slots = jnp.arange(dealing.per_shard, dtype=jnp.int32)
        ids = np.asarray(dealing.ids_of(shard, slots))
        rows = np.array(rows_of(np.maximum(ids, 0)))
        rows[ids < 0] = 0
        return rows

    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return ShardedRows(jax.make_array_from_callback(shape, sharding, of_shard), dealing)


def _reader(table: Any) -> Callable[[np.ndarray], Any]:
    whole = np.asarray(table)
    return lambda ids: whole[ids]


def gather_rows(rows: ShardedRows) -> np.ndarray:
    """The whole table on every process, in order of id. All processes call it.

    Args:
      rows: of `shard_rows`.

    Returns:
      NumPy [N, ...].

    Example:
      >>> gather_rows(shard_rows(np.arange(3, dtype=np.int32), mesh(1))).tolist()
      [0, 1, 2]
    """
    found = gather_to_first(rows, everywhere=True)
    assert found is not None
    return found


def gather_to_first(rows: ShardedRows, *, everywhere: bool = False) -> np.ndarray | None:
    """The whole table on process 0, in order of id, some rows at a time. All processes call it.

    Args:
      rows: of `shard_rows`.
      everywhere: on all processes.

    Returns:
      NumPy [N, ...], in memory that `jax.device_put` shares; None on the others.

    Example:
      >>> gather_to_first(shard_rows(np.arange(3, dtype=np.int32), mesh(1))).tolist()
      [0, 1, 2]
    """
    array, dealing = rows.array, rows.dealing
    size = min(-(-_CHUNK // dealing.shards), dealing.per_shard)

    def some(mine: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.all_gather(jax.lax.dynamic_slice_in_dim(mine, start, size), AXIS)

    specs = (PartitionSpec(AXIS), PartitionSpec())
    take = jax.jit(
        on_shards(some, array.sharding.mesh, in_specs=specs, out_specs=PartitionSpec())  # type: ignore[attr-defined]
    )
    found = None
    if everywhere or jax.process_index() == 0:
        found = aligned_empty((dealing.num_rows, *array.shape[1:]), array.dtype)
    for start in range(0, dealing.per_shard, size):
        at = min(start, dealing.per_shard - size)  # the last begins early rather than reach over
        piece = take(array, np.int32(at))
        if found is not None:
            shards = jnp.arange(dealing.shards, dtype=jnp.int32)[:, None]
            slots = jnp.arange(at, at + size, dtype=jnp.int32)[None]
            ids = np.asarray(dealing.ids_of(shards, slots))
            found[ids[ids >= 0]] = np.asarray(piece)[ids >= 0]
    return found


class Load(NamedTuple):
    """How evenly a dealing spreads what is asked for; `imbalance` makes it."""

    busiest: float  # asked of the busiest shard, times the mean of all: 1 is even
    shares: np.ndarray  # float64 [S], of all that is asked for


def imbalance(dealing: Dealing, counts: Any) -> Load:
    """How evenly shards are asked for rows.

    Args:
      dealing: of the table.
      counts: [N], how often each row is asked for, such as label frequencies.

    Returns:
      `Load`.

    Raises:
      ValueError: if counts are not [N].

    Example:
      >>> power_law = 1 / np.arange(1, 10_001)
      >>> for by in ("range", "hash"):
      ...     print(by, round(imbalance(Dealing(10_000, 4, by), power_law).busiest, 2))
      range 3.43
      hash 1.13
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape != (dealing.num_rows,):
        raise ValueError(f"counts has shape {counts.shape}: must be [{dealing.num_rows}]")
    owners, _ = dealing.place(jnp.arange(dealing.num_rows, dtype=jnp.int32))
    asked = np.bincount(np.asarray(owners), weights=counts, minlength=dealing.shards)
    shares = asked / max(asked.sum(), np.finfo(np.float64).tiny)
    return Load(float(shares.max() * dealing.shards), shares)
