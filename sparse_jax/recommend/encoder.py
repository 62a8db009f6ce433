"""A causal attention encoder over a history, trained over active sets of items.

Each position of a history predicts the next one. A step looks up the rows of the items that its
batch holds and of an active set: all targets of the batch and uniform negatives, with the softmax
corrected for how likely a negative was to be drawn (logQ). So a step's time depends on the batch
and on the active set, not on the number of items, and so does the update, which is by rows. Items
have one row each, for input and output.

References:
  Kang and McAuley, "Self-Attentive Sequential Recommendation", 2018: the encoder.
  Bengio and Senécal, "Adaptive Importance Sampling", 2008: the correction.
  Petrov and Macdonald, "gSASRec", 2023; Klenitskiy and Vasilev, 2023: why one uncorrected negative
  a position, as SASRec had it, is not enough, and many are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import layers
from sparse_jax.data.histories import Histories
from sparse_jax.layers import active
from sparse_jax.recommend.model import Shape

Params = dict[str, Any]

_MASKED = -1e9  # of a place that must not be looked at


def init(key: jax.Array, num_items: int, *, shape: Shape) -> Params:
    """Parameters of one encoder.

    Args:
        key: PRNG key.
        num_items: N.
        shape: its sizes.

    Returns:
        A tree of float32 arrays: "items" [N, d], "bias" [N], "places" [L, d], "scale" [d], and
        "blocks", each with "attention" [d, 3d], "out" [d, d], "up" [d, 2d], "down" [2d, d] and two
        scales [d].
    """
    d = shape.width
    keys = iter(jax.random.split(key, 2 + 4 * shape.blocks))

    def normal(*sizes: int, scale: float) -> jax.Array:
        return jax.random.normal(next(keys), sizes) * jnp.float32(scale)

    params: Params = {
        "items": normal(num_items, d, scale=0.02),
        "bias": jnp.zeros(num_items),
        "places": normal(shape.length, d, scale=0.02),
        "scale": jnp.ones(d),
        "blocks": {},
    }
    for block in range(shape.blocks):
        params["blocks"][str(block)] = {
            "attention": normal(d, 3 * d, scale=d**-0.5),
            "out": normal(d, d, scale=d**-0.5),
            "up": normal(d, 2 * d, scale=d**-0.5),
            "down": normal(2 * d, d, scale=(2 * d) ** -0.5),
            "attention_scale": jnp.ones(d),
            "up_scale": jnp.ones(d),
        }
    return params


def encode(
    params: Params, inputs: jax.Array, *, shape: Shape, key: jax.Array | None = None, dropout: float
) -> jax.Array:
    """What the encoder makes of each position and those before it.

    Args:
        params: of `init`.
        inputs: int32 [B, L], in order of time; -1 is padding, in front.
        shape: its sizes.
        key: PRNG key of dropout; None for none.
        dropout: share of units that are dropped.

    Returns:
        float32 [B, L, d].
    """
    keys = iter([None] * 99 if key is None else jax.random.split(key, 1 + 2 * shape.blocks))
    x = layers.look_up(params["items"], inputs) + params["places"][None]
    x = _drop(x, next(keys), dropout)
    seen = jnp.tril(jnp.ones((1, shape.length, shape.length), bool)) & (inputs >= 0)[:, None, :]
    for block in range(shape.blocks):
        part = params["blocks"][str(block)]
        inside = _attend(part, _normed(x, part["attention_scale"]), seen, shape.heads)
        x = x + _drop(inside, next(keys), dropout)
        inside = jax.nn.gelu(_normed(x, part["up_scale"]) @ part["up"]) @ part["down"]
        x = x + _drop(inside, next(keys), dropout)
    return _normed(x, params["scale"])


def _attend(part: Params, x: jax.Array, seen: jax.Array, heads: int) -> jax.Array:
    """Causal attention, [B, L, d]."""
    split = (*x.shape[:2], heads, x.shape[2] // heads)
    query, key, value = (t.reshape(split) for t in jnp.split(x @ part["attention"], 3, axis=-1))
    scores = jnp.einsum("bihd,bjhd->bhij", query, key) * jnp.float32(split[-1] ** -0.5)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, jnp.float32(_MASKED)), axis=-1)
    return jnp.einsum("bhij,bjhd->bihd", weights, value).reshape(x.shape) @ part["out"]


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer normalisation without a shift."""
    x = x - x.mean(axis=-1, keepdims=True)
    return (
        x
        * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + jnp.float32(1e-6))
        * scale[None, None]
    )


def _drop(x: jax.Array, key: jax.Array | None, dropout: float) -> jax.Array:
    if key is None or not dropout:
        return x
    limit = round(256 * dropout)
    kept = jax.random.bits(key, x.shape, jnp.uint8) >= jnp.uint8(limit)
    return jnp.where(kept, x * jnp.float32(256 / (256 - limit)), jnp.float32(0))


def loss(
    params: Params,
    windows: jax.Array,
    key: jax.Array,
    *,
    shape: Shape,
    dropout: float,
    max_targets: int,
    active_size: int,
) -> jax.Array:
    """Mean softmax loss of the next item at each position, over an active set.

    Args:
        params: of `init`.
        windows: int32 [B, L + 1], in order of time; -1 is padding, in front.
        key: PRNG key of dropout and negatives.
        shape: sizes of the encoder.
        dropout: share of units that are dropped.
        max_targets: P, positions that are learned from; those beyond are left out.
        active_size: A, items that the softmax is over.

    Returns:
        float32 [].
    """
    dropped, drawn = jax.random.split(key)
    inputs, targets = windows[:, :-1], windows[:, 1:].reshape(-1)
    hidden = encode(params, inputs, shape=shape, key=dropped, dropout=dropout)
    learned = (inputs.reshape(-1) >= 0) & (targets >= 0)
    (places,) = jnp.nonzero(learned, size=max_targets, fill_value=-1)
    labels = jnp.where(places >= 0, targets[places], -1).astype(jnp.int32)
    num_items = params["bias"].shape[0]
    chosen = active.shared_set(drawn, labels, size=min(active_size, num_items), num_rows=num_items)
    losses, _ = layers.softmax_head(
        hidden.reshape(-1, shape.width)[places],
        layers.look_up(params["items"], chosen.ids, distinct=True),
        layers.look_up(params["bias"], chosen.ids, distinct=True),
        jnp.arange(max_targets, dtype=jnp.int32),
        chosen.positions,
        mask=chosen.mask,
        log_inclusion=active.log_inclusion(chosen, num_rows=num_items),
    )
    return losses.sum() / jnp.maximum((labels >= 0).sum(dtype=jnp.float32), jnp.float32(1))


def summaries(encoders: tuple[Params, ...], inputs: jax.Array, *, shape: Shape) -> jax.Array:
    """What all encoders make of whole histories, side by side and scaled for their mean.

    Args:
        encoders: T parameter trees.
        inputs: int32 [B, L].
        shape: their sizes.

    Returns:
        float32 [B, T·d].
    """
    share = jnp.float32(1 / len(encoders))
    found = [encode(p, inputs, shape=shape, dropout=0.0)[:, -1] * share for p in encoders]
    return jnp.concatenate(found, axis=1)


def last_events(histories: Histories, length: int, size: int) -> np.ndarray:
    """The last events of each user in rows.

    Args:
        histories: of n users.
        length: of a row.
        size: rows, at least n.

    Returns:
        int32 [size, length], the latest last; -1 is padding.
    """
    found = np.full((size, length), -1, np.int32)
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    ages = histories.offsets[1:][users] - 1 - np.arange(len(users))
    kept = ages < length
    found[users[kept], length - 1 - ages[kept]] = histories.items[kept]
    return found
