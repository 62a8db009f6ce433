"""A small decoder-only transformer in JAX: the dense baseline of the language-model scripts.

Pre-normalized blocks with rotary positions (Su et al. 2021), attention that never crosses a
document's start, and, so that wide vocabularies don't starve it of steps, the same sampled softmax
over active sets as the model it is held against. It is scored with the full softmax.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import RowSparse, take_rows, unique_ids
from sparse_jax.layers import active, sampled_softmax
from sparse_jax.lm import batching, evaluate
from sparse_jax.lm.text import DOCUMENT, Corpus
from sparse_jax.ops import fixed_order
from sparse_jax.optim import apply_scaled


@dataclasses.dataclass(frozen=True)
class Shape:
    """Static sizes."""

    vocabulary: int
    width: int = 192
    depth: int = 3
    heads: int = 4
    window: int = 128  # tokens a run


def init(key: jax.Array, shape: Shape, share: jax.Array) -> dict[str, Any]:
    """Parameters; `share` float32 [V] is the unigram distribution, where the bias begins."""
    keys = iter(jax.random.split(key, 2 + 4 * shape.depth))
    d = shape.width

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        size = jnp.float32(scale / rows**0.5)
        return jax.random.normal(next(keys), (rows, columns), jnp.float32) * size

    residual = 1.0 / (2 * shape.depth) ** 0.5
    return {
        "embed": matrix(shape.vocabulary, d, shape.vocabulary**0.5),
        "out": matrix(shape.vocabulary, d, (shape.vocabulary / d) ** 0.5),
        "bias": jnp.log(share),
        "trunk": {
            "blocks": [
                {
                    "qkv": matrix(d, 3 * d),
                    "merge": matrix(d, d, residual),
                    "up": matrix(d, 4 * d),
                    "down": matrix(4 * d, d, residual),
                    "gain": jnp.ones((2, d), jnp.float32),
                }
                for _ in range(shape.depth)
            ],
            "gain": jnp.ones(d, jnp.float32),
        },
    }


def _norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + jnp.float32(1e-6))
    return x * jnp.broadcast_to(gain, x.shape)


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions on [S, H, T, e]."""
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-np.arange(half, dtype=np.float32) / half)
    angle = np.arange(x.shape[2], dtype=np.float32)[:, None] * speed
    cos, sin = (jnp.broadcast_to(f(angle), (*x.shape[:2], *angle.shape)) for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def hidden(trunk: Any, x: jax.Array, tokens: jax.Array, shape: Shape) -> jax.Array:
    """From embeddings [S, T, d] of tokens [S, T] to what predicts the token after each."""
    runs, length, d = x.shape
    document = jnp.cumsum(tokens == DOCUMENT, axis=1)
    place = jnp.arange(length)
    visible = (place[:, None] >= place[None, :])[None] & (
        document[:, :, None] == document[:, None, :]
    )
    for block in trunk["blocks"]:
        qkv = (_norm(x, block["gain"][0]) @ block["qkv"]).reshape(runs, length, 3, shape.heads, -1)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))
        scores = jnp.einsum("shtd,shud->shtu", _rotate(q), _rotate(k))
        scores = scores * jnp.float32((d // shape.heads) ** -0.5)
        weights = jax.nn.softmax(jnp.where(visible[:, None], scores, jnp.float32(-1e9)), axis=-1)
        mixed = jnp.einsum("shtu,shud->sthd", weights, v).reshape(runs, length, d)
        x = x + mixed @ block["merge"]
        x = x + jax.nn.gelu(_norm(x, block["gain"][1]) @ block["up"]) @ block["down"]
    return _norm(x, trunk["gain"])


def make_step(
    tx: Any, shape: Shape, *, lr: float, active_size: int, counts: np.ndarray
) -> Callable[..., Any]:
    """step(params, opt_state, key, tokens [S, T+1], rate) → (params, opt_state, key, loss).

    active_size 0 is the full softmax.
    """
    share = (jnp.asarray(counts, jnp.float32) + 0.5) / jnp.float32(counts.sum() + counts.size / 2)
    popular = jnp.asarray(np.argsort(-counts, kind="stable")[:512], jnp.int32)
    vocabulary = shape.vocabulary

    def step(
        params: Any, opt_state: Any, key: jax.Array, tokens: jax.Array, rate: jax.Array
    ) -> Any:
        inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)
        key, draw = jax.random.split(key)
        if active_size:
            chosen = sampled_softmax.draw_words(draw, targets, share, popular, size=active_size)
        else:
            every = active.full_set(targets, num_rows=vocabulary)
            none = jnp.zeros((targets.size, vocabulary), jnp.float32)
            chosen = sampled_softmax.SampledWords(every, every.positions[: targets.size], none)
        words, at, _ = unique_ids(
            inputs.reshape(-1), num_rows=vocabulary, size=min(inputs.size, vocabulary)
        )

        def loss(gathered: Any) -> jax.Array:
            embed, out, bias, trunk = gathered
            x = take_rows(embed, at).reshape(*inputs.shape, -1)
            h = hidden(trunk, x, inputs, shape).reshape(targets.size, -1)
            return -sampled_softmax.sampled_log_softmax(h, chosen, out, bias).mean()

        value, (embed, out, bias, trunk) = jax.value_and_grad(loss)(
            (
                take_rows(params["embed"], words),
                take_rows(params["out"], chosen.words.ids),
                take_rows(params["bias"], chosen.words.ids),
                params["trunk"],
            )
        )
        grads = {
            "embed": RowSparse(words, embed, num_rows=vocabulary, distinct=True),
            "out": RowSparse(chosen.words.ids, out, num_rows=vocabulary, distinct=True),
            "bias": RowSparse(chosen.words.ids, bias, num_rows=vocabulary, distinct=True),
            "trunk": trunk,
        }
        updates, opt_state = tx.update(grads, opt_state, params)
        params = apply_scaled(params, updates, -rate * jnp.float32(lr))
        return params, opt_state, key, value

    return step


def score(params: Any, corpus: Corpus, shape: Shape, *, extra_bits: float = 0.0) -> evaluate.Score:
    """Exact score: each token has at least half a window before it, where its document does."""
    length = shape.window // 2

    @functools.partial(jax.jit)
    def nats(params: Any, tokens: jax.Array, since: jax.Array) -> jax.Array:
        x = params["embed"][tokens[:, :-1]]
        h = hidden(params["trunk"], x, tokens[:, :-1], shape)[:, -length:].reshape(since.size, -1)
        logits = fixed_order.matmul_rows(h, params["out"]) + params["bias"][None, :]
        targets = tokens[:, -length:].reshape(-1, 1)
        own = jnp.take_along_axis(logits, targets, axis=1)[:, 0]
        cost = jax.nn.logsumexp(logits, axis=1) - own
        return jnp.where(since.reshape(-1) >= 0, cost, jnp.float32(0))

    total = 0.0
    for batch in batching.batches(corpus, 8, length, length + 1):
        total += float(np.asarray(nats(params, batch.tokens, batch.since), np.float64).sum())
    return evaluate.Score(total, corpus.tokens.size, corpus.num_bytes, extra_bits)
