"""The summarizer: a convolution over the source, attention, and a softmax mixed with copying.

    p(w | source, words before) = λ_0 softmax(W q)_w + λ_1 Σ_l a_l [s_l = w]

The source is the text itself and, in segments behind it, the summaries of the training texts most
like it; a is a softmax over its positions, which sees each position's surroundings and whether the
words before it are the summary's latest. λ comes from the decoder. Each part sums to one, so p
does. A position of a summary is computed from the latest words and what has been used so far,
without recurrence: in training all positions of a summary run at once, in decoding all beams.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers import normalize
from sparse_jax.ops.fixed_order import add_bias, matmul_columns

Params = dict[str, Any]

_STATIC = 7  # features of a source position
_MATCH = 5  # features of a source position and the words written
_LEAST = -1e9


@dataclasses.dataclass(frozen=True)
class Config:
    """Static sizes."""

    size: int  # V, word ids
    outputs: int  # O, the first of them, which can be generated
    text: int = 72  # words of a text that are read
    neighbours: int = 3  # summaries of training texts that are read beside it
    neighbour: int = 12  # words of each
    summary: int = 16  # words of a summary, its end included
    window: int = 4  # latest words the decoder reads
    embed: int = 64
    read: int = 64  # width of a source position
    hidden: int = 128  # width of the decoder

    def __post_init__(self) -> None:
        if not 2 <= self.outputs <= self.size:
            raise ValueError(f"outputs = {self.outputs}: must be 2 to size = {self.size}")

    @property
    def source(self) -> int:
        """L, positions of a source."""
        return self.text + self.neighbours * self.neighbour


def init(key: jax.Array, *, config: Config) -> Params:
    """Tables `embed` [V, e], `copyable` [V], `out` [O, h], `bias` [O], and the dense trunk."""
    keys = iter(jax.random.split(key, 16))
    c, h, r = config, config.hidden, config.read

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns), jnp.float32) * jnp.float32(
            scale / rows**0.5
        )

    def block() -> Params:
        return {
            "up": matrix(h, 2 * h, 1.4),
            "up_bias": jnp.zeros(2 * h, jnp.float32),
            "down": matrix(2 * h, h, 0.5),
        }

    trunk: Params = {
        "place": jnp.zeros((c.source, r), jnp.float32),
        "read": matrix(3 * c.embed + _STATIC, r, 1.4),
        "near": matrix(3 * r, r, 0.7),
        "keys": matrix(r, 2 * r),
        "step": jnp.zeros((c.summary, h), jnp.float32),
        "words": matrix(c.window * c.embed, h),
        "whole": matrix(2 * r, h),
        "first": block(),
        "look": matrix(h, r + _MATCH),
        "found": matrix(r, h),
        "second": block(),
        "point": matrix(h, r + _MATCH),
        "mix": jnp.zeros((h, 2), jnp.float32),
        "query": matrix(h, h),
    }
    return {
        "embed": jax.random.normal(next(keys), (c.size, c.embed), jnp.float32),
        "copyable": jnp.zeros(c.size, jnp.float32),
        "out": jax.random.normal(next(keys), (c.outputs, h), jnp.float32) * jnp.float32(0.05),
        "bias": jnp.zeros(c.outputs, jnp.float32),
        "trunk": trunk,
    }


def _shift(x: jax.Array, by: int, *, config: Config) -> jax.Array:
    """x [B, L, ...] moved by positions within the text and each neighbour, zeros moving in."""

    def moved(part: jax.Array) -> jax.Array:
        zeros = jnp.zeros_like(part[..., : abs(by), :])
        if by > 0:
            return jnp.concatenate([zeros, part[..., :-by, :]], axis=-2)
        return jnp.concatenate([part[..., -by:, :], zeros], axis=-2)

    batch, width = x.shape[0], x.shape[-1]
    text = moved(x[:, : config.text])
    if not config.neighbours:
        return text
    rest = x[:, config.text :].reshape(batch, config.neighbours, config.neighbour, width)
    return jnp.concatenate([text, moved(rest).reshape(batch, -1, width)], axis=1)


def _static(source: jax.Array, cosines: jax.Array, *, config: Config) -> jax.Array:
    """What is known of each source position before anything is written, [B, L, 7]."""
    known = (source >= 0).astype(jnp.float32)
    same = (source[:, :, None] == source[:, None, :]).astype(jnp.float32) * known[:, None, :]
    inside = jnp.arange(config.source) < config.text
    in_text = jnp.sum(jnp.where(inside[None, None, :], same, jnp.float32(0)), axis=2)
    near = jnp.repeat(cosines, config.neighbour, axis=1)
    weight = jnp.concatenate([jnp.zeros((source.shape[0], config.text), jnp.float32), near], 1)
    in_near = jnp.sum(same * weight[:, None, :], axis=2)
    best = jnp.max(same * weight[:, None, :], axis=2)
    beside = jnp.where(inside[None, :], jnp.float32(0), jnp.float32(1))
    return jnp.stack(
        [
            known,
            jnp.log1p(in_text),
            (in_text > 0).astype(jnp.float32),
            in_near,
            best,
            weight,
            jnp.broadcast_to(beside, known.shape),
        ],
        axis=2,
    )


class Encoding(NamedTuple):
    """A batch of sources."""

    source: jax.Array  # int32 [B, L]
    before: jax.Array  # int32 [B, L, 2], the two words before each position; 0 where there is none
    copyable: jax.Array  # float32 [B, L]
    values: jax.Array  # float32 [B, L, r]
    keys: jax.Array  # float32 [B, L, 2 r], to look at and to copy by
    whole: jax.Array  # float32 [B, 2 r], of the text and of its neighbours


def encode(
    trunk: Params,
    words: jax.Array,
    copyable: jax.Array,
    source: jax.Array,
    cosines: jax.Array,
    *,
    config: Config,
) -> Encoding:
    """Reads sources.

    Args:
      trunk: `params["trunk"]` of `init`.
      words: float32 [B, L, e], their embeddings.
      copyable: float32 [B, L], of their words.
      source: int32 [B, L], word ids: the text, then each neighbour's summary; -1 = padding.
      cosines: float32 [B, K], of each neighbour's text with this one.
      config: static.
    """
    batch, length, r = source.shape[0], config.source, config.read
    known = (source >= 0)[..., None]
    words = jnp.where(known, words, jnp.float32(0))
    static = _static(source, cosines, config=config)
    around = [_shift(words, 1, config=config), words, _shift(words, -1, config=config), static]
    x = matmul_columns(jnp.concatenate(around, 2).reshape(batch * length, -1), trunk["read"])
    x = add_bias(x.reshape(batch, -1), trunk["place"].reshape(-1)).reshape(batch, length, r)
    x = jnp.where(known, jax.nn.relu(x), jnp.float32(0))
    around = [_shift(x, 2, config=config), x, _shift(x, -2, config=config)]
    more = matmul_columns(jnp.concatenate(around, 2).reshape(batch * length, -1), trunk["near"])
    x = normalize(x + jax.nn.relu(more.reshape(batch, length, r)))
    x = jnp.where(known, x, jnp.float32(0))
    keys = matmul_columns(x.reshape(batch * length, r), trunk["keys"]).reshape(batch, length, -1)
    count = jnp.maximum(jnp.sum(known.astype(jnp.float32), axis=1), jnp.float32(1))
    text = jnp.sum(x[:, : config.text], axis=1) / count
    near = jnp.sum(x[:, config.text :], axis=1) / count
    shifted = jnp.maximum(source, 0)[..., None]
    before = jnp.concatenate(
        [_shift(shifted, 1, config=config), _shift(shifted, 2, config=config)], axis=2
    )
    return Encoding(source, before, copyable, x, keys, jnp.concatenate([text, near], 1))


class Prefix(NamedTuple):
    """What stands before some positions of a summary; M of them, all of it or all beams."""

    latest: jax.Array  # int32 [B, M, window], the latest word last; END before the first word
    used: jax.Array  # float32 [B, M, L], how often each source position's word was written
    step: jax.Array  # int32 [B, M], words written


class Decoding(NamedTuple):
    """The distribution of the next words, but for the softmax over outputs."""

    query: jax.Array  # float32 [B, M, h]
    log_mix: jax.Array  # float32 [B, M, 2], of the softmax and of copying
    copying: jax.Array  # float32 [B, M, L], weights of source positions; sums to 1


def _match(encoded: Encoding, written: Prefix) -> jax.Array:
    """What is known of each source position and what was written, [B, M, L, 5]."""
    last, second = written.latest[:, :, -1, None], written.latest[:, :, -2, None]
    after = encoded.before[:, None, :, 0] == last
    both = after & (encoded.before[:, None, :, 1] == second)
    skipped = encoded.before[:, None, :, 1] == last
    found = [after, both, skipped, written.used > 0, written.used > 1]
    return jnp.stack(found, axis=3).astype(jnp.float32)


def _block(block: Params, x: jax.Array) -> jax.Array:
    inner = jax.nn.relu(add_bias(matmul_columns(normalize(x), block["up"]), block["up_bias"]))
    return x + matmul_columns(inner, block["down"])


def _attend(query: jax.Array, keys: jax.Array, match: jax.Array, bias: jax.Array) -> jax.Array:
    """softmax over L of (q k / sqrt(h) + q' match + bias): [B, M, L]."""
    width = keys.shape[2]
    scores = jnp.einsum("bmd,bld->bml", query[..., :width], keys) * jnp.float32(width**-0.5)
    scores = scores + jnp.einsum("bmlf,bmf->bml", match, query[..., width:])
    return jax.nn.softmax(scores + bias[:, None, :], axis=2)


def decode(
    trunk: Params,
    encoded: Encoding,
    words: jax.Array,
    written: Prefix,
    *,
    keep: jax.Array | None = None,
    config: Config,
) -> Decoding:
    """The next word's distribution at M positions of each summary.

    Args:
      trunk: `params["trunk"]` of `init`.
      encoded: of `encode`.
      words: float32 [B, M, window · e], embeddings of the latest words.
      written: what stands before the positions.
      keep: float32 [2, B·M, h] dropout of the hidden units, scaled; None = none.
      config: static.
    """
    batch, count = written.step.shape
    h, r, flat = config.hidden, config.read, batch * count
    x = matmul_columns(words.reshape(flat, -1), trunk["words"])
    x = x + trunk["step"].at[written.step.reshape(-1)].get(mode="clip")
    whole = matmul_columns(encoded.whole, trunk["whole"])
    x = x + jnp.broadcast_to(whole[:, None], (batch, count, h)).reshape(flat, h)
    x = _block(trunk["first"], x)
    match = _match(encoded, written)
    hidden = jnp.where(encoded.source >= 0, jnp.float32(0), jnp.float32(_LEAST))
    look = matmul_columns(normalize(x), trunk["look"]).reshape(batch, count, -1)
    weights = _attend(look, encoded.keys[..., :r], match, hidden)
    seen = jnp.einsum("bml,bld->bmd", weights, encoded.values).reshape(flat, r)
    x = x + matmul_columns(seen, trunk["found"])
    if keep is not None:
        x = x * keep[0]
    x = normalize(_block(trunk["second"], x))
    if keep is not None:
        x = x * keep[1]
    point = matmul_columns(x, trunk["point"]).reshape(batch, count, -1)
    copying = _attend(point, encoded.keys[..., r:], match, hidden + encoded.copyable)
    log_mix = jax.nn.log_softmax(matmul_columns(x, trunk["mix"]), axis=1).reshape(batch, count, 2)
    query = matmul_columns(x, trunk["query"]).reshape(batch, count, h)
    return Decoding(query, log_mix, copying)


def log_prob(
    decoded: Decoding, source: jax.Array, targets: jax.Array, log_softmax: jax.Array
) -> jax.Array:
    """log p of each target, [B, M].

    Args:
      decoded: of `decode`.
      source: int32 [B, L].
      targets: int32 [B, M].
      log_softmax: float32 [B, M], of the targets; -inf for those that are no outputs.
    """
    hit = source[:, None, :] == targets[:, :, None]
    copied = jnp.sum(jnp.where(hit, decoded.copying, jnp.float32(0)), axis=2)
    copied = jnp.exp(decoded.log_mix[..., 1]) * copied
    return jnp.logaddexp(
        decoded.log_mix[..., 0] + log_softmax, jnp.log(copied + jnp.float32(1e-30))
    )
