"""Policy gradient with a KL penalty: answers drawn from the policy, judged by a reward model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import generate, model
from sparse_jax.lm import memory as mem
from sparse_jax.lm.batching import Batch
from sparse_jax.lm.preference.pairs import pack
from sparse_jax.lm.text import DOCUMENT


def leave_one_out(rewards: jax.Array) -> jax.Array:
    """Advantage of each answer over the mean of the prompt's others, float32 [P, K].

    Example:
      >>> leave_one_out(jnp.array([[1.0, 2.0, 6.0]])).tolist()
      [[-3.0, -1.5, 4.5]]
    """
    count = rewards.shape[1]
    if count < 2:
        raise ValueError(f"{count} answer a prompt: needs at least 2, one as the other's baseline")
    others = (jnp.sum(rewards, axis=1, keepdims=True) - rewards) / jnp.float32(count - 1)
    return rewards - others


def loss(
    log_p: jax.Array, log_ref: jax.Array, rewards: jax.Array, *, beta: float, answers: int
) -> jax.Array:
    """REINFORCE with the leave-one-out baseline; its gradient is that of E[r] − β KL.

    Args:
      log_p: float32 [P · K], log probability of each answer, drawn from this very policy.
      log_ref: float32 [P · K], of the reference.
      rewards: float32 [P · K].
      beta: β, of the KL penalty, which is a part of the reward.
      answers: K, a prompt's answers, which lie together.

    Reference:
      Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning
      from Human Feedback in LLMs", section 3.2.
    """
    whole = rewards - jnp.float32(beta) * jax.lax.stop_gradient(log_p - log_ref)
    advantages = leave_one_out(whole.reshape(-1, answers)).reshape(-1)
    return -jnp.mean(advantages * log_p)


def draw(
    params: model.Params,
    memory: mem.Memory | None,
    prompts: list[np.ndarray],
    *,
    answers: int,
    length: int,
    seed: int,
    config: model.Config,
) -> Batch:
    """Answers of the policy's own distribution, `answers` a prompt, as runs that lie together.

    Args:
      params: of the policy.
      memory: of the policy.
      prompts: P arrays of token ids.
      answers: K.
      length: most tokens of an answer.
      seed: of the draws.
      config: the model's.
    """
    many = [prompt for prompt in prompts for _ in range(answers)]
    how = generate.Sampling(unknown=True)
    stream = generate.stream(params, memory, many, config=config, how=how, seed=seed)
    drawn = np.stack([next(stream) for _ in range(length)], axis=1)
    ends = np.where((drawn == DOCUMENT).any(1), (drawn == DOCUMENT).argmax(1), length)
    texts = [row[:end] for row, end in zip(drawn, ends, strict=True)]
    return pack(many, texts, history=config.history, length=length)
