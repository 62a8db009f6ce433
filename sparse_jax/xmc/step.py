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
from sparse_jax.ops import bf16
from sparse_jax.ops.fixed_order import weighted_total
from sparse_jax.ops.mach import Buckets
from sparse_jax.optim import fused
from sparse_jax.retrieval import index
from sparse_jax.retrieval.index import IndexConfig, LshIndex
from sparse_jax.rows import RowSparse, take_rows, unique_ids
from sparse_jax.xmc import mach
from sparse_jax.xmc.negatives import STRATEGIES, choose, log_inclusion, output_rows
from sparse_jax.xmc.network import Params, activate, bag_features, bag_gradient, hidden_layer

Mode = Literal["shared", "per_example"]
Correction = Literal["none", "logq", "lsh"]
Loss = Literal["softmax", "bce"]

MODES: tuple[Mode, ...] = ("shared", "per_example")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a step does. Hashable, so that it can be static under `jit`."""

    active: int = 1024
    strategy: str = "lsh"  # one of `negatives.STRATEGIES`
    mode: Mode = "shared"
    loss: Loss = "softmax"
    correction: Correction = "none"
    precision: str = "float32"  # of the output layer's products: see `layers.softmax_head`
    buckets: Buckets | None = None  # how labels share output rows; None: each has one
    dropout: float = 0.5  # of hidden units
    distinct_features: int = 8192  # most distinct features of a batch
    max_labels: int = 64  # most labels of one example; per_example only
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("strategy", self.strategy, tuple(STRATEGIES)),
            ("mode", self.mode, MODES),
            ("loss", self.loss, ("softmax", "bce")),
            ("correction", self.correction, ("none", "logq", "lsh")),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: must be one of {', '.join(known)}")
        if self.correction == "lsh" and not STRATEGIES[self.strategy].uses_index:
            raise ValueError(f"correction = 'lsh' needs strategy = 'lsh', not {self.strategy!r}")
        if self.correction == "lsh" and self.mode == "per_example":
            raise ValueError("correction = 'lsh' needs mode = 'shared'")
        ways = (self.strategy, self.mode, self.loss, self.correction)
        if self.buckets is not None and ways != ("uniform", "shared", "softmax", "none"):
            raise ValueError(
                "buckets need strategy = 'uniform', mode = 'shared', loss = 'softmax' and "
                f"correction = 'none', not {', '.join(map(repr, ways))}"
            )
        bf16.check_precision(self.precision)
        if self.precision == "mixed" and not self.in_one_piece:
            raise ValueError(
                "precision = 'mixed' needs mode = 'shared', loss = 'softmax' and no correction "
                "'lsh': other losses are computed in float32"
            )
        if self.active < 1:
            raise ValueError(f"active = {self.active}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: must be at least 0 and below 1")

    @property
    def in_one_piece(self) -> bool:
        """Whether the loss is that of `layers.softmax_head`."""
        return self.loss == "softmax" and self.mode == "shared" and self.correction != "lsh"


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
    strategy = STRATEGIES[config.strategy]
    if strategy.whole_layer and params["output"].dtype != jnp.float32:
        raise ValueError(
            f"strategy = 'dense' computes with whole tables, which are {params['output'].dtype}: "
            "give init_params dtype=jnp.float32, or choose another strategy"
        )
    key, drawn = jax.random.split(key)
    tables = None
    if strategy.uses_index:
        tables = index.init(drawn, params["output"], params["output_bias"], config=config.index)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        index=tables,
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
    whole = STRATEGIES[config.strategy].whole_layer
    return _dense_step(tx, config) if whole else _sparse_step(tx, config)


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
        chosen = choose(drawn, params, lsh, batch, hidden, config=config)
        outputs, places = output_rows(chosen, params["output"].shape[0], config.buckets)
        weights = take_rows(params["output"], outputs)
        bias = take_rows(params["output_bias"], outputs)
        logs = log_inclusion(params, lsh, hidden, weights, bias, chosen, config=config)
        (loss, best), grads = jax.value_and_grad(
            lambda h, w, b: _loss(h, w, b, chosen, places, logs, batch, config),
            argnums=(0, 1, 2),
            has_aux=True,
        )(hidden, weights, bias)
        grad_bag, grad_bias = pull_hidden(grads[0])
        grad_rows = bag_gradient(grad_bag, positions, batch, size=config.distinct_features)
        sparse = {
            "embedding": RowSparse(
                features, grad_rows, num_rows=params["embedding"].shape[0], distinct=True
            ),
            "hidden_bias": grad_bias,
            "output": RowSparse(
                outputs, grads[1], num_rows=params["output"].shape[0], distinct=True
            ),
            "output_bias": RowSparse(
                outputs, grads[2], num_rows=params["output"].shape[0], distinct=True
            ),
        }
        params, opt_state = fused.step(tx, sparse, state.opt_state, params, rounding)
        state = TrainState(
            step=state.step + jnp.int32(1),
            params=params,
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
                params["embedding"],
                params["hidden_bias"],
                batch.feature_ids,
                batch,
                dropout=config.dropout,
                key=dropped,
            )
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
    if places is not None and config.buckets is not None:
        weights, bias = mach.sum_rows(weights, bias, places)
        places = None
    elif places is not None:
        flat = places.reshape(-1)
        weights = take_rows(weights, flat).reshape(*places.shape, weights.shape[1])
        bias = take_rows(bias, flat).reshape(places.shape)
    if config.loss == "softmax" and places is None and (logs is None or logs.ndim == 1):
        per_example, best = softmax_head(
            hidden,
            weights,
            bias,
            batch.label_rows,
            chosen.positions,
            mask=chosen.mask,
            log_inclusion=logs,
            precision=config.precision,
        )
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
    return weighted_total(kept) / jnp.maximum(examples, jnp.float32(1)), best


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
