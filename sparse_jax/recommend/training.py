"""Training of one encoder on histories."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from sparse_jax import layers
from sparse_jax.data.histories import Histories
from sparse_jax.optim import rowwise
from sparse_jax.optim.rates import cosine
from sparse_jax.recommend import encoder
from sparse_jax.recommend.presets import Preset, Progress
from sparse_jax.runtime import loop
from sparse_jax.runtime.interrupt import Interrupt


def windows(histories: Histories, length: int) -> np.ndarray:
    """Histories cut into pieces whose every event but the first is predicted.

    Args:
        histories: of n users.
        length: L, events that the encoder reads.

    Returns:
        int32 [W, L + 1], -1 in front. A user of more events has several pieces, the last with the
        latest events; those of one event have none. A piece begins with the event that the one
        before it ends with.
    """
    lengths = histories.lengths
    pieces = np.maximum(-(-(lengths - 1) // length), 0)
    users = np.repeat(np.arange(histories.num_users), pieces)
    first = np.cumsum(pieces) - pieces
    back = (np.arange(len(users)) - first[users]) * length  # events behind the piece
    ends = histories.offsets[1:][users] - back
    places = ends[:, None] - np.arange(length + 1, 0, -1)[None, :]
    inside = places >= histories.offsets[:-1][users][:, None]
    return np.where(inside, histories.items[np.maximum(places, 0)], -1).astype(np.int32)


def train(
    histories: Histories,
    *,
    preset: Preset,
    seed: int,
    interrupt: Interrupt | None = None,
    progress: Progress,
    stage: str,
) -> encoder.Params:
    """An encoder's parameters.

    Args:
        histories: of n users.
        preset: sizes, steps and rates.
        seed: of its first weights, batches, dropout and negatives.
        interrupt: stops early.
        progress: hears how far it is.
        stage: what it is called there.
    """
    rows = windows(histories, preset.shape.length)
    size = min(preset.batch_size, max(len(rows), 1))
    steps = preset.num_steps(max(len(rows) // size, 1))
    key = jax.random.key(seed)
    key, first = jax.random.split(key)
    params = encoder.init(first, histories.num_items, shape=preset.shape)
    if not len(rows):
        return params
    tx = rowwise(optax.adam(cosine(preset.learning_rate, steps=steps), b2=0.99))
    step = make_step(tx, preset, max_targets(rows, size))
    outcome = loop.train(
        (params, tx.init(params), key),
        step,
        functools.partial(batches, rows, size, seed),
        steps=steps,
        interrupt=interrupt,
        look=lambda look: progress(stage, look.step, steps, f"loss {look.metrics['loss']:.3f}"),
    )
    trained: encoder.Params = outcome.state[0]
    return trained


def max_targets(rows: np.ndarray, size: int) -> int:
    """Positions of a batch that hold a target, with room for four deviations.

    Args:
        rows: int32 [W, L + 1].
        size: B.
    """
    counts = (rows[:, 1:] >= 0).sum(axis=1)
    counts -= rows[:, 0] < 0
    room = size * counts.mean() + 4 * counts.std() * size**0.5
    return min(-(-int(room + 1) // 64) * 64, size * (rows.shape[1] - 1))


def batches(rows: np.ndarray, size: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Batches without end, each epoch in an order of its own.

    Args:
        rows: int32 [W, L + 1].
        size: B, at most W; the last rows of an epoch that fill no batch are left out.
        seed: of the orders.
        start: steps that are done.
    """
    each = len(rows) // size
    epoch = start // each
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        for place in range(start - epoch * each, each):
            yield rows[order[place * size : (place + 1) * size]]
        epoch, start = epoch + 1, (epoch + 1) * each


def make_step(tx: optax.GradientTransformation, preset: Preset, most: int) -> Any:
    loss = functools.partial(
        encoder.loss,
        shape=preset.shape,
        dropout=preset.dropout,
        max_targets=most,
        active_size=preset.active,
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: jax.Array) -> tuple[Any, loop.LossMetrics]:
        params, opt_state, key = state
        key, drawn = jax.random.split(key)
        value, grads = layers.value_and_grad(loss)(params, batch, drawn)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, key), loop.LossMetrics(value)

    return step
