"""Labels hashed to buckets, and the labels whose buckets score highest in sum."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops import ffi
from sparse_jax.ops.mixing import mix, priority
from sparse_jax.ops.topk import TopK, best

_FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B  # odd: bijections of the words of `bits` bits
_MAX_BLOCKS = 1 << 24  # of all repetitions


@dataclasses.dataclass(frozen=True)
class Buckets:
    """R functions from N labels to B buckets each; hashable, so that it can be static.

    Each block of B consecutive labels is permuted by itself in each repetition. So a bucket has one
    label of each block, which the permutation's inverse finds without a list; labels of different
    blocks share a bucket with chance 1 / B; and a label's buckets don't depend on N.

    Args:
      num_labels: N.
      size: B, a power of two from 2 to 2^30.
      repetitions: R.
      seed: uint32.

    Raises:
      ValueError: if one is out of range.
    """

    num_labels: int
    size: int
    repetitions: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 2 or self.size & (self.size - 1) or self.size > 1 << 30:
            raise ValueError(
                f"buckets = {self.size}: must be a power of two from 2 to 2^30, such as "
                f"{1 << min(30, max(1, self.size.bit_length()))}"
            )
        if not 1 <= self.repetitions <= (2**31 - 1) // self.size:
            raise ValueError(
                f"repetitions = {self.repetitions}: must be at least 1, and with {self.size} "
                "buckets each fewer than 2^31 rows; take fewer"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: must be from 0 to 2^32 - 1")
        if not 1 <= self.num_labels < 2**31:
            raise ValueError(f"num_labels = {self.num_labels}: must be from 1 to 2^31 - 1")
        if (self.num_labels // self.size + 1) * self.repetitions > _MAX_BLOCKS:
            raise ValueError(
                f"buckets = {self.size}: must be more for {self.num_labels} labels; take "
                f"{1 << (self.num_labels * self.repetitions // _MAX_BLOCKS).bit_length() + 1}"
            )

    @property
    def bits(self) -> int:
        """Of a bucket's number."""
        return self.size.bit_length() - 1

    @property
    def num_rows(self) -> int:
        """R · B."""
        return self.repetitions * self.size


def bucket_rows(ids: jax.Array, buckets: Buckets) -> jax.Array:
    """The rows of labels: r · B + their bucket in repetition r.

    Args:
      ids: int32 [...]; below 0 is padding.
      buckets: how they are hashed.

    Returns:
      int32 [..., R]; -1 for padding.
    """
    mask, half = jnp.uint32(buckets.size - 1), jnp.uint32((buckets.bits + 1) // 2)
    label = ids.astype(jnp.uint32)
    rows = []
    for r in range(buckets.repetitions):
        key = priority(jnp.uint32(buckets.seed), jnp.uint32(r), label >> jnp.uint32(buckets.bits))
        x = (((label ^ key) & mask) * jnp.uint32(_FIRST)) & mask
        x = x ^ (x >> half)
        x = (((x ^ mix(key)) & mask) * jnp.uint32(_SECOND)) & mask
        x = x ^ (x >> half)
        rows.append(x.astype(jnp.int32) + jnp.int32(r * buckets.size))
    return jnp.where(ids[..., None] >= 0, jnp.stack(rows, axis=-1), -1)


def mach_topk(logits: jax.Array, buckets: Buckets, *, probes: int, k: int) -> TopK:
    """The k labels with the largest sum of their buckets' logits, among those that are probed.

    Args:
      logits: float32 [n, R · B].
      buckets: how labels are hashed.
      probes: buckets of each repetition, the best, whose labels are looked at: equal ones in order
        of number; -inf and NaN are no bucket's.
      k: at least 1.

    Returns:
      `TopK`; larger scores first, equal ones in order of id.
    """
    n, probes = logits.shape[0], min(probes, buckets.size)
    if ffi.AVAILABLE:
        shape = (n, k)
        out = [jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)]
        scores, ids = ffi.call("mach_topk", out)(
            logits,
            num_labels=np.int64(buckets.num_labels),
            repetitions=np.int64(buckets.repetitions),
            bits=np.int64(buckets.bits),
            seed=np.int64(buckets.seed),
            probes=np.int64(probes),
        )
        return scores, ids
    return _topk_jax(logits, buckets, probes, k)


def _topk_jax(logits: jax.Array, buckets: Buckets, probes: int, k: int) -> TopK:
    """A block of labels after the other: all their scores, those not probed hidden."""
    n, size, repetitions = logits.shape[0], buckets.size, buckets.repetitions
    numbers = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (n, size))
    rows = jnp.arange(n, dtype=jnp.int32)[:, None]
    parts, probed = [], []
    for r in range(repetitions):
        parts.append(logits[:, r * size : (r + 1) * size])
        _, found = best(parts[-1], numbers, probes)
        found = jnp.where(found < 0, size, found)
        probed.append(jnp.zeros((n, size), bool).at[rows, found].set(True, mode="drop"))

    def look(so_far: TopK, block: jax.Array) -> tuple[TopK, None]:
        labels = block * jnp.int32(size) + jnp.arange(size, dtype=jnp.int32)
        at = bucket_rows(labels, buckets)
        score = jnp.zeros((n, size), jnp.float32)
        seen = jnp.zeros((n, size), bool)
        for r in range(repetitions):
            own = at[:, r] - jnp.int32(r * size)
            score = score + jnp.take(parts[r], own, axis=1, mode="clip")
            seen = seen | jnp.take(probed[r], own, axis=1, mode="clip")
        inside = (labels >= 0) & (labels < buckets.num_labels)
        score = jnp.where(seen & inside[None, :], score, -jnp.inf)
        ids = jnp.broadcast_to(labels, score.shape)
        scores = jnp.concatenate([so_far[0], score], axis=1)
        return best(scores, jnp.concatenate([so_far[1], ids], axis=1), k), None

    none = (jnp.full((n, k), -jnp.inf, jnp.float32), jnp.full((n, k), -1, jnp.int32))
    blocks = jnp.arange((buckets.num_labels - 1) // size + 1, dtype=jnp.int32)
    (scores, ids), _ = jax.lax.scan(look, none, blocks)  # type: ignore[arg-type]
    return scores, ids
