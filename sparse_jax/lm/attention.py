"""Attention over the recent words: a word is found again by the words that stood before it.

The key of a word is computed from its embedding and those of the two words before it, its value
from its embedding alone. So both are computed once for each place of a run, however many positions
look back at it.
A run's T positions look at W = C + T − 1 places, position t at the C from t on; `band` and
`unband` go between the two layouts without a gather.

References:
  Merity et al. 2016, "Pointer Sentinel Mixture Models": attention whose weights are probabilities
  of the words attended to; Olsson et al. 2022, "In-context Learning and Induction Heads": keys
  that hold the word before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.ops.fixed_order import add_bias, matmul_columns, repeat_row

BEFORE = 2  # words before a word that are part of its key


class Context(NamedTuple):
    """What the positions of S runs look at."""

    keys: jax.Array  # float32 [S, W, a], of root mean square 1
    values: jax.Array  # float32 [S, W, a]
    visible: jax.Array  # bool [S, T, recent], latest word last


def init(key: jax.Array, *, embed: int, hidden: int, width: int, recent: int) -> dict[str, Any]:
    """Weights. Both uses begin by doing nothing: `out` and `copy` are zeros.

    Args:
      key: PRNG key.
      embed: e, width of a word.
      hidden: width of the trunk.
      width: a, of keys and values.
      recent: places looked at.
    """

    def matrix(key: jax.Array, rows: int, columns: int) -> jax.Array:
        return jax.random.normal(key, (rows, columns), jnp.float32) * jnp.float32(rows**-0.5)

    keys = jax.random.split(key, 3)
    return {
        "key": matrix(keys[0], (1 + BEFORE) * embed, width),
        "value": matrix(keys[1], embed, width),
        "query": matrix(keys[2], hidden, width),
        "near": jnp.zeros(recent, jnp.float32),
        "out": jnp.zeros((width, hidden), jnp.float32),
        "copy": jnp.zeros((hidden, width), jnp.float32),
    }


def band(x: jax.Array, size: int) -> jax.Array:
    """Of each position the places it may look at: [S, T, W] gives [S, T, C], y_ti = x_t,t+i.

    Args:
      x: what each of T positions has to do with each of W = C + T − 1 places.
      size: C.

    Example:
      >>> band(jnp.arange(6).reshape(1, 2, 3), 2).tolist()
      [[[0, 1], [4, 5]]]
    """
    runs, length, places = x.shape
    flat = jnp.pad(x.reshape(runs, -1), ((0, 0), (0, length)))
    return flat.reshape(runs, length, places + 1)[:, :, :size]


def unband(x: jax.Array) -> jax.Array:
    """The inverse of `band`, zeros elsewhere: [S, T, C] gives [S, T, C + T − 1].

    Example:
      >>> unband(jnp.array([[[1, 2], [3, 4]]])).tolist()
      [[[1, 2, 0], [0, 3, 4]]]
    """
    runs, length, size = x.shape
    flat = jnp.pad(x, ((0, 0), (0, 0), (0, length))).reshape(runs, -1)
    return flat[:, :-length].reshape(runs, length, size + length - 1)


def latest(words: jax.Array, start: jax.Array, known: jax.Array, count: int) -> jax.Array:
    """Embeddings of the latest words of each position: [S, T, count · e], the last word last.

    Args:
      words: float32 [S, W, e].
      start: float32 [e], what stands for a word before the document's start.
      known: int32 [S, T], words of the document before each position.
      count: how many.
    """
    runs, length = known.shape
    last = words.shape[1] - length + 1
    absent = repeat_row(start, known.size).reshape(runs, length, -1)
    columns = [
        jnp.where((known >= age)[..., None], words[:, last - age : last - age + length], absent)
        for age in range(count, 0, -1)
    ]
    return jnp.concatenate(columns, axis=2)


def look_back(
    params: dict[str, Any], words: jax.Array, start: jax.Array, known: jax.Array
) -> Context:
    """Keys and values of all places; arguments as for `latest`."""
    runs, places, width = words.shape
    length, recent = known.shape[1], params["near"].size
    size = places - length + 1
    age = jnp.arange(size, 0, -1, dtype=jnp.int32)
    # Words of its document before each place; for the history they follow from the first target.
    since = jnp.concatenate([known[:, :1] - age[None, :], known[:, :-1]], axis=1)
    absent = repeat_row(start, runs * places).reshape(words.shape)
    parts = [words]
    for back in range(1, 1 + BEFORE):
        moved = jnp.pad(words, ((0, 0), (back, 0), (0, 0)))[:, :places]
        parts.append(jnp.where((since >= back)[..., None], moved, absent))
    keys = matmul_columns(jnp.concatenate(parts, 2).reshape(runs * places, -1), params["key"])
    keys = keys * jax.lax.rsqrt(jnp.mean(keys * keys, 1, keepdims=True) + jnp.float32(1e-6))
    values = matmul_columns(words.reshape(-1, width), params["value"])
    return Context(
        keys.reshape(runs, places, -1),
        values.reshape(runs, places, -1),
        age[None, None, -recent:] <= known[..., None],
    )


def scores(context: Context, queries: jax.Array, near: jax.Array) -> jax.Array:
    """q · k / sqrt(a) + near of the recent words: [S·T, a] and [recent] give [S, T, recent]."""
    runs, length, recent = context.visible.shape
    width = context.keys.shape[2]
    q = (queries * jnp.float32(width**-0.5)).reshape(runs, length, width)
    size = context.keys.shape[1] - length + 1
    found = band(jnp.einsum("sta,swa->stw", q, context.keys), size)[:, :, -recent:]
    return add_bias(found.reshape(-1, recent), near).reshape(found.shape)


def weights(context: Context, logits: jax.Array) -> jax.Array:
    """Softmax over the visible words, [S, T, recent]; zeros where there are none."""
    shares = jax.nn.softmax(jnp.where(context.visible, logits, jnp.float32(-1e9)), axis=2)
    return jnp.where(context.visible, shares, jnp.float32(0))


def read(params: dict[str, Any], context: Context, h: jax.Array) -> jax.Array:
    """What attention adds to the normalized hidden vectors: [S·T, hidden]."""
    length, recent = context.visible.shape[1:]
    logits = scores(context, matmul_columns(h, params["query"]), params["near"])
    shares = weights(context, logits)
    older = context.keys.shape[1] - length + 1 - recent
    wide = unband(jnp.pad(shares, ((0, 0), (0, 0), (older, 0))))
    mixed = jnp.einsum("stw,swa->sta", wide, context.values)
    return matmul_columns(mixed.reshape(h.shape[0], -1), params["out"])
