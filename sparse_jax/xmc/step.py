"""Training a one-hidden-layer classifier with a large output layer: state, step, schedule.

The network is that of `network`, its logits over the active set. The pieces are the library's own
and can be put together otherwise: see the README's example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparse_jax.data import Batch
from sparse_jax.layers import active, losses, softmax_head, sparse_dense
from sparse_jax.ops.active_sets import CANDIDATE
from sparse_jax.optim import apply_updates
from sparse_jax.retrieval import index
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.rows import RowSparse, take_rows, unique_ids
from sparse_jax.xmc.network import Params, activate, bag_features, bag_gradient, hidden_layer

Strategy = Literal["lsh", "uniform", "oracle", "dense"]
Mode = Literal["shared", "per_example"]
Correction = Literal["none", "logq", "lsh"]

STRATEGIES: tuple[Strategy, ...] = ("lsh", "uniform", "oracle", "dense")
MODES: tuple[Mode, ...] = ("shared", "per_example")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a step does. Hashable, so that it can be static under `jit`."""

    active: int = 1024
    strategy: Strategy = "lsh"
    mode: Mode = "shared"
    loss: Literal["softmax", "bce"] = "softmax"
    correction: Correction = "none"
    dropout: float = 0.5  # of hidden units
    distinct_features: int = 8192  # most distinct features of a batch
    max_labels: int = 64  # most labels of one example; per_example only
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("mode", self.mode, MODES),
            ("loss", self.loss, ("softmax", "bce")),
            ("correction", self.correction, ("none", "logq", "lsh")),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: must be one of {', '.join(known)}")
        if self.correction == "lsh" and self.strategy != "lsh":
            raise ValueError(f"correction = 'lsh' needs strategy = 'lsh', not {self.strategy!r}")
        if self.correction == "lsh" and self.mode == "per_example":
            raise ValueError("correction = 'lsh' needs mode = 'shared'")
        if self.active < 1:
            raise ValueError(f"active = {self.active}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: must be at least 0 and below 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that lives across steps; a pytree of arrays."""

    step: jax.Array  # int32 []
    params: Params
    opt_state: Any
    index: LshIndex | None  # None unless the strategy is "lsh"
    key: jax.Array


class StepMetrics(NamedTuple):
    """What a step tells; scalars."""

    loss: jax.Array  # float32; mean over the batch's examples
    p_at_1: jax.Array  # float32; over the active set, which flatters: for the progress bar
    dropped_labels: jax.Array  # int32; label entries that found no place in the active set
    dropped_features: jax.Array  # int32; distinct features that found no place
    feature_entries: jax.Array  # int32
    touched_features: jax.Array  # int32; rows of the embedding updated
    touched_labels: jax.Array  # int32; rows of the output layer updated


def init(
    key: jax.Array, params: Params, tx: optax.GradientTransformation, *, config: Config
) -> TrainState:
    """A state at step 0.

    Args:
      key: PRNG key of active sets and hash functions.
      params: as `network.init_params` makes them; not copied, so donating the state gives them up.
      tx: `optim.rowwise(...)`, or a plain Optax transformation where the strategy is "dense".
      config: what a step does.

    Returns:
      A `TrainState`.

    Raises:
      ValueError: if the strategy is "dense" and the tables aren't float32.
    """
    if config.strategy == "dense" and params["output"].dtype != jnp.float32:
        raise ValueError(
            f"strategy = 'dense' computes with whole tables, which are {params['output'].dtype}: "
            "give init_params dtype=jnp.float32, or choose another strategy"
        )
    key, drawn = jax.random.split(key)
    made = None
    if config.strategy == "lsh":
        made = index.init(drawn, params["output"], params["output_bias"], config=config.index)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        index=made,
        key=key,
    )


def make_step(
    tx: optax.GradientTransformation, *, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The training step, a pure function to `jit` with its first argument donated.

    Unless the strategy is "dense" or "oracle", nothing in it costs O(N·d).

    Args:
      tx: as in `init`.
      config: what a step does.

    Returns:
      step(state, batch) -> (state, metrics).

    Example:
      >>> from sparse_jax import optim
      >>> tx = optim.rowwise(optax.adam(1e-3))
      >>> step = jax.jit(make_step(tx, config=Config(strategy="uniform")), donate_argnums=0)
    """
    return _dense_step(tx, config) if config.strategy == "dense" else _sparse_step(tx, config)


def make_maintain(*, config: Config) -> Callable[[TrainState], TrainState]:
    """Re-hash and rebuild as scheduled: call it after each step, jitted, with donation."""

    def maintain(state: TrainState) -> TrainState:
        if state.index is None:
            return state
        kept = index.maintain(
            state.index,
            state.step,
            state.params["output"],
            state.params["output_bias"],
            config=config.index,
        )
        return dataclasses.replace(state, index=kept)

    return maintain


def make_multi_step(
    tx: optax.GradientTransformation, *, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """Several steps in one call: scans over stacked batches, then maintains the tables.

    Args:
      tx: as in `init`.
      config: what a step does.

    Returns:
      multi_step(state, batches) -> (state, metrics), batches and metrics with a leading axis.
    """
    step, maintain = make_step(tx, config=config), make_maintain(config=config)

    def multi_step(state: TrainState, batches: Batch) -> tuple[TrainState, StepMetrics]:
        state, metrics = jax.lax.scan(step, state, batches)
        return maintain(state), metrics

    return multi_step


def _sparse_step(
    tx: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        params = state.params
        key, drawn, dropped, rounding = jax.random.split(state.key, 4)
        features, positions, distinct = unique_ids(
            batch.feature_ids,
            num_rows=params["embedding"].shape[0],
            size=config.distinct_features,
        )
        hidden, pull_hidden = jax.vjp(
            lambda bag, bias: activate(bag, bias, dropout=config.dropout, key=dropped),
            _bag(params["embedding"], features, positions, batch),
            params["hidden_bias"],
        )
        lsh = None if state.index is None else index.observe(state.index, hidden)
        chosen = _choose(drawn, dataclasses.replace(state, index=lsh), batch, hidden, config)
        outputs, places = _output_rows(chosen, params["output"].shape[0])
        weights = take_rows(params["output"], outputs)
        bias = take_rows(params["output_bias"], outputs)
        logs = _log_inclusion(state, hidden, weights, bias, chosen, config)
        (loss, best), grads = jax.value_and_grad(
            lambda h, w, b: _loss(h, w, b, chosen, places, logs, batch, config),
            argnums=(0, 1, 2),
            has_aux=True,
        )(hidden, weights, bias)
        grad_bag, grad_bias = pull_hidden(grads[0])
        grad_rows = bag_gradient(grad_bag, positions, batch, size=config.distinct_features)
        sparse = {
            "embedding": RowSparse(features, grad_rows, num_rows=params["embedding"].shape[0]),
            "hidden_bias": grad_bias,
            "output": RowSparse(outputs, grads[1], num_rows=params["output"].shape[0]),
            "output_bias": RowSparse(outputs, grads[2], num_rows=params["output"].shape[0]),
        }
        updates, opt_state = tx.update(sparse, state.opt_state, params)
        state = TrainState(
            step=state.step + jnp.int32(1),
            params=apply_updates(params, updates, rounding),
            opt_state=opt_state,
            index=None if lsh is None else index.mark(lsh, outputs),
            key=key,
        )
        over = jnp.maximum(distinct - jnp.int32(config.distinct_features), 0)
        touched = jnp.sum(outputs >= 0, dtype=jnp.int32)
        return state, _metrics(
            loss, best, chosen, batch, touched, distinct - over, dropped_features=over
        )

    return step


def _dense_step(
    tx: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The dense network, for comparison: every row computed, and every row updated."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        num_labels = state.params["output"].shape[0]
        key, _, dropped = jax.random.split(state.key, 3)
        chosen = active.full_set(batch.label_ids, num_rows=num_labels)

        def loss_of(params: Params) -> tuple[jax.Array, jax.Array]:
            hidden = hidden_layer(
                params["embedding"], params["hidden_bias"], batch.feature_ids, batch,
                dropout=config.dropout, key=dropped,
            )  # fmt: skip
            weights, bias = params["output"], params["output_bias"]
            return _loss(hidden, weights, bias, chosen, None, None, batch, config)

        (loss, best), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        # Optax mixes ints and floats, which strict dtype promotion forbids; `rowwise` sees to it.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
        state = dataclasses.replace(
            state,
            step=state.step + jnp.int32(1),
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            key=key,
        )
        return state, _metrics(
            loss,
            best,
            chosen,
            batch,
            jnp.int32(num_labels),
            jnp.int32(state.params["embedding"].shape[0]),
            dropped_features=jnp.int32(0),
        )

    return step


def _bag(table: jax.Array, features: jax.Array, positions: jax.Array, batch: Batch) -> jax.Array:
    """The bags, of rows where they lie: a copy would be written and read once more."""
    if table.dtype == jnp.bfloat16:
        return bag_features(take_rows(table, features), positions, batch)
    return bag_features(table, jnp.where(positions < 0, -1, batch.feature_ids), batch)


def _choose(
    key: jax.Array, state: TrainState, batch: Batch, hidden: jax.Array, config: Config
) -> active.ActiveSet:
    """The active set, by strategy and mode."""
    num_rows = state.params["output"].shape[0]
    hidden = jax.lax.stop_gradient(hidden)
    found: jax.Array | None = None
    counts: jax.Array | None = None
    if config.strategy == "lsh":
        assert state.index is not None
        ranked = index.candidates(state.index, hidden, config=config.index)
        found, counts = ranked.ids, ranked.counts
    elif config.strategy == "oracle":
        weights = state.params["output"].astype(hidden.dtype)
        logits = sparse_dense(weights, state.params["output_bias"], hidden)
        most = min(config.index.max_candidates, num_rows)
        # Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all.
        found = jax.lax.optimization_barrier(jax.lax.top_k(logits, most))[1].astype(jnp.int32)
        counts = jnp.broadcast_to(most - jnp.arange(most, dtype=jnp.int32)[None, :], found.shape)
    if found is not None:
        found = jnp.where(batch.row_mask[:, None], found, -1)
    size = min(config.active, num_rows)
    if config.mode == "shared":
        return active.shared_set(key, batch.label_ids, found, counts, size=size, num_rows=num_rows)
    return active.per_example_sets(
        key,
        batch.label_ids,
        batch.label_rows,
        found,
        counts,
        batch_size=batch.row_mask.shape[0],
        max_labels=config.max_labels,
        size=size,
        num_rows=num_rows,
    )


def _output_rows(chosen: active.ActiveSet, num_rows: int) -> tuple[jax.Array, jax.Array | None]:
    """Distinct output rows, and where each place of a per-example set finds its row."""
    if chosen.ids.ndim == 1:
        return chosen.ids, None
    flat = chosen.ids.reshape(-1)
    rows, places, _ = unique_ids(flat, num_rows=num_rows, size=min(flat.size, num_rows))
    return rows, places.reshape(chosen.ids.shape)


def _loss(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    chosen: active.ActiveSet,
    places: jax.Array | None,
    logs: jax.Array | None,
    batch: Batch,
    config: Config,
) -> tuple[jax.Array, jax.Array]:
    """Mean loss of the batch's examples, and the place of each one's largest logit."""
    if places is not None:
        flat = places.reshape(-1)
        weights = take_rows(weights, flat).reshape(*places.shape, weights.shape[1])
        bias = take_rows(bias, flat).reshape(places.shape)
    if config.loss == "softmax" and places is None and (logs is None or logs.ndim == 1):
        per_example, best = softmax_head(
            hidden, weights, bias, batch.label_rows, chosen.positions,
            mask=chosen.mask, log_inclusion=logs,
        )  # fmt: skip
    else:
        logits = sparse_dense(weights, bias, hidden)
        function = (
            losses.softmax_cross_entropy
            if config.loss == "softmax"
            else losses.binary_cross_entropy
        )
        per_example = function(
            logits, batch.label_rows, chosen.positions, mask=chosen.mask, log_inclusion=logs
        )
        mask = chosen.mask if chosen.ids.ndim == 2 else chosen.mask[None, :]
        masked = jnp.where(jnp.broadcast_to(mask, logits.shape), logits, -jnp.inf)
        best = jnp.argmax(masked, axis=1).astype(jnp.int32)
    if config.loss == "softmax":
        # Halfway between the labels of an example sharing one vote and having one each.
        per_example = per_example * jnp.sqrt(batch.label_counts.astype(jnp.float32))
    examples = jnp.sum(batch.row_mask, dtype=jnp.int32).astype(jnp.float32)
    kept = jnp.where(batch.row_mask, per_example, jnp.float32(0))
    # A mean as a product: XLA:CPU may split a long sum by the number of threads.
    total = (kept[None, :] @ jnp.ones((kept.size, 1), jnp.float32))[0, 0]
    return total / jnp.maximum(examples, jnp.float32(1)), best


def _log_inclusion(
    state: TrainState,
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    chosen: active.ActiveSet,
    config: Config,
) -> jax.Array | None:
    """The correction, a constant to the gradient: [A] or [B, A], or None.

    Under "lsh" a candidate is in with the probability that the tables find its row for the example
    at hand; in a shared set other examples may have found it too, which this leaves out.
    """
    if config.correction == "none":
        return None
    logs = active.log_inclusion(chosen, num_rows=state.params["output"].shape[0])
    if config.correction == "logq" or state.index is None:
        return logs
    keys = _unit(transforms.keys(state.index.transform, weights, bias))
    queries = _unit(transforms.queries(state.index.transform, hidden))
    found = active.lsh_log_inclusion(
        queries @ keys.T, num_bits=config.index.num_bits, num_tables=config.index.num_tables
    )
    is_candidate = jnp.broadcast_to(chosen.sources == CANDIDATE, found.shape)
    return jnp.where(is_candidate, found, jnp.broadcast_to(logs, found.shape))


def _unit(x: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(norms, jnp.float32(1e-12))


def _metrics(
    loss: jax.Array,
    best: jax.Array,
    chosen: active.ActiveSet,
    batch: Batch,
    touched_labels: jax.Array,
    touched_features: jax.Array,
    *,
    dropped_features: jax.Array,
) -> StepMetrics:
    hit = (chosen.positions >= 0) & (best[batch.label_rows] == chosen.positions)
    hits = jnp.sum(hit, dtype=jnp.int32).astype(jnp.float32)
    examples = jnp.sum(batch.row_mask, dtype=jnp.int32).astype(jnp.float32)
    return StepMetrics(
        loss=loss,
        p_at_1=hits / jnp.maximum(examples, jnp.float32(1)),
        dropped_labels=chosen.dropped,
        dropped_features=dropped_features,
        feature_entries=jnp.sum(batch.feature_ids >= 0, dtype=jnp.int32),
        touched_features=touched_features,
        touched_labels=touched_labels,
    )
