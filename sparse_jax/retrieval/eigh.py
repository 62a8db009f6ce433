"""Eigenvectors whose bits don't follow the number of threads, as those of LAPACK on CPU do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_SWEEPS = 10


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(values [d], descending; vectors [d, d], in columns) of a symmetric float32 [d, d].

    Jacobi rotations of d / 2 pairs at a time; every pair once in a sweep.

    Reference:
      Brent & Luk, "The solution of singular-value and symmetric eigenvalue problems on
      multiprocessor arrays", SIAM J. Sci. Stat. Comput. 6, 1985.
    """
    d = matrix.shape[0]
    n = d + d % 2  # the last of an odd number is paired with a zero, and not turned
    schedule = jnp.asarray(_rounds(n))

    def turn(at: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        whole, vectors = found
        order = schedule[at % schedule.shape[0]]
        back = jnp.argsort(order)
        p, q = order[: n // 2], order[n // 2 :]
        off = whole[p, q]
        apart = (whole[q, q] - whole[p, p]) / jnp.where(off == 0, jnp.float32(1), off * 2)
        sign = jnp.where(apart < 0, jnp.float32(-1), jnp.float32(1))
        tangent = sign / (jnp.abs(apart) + jnp.sqrt(apart * apart + 1))
        tangent = jnp.where(off == 0, jnp.float32(0), tangent)
        cosine = (1 / jnp.sqrt(tangent * tangent + 1))[:, None]
        sine = tangent[:, None] * cosine

        def rotate(x: jax.Array) -> jax.Array:
            a, b = x[p], x[q]
            return jnp.concatenate([cosine * a - sine * b, sine * a + cosine * b])[back]

        return rotate(rotate(whole).T), rotate(vectors)

    start = jnp.pad(matrix, ((0, n - d), (0, n - d))), jnp.eye(n, dtype=jnp.float32)
    whole, vectors = jax.lax.fori_loop(0, _SWEEPS * max(1, n - 1), turn, start)
    values = jnp.diagonal(whole)[:d]
    order = jnp.argsort(-values)
    return values[order], vectors[:d, :d][order].T


def _rounds(n: int) -> np.ndarray:
    """A round robin of n players: int32 [n − 1, n], row by row the first halves of the pairs, then
    the second."""
    others = np.arange(1, n)
    rounds = []
    for _ in range(max(1, n - 1)):
        line = np.concatenate([[0], others])
        rounds.append(np.concatenate([line[: n // 2], line[: n // 2 - 1 : -1]]))
        others = np.roll(others, 1)
    return np.array(rounds, np.int32)
