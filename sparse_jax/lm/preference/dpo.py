"""Direct preference optimization: the policy is its own reward model."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def margins(log_p: jax.Array, log_ref: jax.Array, *, beta: float) -> jax.Array:
    """Implicit reward of the chosen over that of the rejected answer, float32 [n].

    β (log π(y|x) − log π_ref(y|x)) is the reward that makes π the best policy.

    Args:
      log_p: float32 [2n], log probability of each answer, chosen and rejected in turn.
      log_ref: float32 [2n], of the reference.
      beta: β, how dear it is to leave the reference.
    """
    reward = (jnp.float32(beta) * (log_p - log_ref)).reshape(-1, 2)
    return reward[:, 0] - reward[:, 1]


def loss(
    log_p: jax.Array,
    log_ref: jax.Array,
    tokens: jax.Array,
    *,
    beta: float,
    ordinary: int = 0,
    anchor: float = 0.0,
) -> jax.Array:
    """−log σ(margin), the mean over pairs, − anchor · log p of a token of ordinary text.

    Both answers of a pair are ordinary text, and DPO alone is free to make both unlikely: the text
    beside the pairs holds on to the language.

    Args:
      log_p: float32 [2n + m]: as for `margins`, then of m runs of ordinary text.
      log_ref: float32 [2n + m].
      tokens: float32 [], tokens of the ordinary text.
      beta: as for `margins`.
      ordinary: m, static.
      anchor: weight of the ordinary text.

    Example:
      >>> same = jnp.array([-3.0, -4.0])
      >>> round(float(loss(same, same, jnp.float32(0), beta=0.1)), 4)
      0.6931

    Reference:
      Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a
      Reward Model", equation 7; ordinary text beside preferences: Ouyang et al. 2022, "Training
      language models to follow instructions", equation 2.
    """
    pairs = log_p.size - ordinary
    preferred = jnp.mean(jax.nn.softplus(-margins(log_p[:pairs], log_ref[:pairs], beta=beta)))
    text = jnp.sum(log_p[pairs:]) / jnp.maximum(tokens, jnp.float32(1))
    return preferred - jnp.float32(anchor) * text
