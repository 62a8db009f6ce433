"""How the next word is drawn from a distribution: penalties, temperature, top-k, top-p."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from sparse_jax.lm.text import DOCUMENT, UNKNOWN

__all__ = ["NUCLEUS", "Sampling", "adjust"]

NUCLEUS = 1024
"""At most this many words are what top-k and top-p choose from."""

_COLDEST = 1e-30  # temperatures below are as good as this one, and float32 holds it


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next word is drawn. The defaults draw from the model's own distribution.

    Args:
      temperature: what log p is divided by; 0 takes the likeliest token.
      top_k: draw from the k likeliest tokens alone; 0 from all.
      top_p: draw from the fewest tokens that have this much probability together, and at least
        from one.
      repetition_penalty: R; the probability of a token is divided by R for each time that it stands
        in the history, and there once more for each token before it that is the same as now. So
        a loop ends soon, however sure the model is of it. 1.1 to 2 are usual; 1 is none.
      unknown: whether the unknown word may be drawn.

    Raises:
      ValueError: if a value is out of range.

    Example:
      >>> Sampling(temperature=0.8, top_p=0.95).top_k
      0
    """

    temperature: float = 1.0  # 0 takes the likeliest
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # p of words in the history is divided by it
    unknown: bool = False  # whether the unknown word may be drawn

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature = {self.temperature}: must be at least 0 and finite; 0 takes the "
                "likeliest, 1 draws from the model's own distribution"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k = {self.top_k}: must be at least 0; 0 is all words")
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p = {self.top_p}: must be above 0 and at most 1; 1 is all words, and "
                "temperature = 0 the likeliest alone"
            )
        if not 1 <= self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty = {self.repetition_penalty}: must be at least 1 and finite; "
                "1 is none"
            )


def adjust(log_p: jax.Array, history: jax.Array, known: jax.Array, how: Sampling) -> jax.Array:
    """Scores to draw from, −inf for what is left out; never is everything.

    Args:
      log_p: float32 [B, V].
      history: int32 [B, C], the tokens before.
      known: int32 [B], how many of them count.
      how: of drawing; static.

    Returns:
      float32 [B, V]. Where no word has any chance but the unknown one, which is barred, the
      document ends.

    Raises:
      ValueError: if top_k is above `NUCLEUS` and the vocabulary, too.

    Example:
      >>> log_p, none = jnp.log(jnp.array([[0.1, 0.2, 0.7]])), jnp.zeros((1, 1), jnp.int32)
      >>> [f"{x:.2f}" for x in adjust(log_p, none, jnp.array([0]), Sampling(top_k=1))[0].tolist()]
      ['-inf', '-inf', '-0.36']
    """
    vocabulary = log_p.shape[1]
    top_k = 0 if how.top_k >= vocabulary else how.top_k
    if top_k > NUCLEUS:
        raise ValueError(f"top_k = {top_k}: must be at most {NUCLEUS}, or 0 for all words")
    rows = jnp.arange(log_p.shape[0], dtype=jnp.int32)[:, None]
    if not how.unknown:
        log_p = log_p.at[:, UNKNOWN].set(-jnp.inf)
    if how.repetition_penalty > 1:
        words, weights = _repetitions(history, known, vocabulary)
        times = jnp.zeros(log_p.shape, jnp.float32).at[rows, words].add(weights, mode="drop")
        log_p = log_p - times * jnp.float32(math.log(how.repetition_penalty))
    if how.temperature not in (0.0, 1.0):
        # The best has 0 at any temperature, and what is far below it −inf at a low one.
        best = jnp.max(log_p, axis=1, keepdims=True)
        best = jnp.where(best == -jnp.inf, jnp.float32(0), best)
        log_p = (log_p - best) / jnp.float32(max(how.temperature, _COLDEST))
    if top_k or how.top_p < 1:
        size = min(top_k or NUCLEUS, vocabulary)
        # Behind the barrier top_k stays one pass and doesn't become a sort.
        best, words = jax.lax.optimization_barrier(jax.lax.top_k(log_p, size))
        whole = best if top_k else log_p
        share = jnp.exp(best - jax.nn.logsumexp(whole, axis=1, keepdims=True))
        # A word is in if the likelier ones sum to less than top_p: the first always is.
        kept = jnp.cumsum(share, axis=1) - share < jnp.float32(how.top_p)
        kept = kept.at[:, 0].set(True)
        scores = jnp.where(kept, best, -jnp.inf)
        log_p = jnp.full_like(log_p, -jnp.inf).at[rows, words].set(scores)
    barred = jnp.all(log_p == -jnp.inf, axis=1)
    return log_p.at[:, DOCUMENT].set(jnp.where(barred, jnp.float32(0), log_p[:, DOCUMENT]))


def _repetitions(
    history: jax.Array, known: jax.Array, vocabulary: int
) -> tuple[jax.Array, jax.Array]:
    """(words of the history, V where unknown, int32 [B, C]; how much each counts, float32 [B, C]).

    A place counts 1, and 1 for each of the tokens before it that are the same as the latest ones.

    Example:
      >>> history, known = jnp.array([[1, 7, 8, 9, 7, 8]]), jnp.array([5])
      >>> _repetitions(history, known, 10)[1].tolist()
      [[1.0, 1.0, 1.0, 3.0, 1.0, 1.0]]
    """
    size = history.shape[1]
    place = jnp.arange(size, dtype=jnp.int32)
    inside = place[None, :] >= size - known[:, None]
    # same[i, k]: the token k + 1 places before i is the one k places before the history's end.
    before = place[:, None] - 1 - place[None, :]
    there = jnp.maximum(before, 0)
    same = (history[:, there] == history[:, None, ::-1]) & inside[:, there] & (before >= 0)[None]
    run = jnp.cumprod(same.astype(jnp.float32), axis=2).sum(axis=2)
    return jnp.where(inside, history, vocabulary), 1.0 + run
