"""Softmax over an active set: in one piece, and over words drawn with the popular ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers import active, losses
from sparse_jax.layers.dense import SparseActivation, at_units, sparse_dense
from sparse_jax.ops import bf16, softmax
from sparse_jax.rows import take_rows


def softmax_head(
    hidden: jax.Array | SparseActivation,
    weights: jax.Array,
    bias: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    *,
    mask: jax.Array | None = None,
    log_inclusion: jax.Array | None = None,
    precision: str = "float32",
) -> tuple[jax.Array, jax.Array]:
    """`losses.softmax_cross_entropy` of `sparse_dense`, for a shared set, in one piece.

    loss_b = logsumexp_a(z_ba) − mean_{labels l of b} z_bl with z_ba = w_a · h_b + bias_a, less
    log_inclusion. The logits are visited once: loss, gradient and best place come out of the same
    pass, and nothing else of size B·A is made. Differentiable in hidden, weights and bias.

    Args:
      hidden: float32 [B, d]; or the units of a sparse layer, of d units, those active shared.
      weights: float32 [A, d], the active rows.
      bias: float32 [A].
      label_rows: int32 [P], the example of each label entry, ascending.
      positions: int32 [P], its place in the active set; −1 is padding.
      mask: bool [A] or None: the places that hold a row.
      log_inclusion: float32 [A] or None, subtracted from the logits (see `active`).
      precision: of the three products, static: "float32"; or "mixed", whose factors are rounded to
        bfloat16 and whose sums are float32. The gradients are then within about .3 % of the other
        ones. It pays for wide rows and large batches, where the processor multiplies bfloat16
        (`ops.bf16.has_products()`): .7 of the time at d = 512, .9 at 128 on a Zen 5.

    Returns:
      Losses, float32 [B], 0 for an example without a label in the set; and the place of the largest
      logit of each, int32 [B].

    Raises:
      ValueError: if the shapes don't fit together, or precision is another word.

    Example:
      >>> rows, positions = jnp.array([0], jnp.int32), jnp.array([1], jnp.int32)
      >>> weights, bias = jnp.zeros((4, 2)), jnp.array([0.0, 0.0, 0.0, 0.1])
      >>> loss, best = softmax_head(jnp.ones((1, 2)), weights, bias, rows, positions)
      >>> round(float(loss[0]), 3), int(best[0])
      (1.412, 3)
    """
    bf16.check_precision(precision)
    if isinstance(hidden, SparseActivation):
        if hidden.ids.ndim != 1:
            raise ValueError(
                f"hidden has active units {hidden.ids.shape}: must be [A], shared by the batch; "
                "for units of each example take losses.softmax_cross_entropy of sparse_dense"
            )
        _check_head(hidden.shape, weights, bias)
        weights, hidden = at_units(weights, hidden), hidden.values
    _check_head(hidden.shape, weights, bias)
    for name, given in (("mask", mask), ("log_inclusion", log_inclusion)):
        if given is not None and given.shape != bias.shape:
            raise ValueError(f"{name} has shape {given.shape}: must be {bias.shape}, as bias")
    if log_inclusion is not None:
        bias = bias - log_inclusion
    if mask is not None:
        bias = jnp.where(mask, bias, -jnp.inf)
    return softmax.head(hidden, weights, bias, label_rows, positions, precision == "mixed")


def _check_head(shape: tuple[int, ...], weights: jax.Array, bias: jax.Array) -> None:
    if weights.shape != (*bias.shape, shape[-1]) or len(shape) != 2 or bias.ndim != 1:
        raise ValueError(
            f"weights {weights.shape}, bias {bias.shape} and hidden {shape} don't fit: "
            "must be [A, d], [A], [B, d]"
        )


def unigram_start(counts: Any, size: int, popular: int) -> tuple[jax.Array, jax.Array]:
    """What a sampled softmax over `size` words knows before training.

    Args:
      counts: [size], occurrences of each in the training text.
      size: V.
      popular: P.

    Returns:
      (share of each word, float32 [V]; the P most frequent, int32 [P]).

    Raises:
      ValueError: if counts is not [V].
    """
    counts = jnp.asarray(counts, jnp.float32)
    if counts.shape != (size,):
        raise ValueError(f"counts has shape {counts.shape}: must be [{size}]")
    share = (counts + 0.5) / jnp.sum(counts + 0.5)
    top = jnp.argsort(-counts, stable=True)[: min(popular, size)]
    return share, top.astype(jnp.int32)


class SampledWords(NamedTuple):
    """The words that a batch's softmax is taken over."""

    words: active.ActiveSet
    places: jax.Array  # int32 [B], of the targets
    correction: jax.Array  # float32 [B, A], log probability to be in the set


def draw_words(
    key: jax.Array, targets: jax.Array, unigram: jax.Array, popular: jax.Array, *, size: int
) -> SampledWords:
    """An active set of a batch: its targets, the popular words, a uniform sample.

    Args:
      key: of the sample.
      targets: int32 [B], -1 = padding.
      unigram: float32 [V], share of each token in the text.
      popular: int32 [P].
      size: A, static; V at the most.
    """
    chosen = active.shared_set(
        key,
        jnp.concatenate([targets, popular]),
        size=min(size, unigram.size),
        num_rows=unigram.size,
    )
    places = chosen.positions[: targets.size]
    log_q = unigram_log_inclusion(chosen, unigram, popular, targets.size)
    column = jnp.arange(log_q.size, dtype=jnp.int32)
    # A target is in its own set for certain; the others are a sample.
    correction = jnp.where(column[None, :] == places[:, None], jnp.float32(0), log_q[None, :])
    return SampledWords(chosen, places, correction)


def sampled_log_softmax(
    query: jax.Array, chosen: SampledWords, out: jax.Array, bias: jax.Array
) -> jax.Array:
    """log softmax of each target, [B], over the words drawn.

    Args:
      query: float32 [B, out].
      chosen: of `draw_words`.
      out: float32 [A, out], rows of the output table.
      bias: float32 [A].
    """
    # The barrier, in the gradient too, keeps the softmax's arithmetic out of the
    # transpose that the product's gradient needs: there it runs column by column.
    logits = jax.lax.optimization_barrier(sparse_dense(out, bias, query))
    examples = jnp.arange(chosen.places.size, dtype=jnp.int32)
    return -losses.softmax_cross_entropy(
        logits, examples, chosen.places, mask=chosen.words.mask, log_inclusion=chosen.correction
    )


def unigram_log_inclusion(
    chosen: active.ActiveSet, unigram: jax.Array, popular: jax.Array, draws: int
) -> jax.Array:
    """Log probability that each id is in the active set of a batch of targets, float32 [A].

    The targets of a batch are themselves a sample from the unigram distribution, so a token is in
    with probability 1 − (1 − p)^B (1 − f), f being the chance of the uniform fill; a popular one
    for certain. Without this the batch's targets, in by merit, would stand for no one else, and
    the sampled softmax would be a biased guess of the full one.

    Args:
      chosen: of `active.shared_set`, whose labels were the targets and then `popular`.
      unigram: float32 [V], share of each token in the text.
      popular: int32 [P].
      draws: B, targets of a batch.

    References:
      Bengio and Senécal 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural
      Probabilistic Language Model", section III.
    """
    fill = jnp.exp(active.log_inclusion(chosen, num_rows=unigram.size))
    chance = jnp.min(fill)  # of one that isn't a label; 1 if the set holds all rows
    share = take_rows(unigram, chosen.ids)
    missed = jnp.exp(jnp.float32(draws) * jnp.log1p(-share)) * (jnp.float32(1) - chance)
    certain = jnp.zeros(unigram.size, bool).at[popular].set(True)
    log_q = jnp.log1p(-jnp.minimum(missed, jnp.float32(1 - 1e-6)))
    return jnp.where(take_rows(certain, chosen.ids), jnp.float32(0), log_q)
