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
    log_p: jax.Array, log_ref: jax.Array, lengths: jax.Array, *, beta: float, anchor: float = 0.0
) -> jax.Array:
    """−log σ(margin) − anchor · log p(chosen) / length, the mean over pairs.

    The second term holds on to the language: DPO alone is free to make both answers unlikely.

    Args:
      log_p: as for `margins`.
      log_ref: as for `margins`.
      lengths: float32 [2n], tokens of each answer.
      beta: as for `margins`.
      anchor: weight of the second term.

    Example:
      >>> same = jnp.array([-3.0, -4.0])
      >>> round(float(loss(same, same, jnp.ones(2), beta=0.1)), 4)
      0.6931

    Reference:
      Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a
      Reward Model", equation 7; the second term: Pang et al. 2024, "Iterative Reasoning
      Preference Optimization", equation 1.
    """
    preferred = jax.nn.softplus(-margins(log_p, log_ref, beta=beta))
    chosen = (log_p / lengths).reshape(-1, 2)[:, 0]
    return jnp.mean(preferred - jnp.float32(anchor) * chosen)
