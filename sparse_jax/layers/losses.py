"""Losses over an active set: multi-label softmax cross-entropy and binary cross-entropy.

Logits are [B, A], over one shared set or one set an example; labels come as ragged entries (their
example and their place in the active set), so nothing of size N is made.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "binary_cross_entropy",
    "softmax_cross_entropy",
]


def softmax_cross_entropy(
    logits: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    *,
    mask: jax.Array | None = None,
    log_inclusion: jax.Array | None = None,
) -> jax.Array:
    """Multi-label softmax cross-entropy of each example, its labels weighted alike.

    loss_b = logsumexp_a(z_ba) − mean_{labels l of b} z_bl, with z the corrected logits. An example
    without a label in the set has loss 0.

    Args:
      logits: float32 [B, A].
      label_rows: int32 [P], the example of each label entry.
      positions: int32 [P], its place in the active set; −1 is padding.
      mask: bool [A] or [B, A], or None: the places that hold a row.
      log_inclusion: float32 [A] or [B, A], subtracted from the logits (see `active`).

    Returns:
      float32 [B].

    Raises:
      ValueError: if logits is not [B, A].

    Example:
      >>> rows, positions = jnp.array([0], jnp.int32), jnp.array([1], jnp.int32)
      >>> round(float(softmax_cross_entropy(jnp.zeros((1, 4)), rows, positions)[0]), 4)
      1.3863
    """
    logits = _prepare(logits, mask, log_inclusion)
    targets = _targets(logits, label_rows, positions)
    share = jnp.sum(targets, axis=1)
    targets = targets / jnp.maximum(share, jnp.float32(1))[:, None]
    finite = jnp.where(targets > 0, logits, jnp.float32(0))
    at_labels = jnp.sum(targets * finite, axis=1)
    return jnp.where(share > 0, jax.nn.logsumexp(logits, axis=1) - at_labels, jnp.float32(0))


def binary_cross_entropy(
    logits: jax.Array,
    label_rows: jax.Array,
    positions: jax.Array,
    *,
    mask: jax.Array | None = None,
    log_inclusion: jax.Array | None = None,
) -> jax.Array:
    """Sum over the active set of the binary cross-entropy of each place, for each example.

    Args:
      logits: float32 [B, A].
      label_rows: int32 [P], the example of each label entry.
      positions: int32 [P], its place in the active set; −1 is padding.
      mask: bool [A] or [B, A], or None: the places that hold a row.
      log_inclusion: float32 [A] or [B, A]; each term is weighted by its inverse, which makes the
        sum unbiased over the draw (Horvitz & Thompson 1952).

    Returns:
      float32 [B].

    Raises:
      ValueError: if logits is not [B, A].

    Example:
      >>> rows, positions = jnp.array([0], jnp.int32), jnp.array([1], jnp.int32)
      >>> round(float(binary_cross_entropy(jnp.zeros((1, 2)), rows, positions)[0]), 4)
      1.3863
    """
    logits = _prepare(logits, None, None)
    targets = jnp.minimum(_targets(logits, label_rows, positions), jnp.float32(1))
    terms = jax.nn.softplus(logits) - targets * logits
    if log_inclusion is not None:
        terms = terms * jnp.exp(-_wide(log_inclusion, logits))
    if mask is not None:
        terms = jnp.where(_wide(mask, logits), terms, jnp.float32(0))
    return jnp.sum(terms, axis=1)


def _wide(per_place: jax.Array, logits: jax.Array) -> jax.Array:
    return jnp.broadcast_to(per_place if per_place.ndim == 2 else per_place[None, :], logits.shape)


def _prepare(
    logits: jax.Array, mask: jax.Array | None, log_inclusion: jax.Array | None
) -> jax.Array:
    if logits.ndim != 2:
        raise ValueError(f"logits has shape {logits.shape}: must be [batch, active]")
    if log_inclusion is not None:
        logits = logits - _wide(log_inclusion, logits)
    if mask is not None:
        logits = jnp.where(_wide(mask, logits), logits, -jnp.inf)
    return logits


def _targets(logits: jax.Array, label_rows: jax.Array, positions: jax.Array) -> jax.Array:
    """How often each place is a label of its example, [B, A]."""
    column = jnp.where(positions < 0, logits.shape[1], positions)
    zeros = jnp.zeros(logits.shape, logits.dtype)
    return zeros.at[label_rows, column].add(jnp.ones((), logits.dtype), mode="drop")
