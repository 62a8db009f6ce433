"""The training step of `step` with its rows on many shards: uniform negatives, softmax.

Each shard holds a share of the rows of both tables, with their optimizer's slots, and a share of
the batch. What they exchange are ids, sums of the hidden width and five numbers an example: bytes
that depend on the batch and the width, and not on how many labels or features there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from sparse_jax.data import Batch
from sparse_jax.ops.fixed_order import weighted_total
from sparse_jax.optim import apply_updates
from sparse_jax.rows import RowSparse, take_rows
from sparse_jax.sharding import AXIS, Dealing, bags, on_shards, parts
from sparse_jax.sharding.reducing import gather_together, total_for_all
from sparse_jax.xmc.network import Params, activate

_EMBEDDING_SCALE = 0.1  # times d^(-1/2), as in `network`
_BLOCK = 4096  # rows drawn at a time
_TABLES = ("embedding", "output", "output_bias")
_SPECS = {name: jax.P(AXIS) for name in _TABLES} | {"hidden_bias": jax.P()}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a step does. Hashable, so that it can be static under `jit`."""

    features: Dealing  # of the embedding's rows
    labels: Dealing  # of the output layer's
    hidden: int
    active: int  # A, places of the active set of all shards
    active_here: int  # of them that one shard may hold
    distinct_features: int  # most distinct features of a batch of all shards that one shard holds
    dropout: float = 0.5  # of hidden units
    seed: int = 0  # of first weights, active sets and dropout

    def __post_init__(self) -> None:
        for name in ("hidden", "active", "active_here", "distinct_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: must be at least 0 and below 1")
        if self.features.shards != self.labels.shards:
            raise ValueError(
                f"shards = {self.features.shards} and {self.labels.shards}: must be the same for "
                "features and labels"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that lives across steps; tables and their slots are split by rows."""

    step: jax.Array  # int32 []
    params: Params
    opt_state: Any


class Metrics(NamedTuple):
    """What a step tells; scalars, the same on all shards."""

    loss: jax.Array  # float32; mean over the examples of all shards
    p_at_1: jax.Array  # float32; over the active set, which flatters: for the progress bar
    dropped_labels: jax.Array  # int32; label entries that found no place
    overflow_active: jax.Array  # int32; active rows that found no place on their shard
    overflow_features: jax.Array  # int32; distinct features that found no place on theirs


def active_here(active: int, shards: int, labels: int = 0) -> int:
    """Places of an active set on one shard that suffice but for chances below 10^-8.

    Args:
      active: A, of all shards.
      shards: S.
      labels: of them that one shard may have to hold for the batch's labels, where these are dealt
        by range; by hash they lie anywhere, as the rest does.

    Example:
      >>> active_here(1024, 1), active_here(1024, 4)
      (1024, 361)
    """
    mean = max(active - labels, 0) / shards
    return min(active, labels + int(np.ceil(mean + 6 * mean**0.5 + 9)))


def specs(tx: optax.GradientTransformation, config: Config) -> State:
    """How a state lies on the mesh: `jax.P` for each of its arrays."""
    shapes = jax.eval_shape(lambda: _first(tx, config, jnp.int32(0)))
    slots = optax.tree_utils.tree_map_params(
        tx,
        lambda _, spec: spec,
        shapes.opt_state,
        _SPECS,
        transform_non_params=lambda _: jax.P(),
    )
    return State(jax.P(), dict(_SPECS), slots)  # type: ignore[arg-type]


def init(tx: optax.GradientTransformation, mesh: Mesh, *, config: Config) -> State:
    """A state at step 0. Each row is drawn by its id: the same for any number of shards.

    Args:
      tx: `optim.rowwise(...)` or `optim.fused.adam(...)`.
      mesh: of `sharding.mesh`.
      config: what a step does.

    Returns:
      A `State`.
    """

    def here() -> State:
        return _first(tx, config, jax.lax.axis_index(AXIS))

    made = on_shards(here, mesh, in_specs=(), out_specs=specs(tx, config))
    state: State = jax.jit(made)()
    return state


def _first(tx: optax.GradientTransformation, config: Config, shard: jax.Array) -> State:
    features, outputs = jax.random.split(jax.random.key(config.seed))
    scale, bound = _EMBEDDING_SCALE * config.hidden**-0.5, config.hidden**-0.5

    def draw(key: jax.Array, dealing: Dealing, one: Callable[[jax.Array], jax.Array]) -> jax.Array:
        block = min(_BLOCK, dealing.per_shard)

        def row(i: jax.Array) -> jax.Array:
            drawn = one(jax.random.fold_in(key, jnp.maximum(i, 0)))
            return jnp.where(i < 0, jnp.float32(0), drawn)

        def fill(number: jax.Array, table: jax.Array) -> jax.Array:
            # The last block begins early enough to be whole, over rows of the one before.
            start = jnp.minimum(number * block, dealing.per_shard - block)
            ids = dealing.ids_of(shard, start + jnp.arange(block, dtype=jnp.int32))
            return jax.lax.dynamic_update_slice_in_dim(table, jax.vmap(row)(ids), start, 0)

        # Some at a time: the random bits of all rows would take as much as the table.
        empty = jnp.zeros((dealing.per_shard, config.hidden), jnp.float32)
        return jax.lax.fori_loop(0, -(-dealing.per_shard // block), fill, empty)

    def normal(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (config.hidden,), jnp.float32) * jnp.float32(scale)

    def uniform(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (config.hidden,), jnp.float32, minval=-bound, maxval=bound)

    params = {
        "embedding": draw(features, config.features, normal),
        "hidden_bias": jnp.zeros(config.hidden, jnp.float32),
        "output": draw(outputs, config.labels, uniform),
        "output_bias": jnp.zeros(config.labels.per_shard, jnp.float32),
    }
    return State(jnp.zeros((), jnp.int32), params, tx.init(params))


def place_batches(batches: Sequence[Batch], mesh: Mesh) -> Batch:
    """One batch of each shard that this process holds, as one batch on the mesh.

    Args:
      batches: in the order of this process's shards, all of one shape on all processes.
      mesh: of `sharding.mesh`.

    Returns:
      A `Batch` of arrays [S·n], split.

    Raises:
      ValueError: if there are more or fewer batches than this process has shards.
    """
    sharding = NamedSharding(mesh, jax.P(AXIS))
    devices = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    if len(batches) != len(devices):
        raise ValueError(f"batches = {len(batches)}: must be {len(devices)}, a shard's each")

    def one(*leaves: Any) -> jax.Array:
        pieces = [jax.device_put(x, d) for x, d in zip(leaves, devices, strict=True)]
        shape = (mesh.size * leaves[0].shape[0], *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return jax.tree.map(one, *batches)


def make_step(
    tx: optax.GradientTransformation, mesh: Mesh, *, config: Config
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The training step, jitted, its state donated.

    Args:
      tx: as in `init`.
      mesh: of `sharding.mesh`.
      config: what a step does.

    Returns:
      step(state, batch) -> (state, metrics), with batches of `place_batches`.
    """
    lies = specs(tx, config)
    step = on_shards(
        lambda state, batch: _step(tx, config, state, batch),
        mesh,
        in_specs=(lies, jax.P(AXIS)),
        out_specs=(lies, jax.P()),
    )
    return jax.jit(step, donate_argnums=0)


def _step(
    tx: optax.GradientTransformation, config: Config, state: State, batch: Batch
) -> tuple[State, Metrics]:
    """On one shard. It waits for the others four times: for the batch, bags, softmax, gradient."""
    params, size = state.params, batch.row_mask.shape[0]
    first = jax.lax.axis_index(AXIS) * jnp.int32(size)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    drawn, dropped = jax.random.split(key)
    # Which row a feature is, each shard finds out for its own points.
    batch = dataclasses.replace(batch, feature_ids=config.features.row_of(batch.feature_ids))
    everyones = _gather_batch(batch, first)
    entries = bags.entries_here(
        everyones.feature_ids,
        everyones.feature_rows,
        everyones.feature_values,
        config.features,
        num_segments=size,
    )
    per_shard = config.features.per_shard
    distinct = bags.distinct_rows(entries, per_shard=per_shard, size=config.distinct_features)
    bag, overflow = total_for_all(bags.partial_bags(params["embedding"], entries), distinct.lost)
    hidden, pull_hidden = jax.vjp(
        lambda bag, bias: _drop(activate(bag, bias), dropped, config.dropout),
        bag,
        params["hidden_bias"],
    )
    found = parts.active_set(
        drawn,
        everyones.label_ids,
        everyones.label_rows,
        config.labels,
        size=min(config.active, config.labels.num_rows),
        capacity=config.active_here,
        num_examples=hidden.shape[0],
    )
    bias = take_rows(params["output_bias"], found.slots)
    head, pull = jax.vjp(
        lambda h, w, b: parts.softmax_head(
            h, w, b, everyones.label_rows, found.positions, found.label_counts
        ),
        hidden,
        take_rows(params["output"], found.slots),
        jnp.where(found.slots >= 0, bias, -jnp.inf),
    )
    examples = jnp.maximum(jnp.sum(everyones.row_mask, dtype=jnp.int32), 1).astype(jnp.float32)
    # As in `step`: halfway between the labels of an example sharing one vote and having one each.
    weight = jnp.sqrt(everyones.label_counts.astype(jnp.float32)) / examples
    no_gradient: Any = np.zeros(head.hit.shape, jax.dtypes.float0)
    grad_hidden, grad_rows, grad_ends = pull(type(head)(weight, no_gradient))
    grad_bag, grad_bias = pull_hidden(grad_hidden)
    outputs = (found.slots, config.labels.per_shard)
    sparse = {
        "embedding": bags.gradient_here(grad_bag, entries, distinct, per_shard=per_shard),
        "hidden_bias": grad_bias,
        "output": RowSparse(outputs[0], grad_rows, num_rows=outputs[1], distinct=True),
        "output_bias": RowSparse(outputs[0], grad_ends, num_rows=outputs[1], distinct=True),
    }
    updates, opt_state = tx.update(sparse, state.opt_state, params)
    moved = State(
        step=state.step + jnp.int32(1),
        params=apply_updates(params, updates, key),
        opt_state=opt_state,
    )
    hits = jnp.sum(head.hit & everyones.row_mask, dtype=jnp.int32).astype(jnp.float32)
    entries_in = jnp.sum(found.label_counts, dtype=jnp.int32)
    return moved, Metrics(
        loss=weighted_total(weight * head.loss),
        p_at_1=hits / examples,
        dropped_labels=jnp.sum(everyones.label_ids >= 0, dtype=jnp.int32) - entries_in,
        overflow_active=found.overflow,
        overflow_features=overflow,
    )


def _gather_batch(batch: Batch, first: jax.Array) -> Batch:
    """The batches of all shards as one, in one exchange; examples without a place have no labels.

    Args:
      batch: of this shard.
      first: int32 [], the number of its first example among those of all shards.
    """
    feature_ids, feature_rows, values, label_ids, label_rows, counts = gather_together(
        batch.feature_ids,
        batch.feature_rows + first,
        batch.feature_values,
        batch.label_ids,
        batch.label_rows + first,
        jnp.where(batch.row_mask, batch.label_counts, -1),
    )
    return Batch(
        feature_ids=feature_ids,
        feature_rows=feature_rows,
        feature_values=values,
        label_ids=label_ids,
        label_rows=label_rows,
        label_counts=jnp.maximum(counts, 0),
        row_mask=counts >= 0,
    )


def _drop(hidden: jax.Array, key: jax.Array, dropout: float) -> jax.Array:
    """Dropout by the example's number in the batch of all shards, however it is dealt."""
    if dropout == 0:
        return hidden
    examples = jnp.arange(hidden.shape[0], dtype=jnp.int32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(examples)
    kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - dropout, hidden.shape[1:]))(keys)
    return jnp.where(kept, hidden * jnp.float32(1 / (1 - dropout)), jnp.float32(0))


def bytes_sent(config: Config, *, batch_size: int, entries: int, labels: int) -> int:
    """Bytes that one shard sends in a step, to all others together: a model of `make_step`.

    Args:
      config: of the step.
      batch_size: examples of a shard, B.
      entries: feature entries of a shard's batch, E.
      labels: label entries of a shard's batch, P.

    Returns:
      Bytes: (S − 1) · 4 · (3·E + 2·P + B + 4·B·d + 5·S·B + 1): ids, values and rows of entries;
      labels and how many an example has; bags and the gradient of hidden vectors, each summed and
      told to all; five numbers of the softmax for each example; a count.
    """
    shards, d = config.labels.shards, config.hidden
    words = 3 * entries + 2 * labels + batch_size
    words += 4 * batch_size * d + 5 * shards * batch_size + 1
    return 4 * words * (shards - 1)


def dealings(tx: optax.GradientTransformation, config: Config) -> State:
    """Which of a state's arrays are split, and how: a `Dealing`, or None."""
    by_name = {
        "embedding": config.features,
        "hidden_bias": None,
        "output": config.labels,
        "output_bias": config.labels,
    }
    shapes = jax.eval_shape(lambda: _first(tx, config, jnp.int32(0)))
    slots = optax.tree_utils.tree_map_params(
        tx,
        lambda _, name: by_name[name],
        shapes.opt_state,
        {name: name for name in by_name},
        transform_non_params=lambda _: None,
    )
    return State(None, dict(by_name), slots)  # type: ignore[arg-type]
