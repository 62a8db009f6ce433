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


def loss(log_p: jax.Array, log_ref: jax.Array, *, beta: float) -> jax.Array:
    """−log σ(margin), the mean over pairs.

    Args:
      log_p: as for `margins`.
      log_ref: as for `margins`.
      beta: as for `margins`.

    Example:
      >>> same = jnp.array([-3.0, -4.0])
      >>> round(float(loss(same, same, beta=0.1)), 4)
      0.6931

    Reference:
      Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a
      Reward Model", equation 7.
    """
    return jnp.mean(jax.nn.softplus(-margins(log_p, log_ref, beta=beta)))
