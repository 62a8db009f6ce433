"""Product-quantized rows: a learned hash of a few bytes, scanned for fast sparse inference.

A row's direction is cut into M subspaces, and in each it is known by the nearest of 16 learned
codewords: half a byte. A query turns each subspace into a table of 16 inner products, so that a
row's logit is a sum of M looked-up bytes times the row's scale; the best rows by that get exact
logits. All rows are read, at M / 2 + 8 bytes each where the layer has 4·d, by a kernel that looks
up 32 rows at once.

The coordinates are those in which logits vary: principal directions of the rows in the metric of
the queries' covariance. What all queries share, their mean, is taken exactly, into the biases. The
scale makes a row's own direction come out at its true length: codewords fall short of it, and the
queries that a row should be found for are those that lie its way.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.quantized import BLOCK, quantized_scan
from sparse_jax.retrieval import topk
from sparse_jax.retrieval.eigh import eigh
from sparse_jax.retrieval.hashing import _common as common
from sparse_jax.retrieval.topk import TopK
from sparse_jax.rows import take_rows

__all__ = [
    "QuantizedIndex",
    "default_subspaces",
    "fit",
    "memory_bytes",
    "search",
    "update",
]

CODEWORDS = 16
MAX_SUBSPACES = 256  # sums of so many bytes fit 16 bits
_CHUNK = 8192  # rows coded at a time
_RIDGE = 1e-3  # of the mean variance, to every direction of the metric
_LEAST_KEPT = 0.25  # of a row's length, by its codewords; less is a bad code, not to be made up for
_MOST_STEPS = 2**24  # floats hold integers up to here


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedIndex:
    """N rows in ceil(N / 32) blocks. Make one with `fit`."""

    mean: jax.Array  # float32 [d]; of the queries
    centre: jax.Array  # float32 [d]; of the rows
    encoder: jax.Array  # float32 [d, M·g]; coordinates of a row less the centre
    codebooks: jax.Array  # float32 [M, 16, g]; codewords by their coordinates
    codewords: jax.Array  # float32 [d, 16·M]; the same as rows: their logits, from a query
    codes: jax.Array  # uint8 [blocks, M / 2, 32]; subspace 2j in the low half of byte j
    scales: jax.Array  # float32 [32·blocks]; by which the sum of a row's codewords is multiplied
    biases: jax.Array  # float32 [32·blocks]; bias + mean·row; −∞ behind the last row

    @property
    def subspaces(self) -> int:
        """M."""
        return self.codebooks.shape[0]


def default_subspaces(dim: int) -> int:
    """An even number of subspaces near d / 2: two bits a coordinate.

    Args:
      dim: d.

    Returns:
      M, from 2 to 256.

    Example:
      >>> default_subspaces(128)
      64
    """
    return int(np.clip(2 * round(dim / 4), 2, MAX_SUBSPACES))


def fit(
    key: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    queries: jax.Array,
    *,
    subspaces: int | None = None,
    sample: int = 16384,
    iterations: int = 10,
) -> QuantizedIndex:
    """Learns coordinates and codewords, and codes all rows.

    Costs N·d·(d + 16) multiply-adds for the codes, and 16·sample·d·iterations + 60·d³ to learn.

    Args:
      key: PRNG key of the sample.
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      queries: float32 [S, d], activations such as will be searched for, some thousands.
      subspaces: M, even; a row's code has M / 2 bytes. None: `default_subspaces(d)`.
      sample: rows to learn from.
      iterations: of k-means in each subspace.

    Returns:
      A `QuantizedIndex`.

    Raises:
      ValueError: if a size is out of range or the shapes don't fit together.

    Example:
      >>> w = jax.random.normal(jax.random.key(0), (200, 8))
      >>> w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
      >>> index = fit(jax.random.key(1), w, jnp.zeros(200), w)
      >>> int(search(index, w[:3], w, jnp.zeros(200), k=1, rescored=100).ids[2, 0])
      2

    Reference:
      Jégou, Douze & Schmid, "Product quantization for nearest neighbor search", PAMI 33, 2011;
      Ge et al., "Optimized product quantization", CVPR 2013, section 3.2 (the coordinates); Guo et
      al., "Quantization based fast inner product search", AISTATS 2016 (the metric); Gao & Long,
      "RaBitQ", SIGMOD 2024, section 3.2 (the scale).
    """
    _check(weights, bias)
    num_rows, d = weights.shape
    if queries.ndim != 2 or queries.shape[1] != d or queries.shape[0] < 1:
        raise ValueError(f"queries is {queries.shape}: must be [S, {d}], with S at least 1")
    subspaces = default_subspaces(d) if subspaces is None else subspaces
    common.check_int("subspaces", subspaces, 2, MAX_SUBSPACES)
    if subspaces % 2:
        raise ValueError(f"subspaces = {subspaces}: must be even, for two codes make a byte")
    common.check_int("sample", sample, CODEWORDS)
    common.check_int("iterations", iterations, 1)
    # Distinct rows in random order: the first 16 are the first codewords.
    drawn = jnp.argsort(jax.random.bits(key, (num_rows,), jnp.uint32))[:sample].astype(jnp.int32)
    rows = _finite(take_rows(weights, drawn))
    queries = _finite(queries)
    mean, centre = _mean(queries), _mean(rows)
    encoder, decoder = _coordinates(queries - mean[None], rows - centre[None], subspaces)
    directions, _ = _directions((rows - centre[None]) @ encoder)
    codebooks = _codebooks(_cut(directions, subspaces), iterations)
    codewords = jnp.einsum("dmg,mcg->dmc", decoder.reshape(d, subspaces, -1), codebooks)
    blocks = -(-num_rows // BLOCK)
    index = QuantizedIndex(
        mean=mean,
        centre=centre,
        encoder=encoder,
        codebooks=codebooks,
        codewords=codewords.reshape(d, -1),
        codes=jnp.zeros((blocks, subspaces // 2, BLOCK), jnp.uint8),
        scales=jnp.zeros(blocks * BLOCK, jnp.float32),
        biases=jnp.full(blocks * BLOCK, -jnp.inf, jnp.float32),
    )
    chunk = min(_CHUNK, num_rows)

    def code(i: jax.Array, index: QuantizedIndex) -> QuantizedIndex:
        ids = i * jnp.int32(chunk) + jnp.arange(chunk, dtype=jnp.int32)
        return update(index, jnp.where(ids < num_rows, ids, -1), weights, bias)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-num_rows // chunk)), code, index)


def update(
    index: QuantizedIndex, ids: jax.Array, weights: jax.Array, bias: jax.Array
) -> QuantizedIndex:
    """Rows `ids` have changed: codes them anew, in place. Costs n·d·(d + 16) multiply-adds.

    Args:
      index: donated to keep this in place.
      ids: int32 [n]; −1 is padding.
      weights: float32 or bfloat16 [N, d], as they are now.
      bias: float32 [N].

    Returns:
      The index over the rows as they are now. Its coordinates and codewords stay those of the fit.

    Raises:
      ValueError: if the shapes don't fit together.

    Example:
      >>> w = jax.random.normal(jax.random.key(0), (200, 8))
      >>> index = fit(jax.random.key(1), w, jnp.zeros(200), w)
      >>> moved = update(index, jnp.array([5], jnp.int32), w.at[5].set(-w[5]), jnp.zeros(200))
      >>> bool((moved.codes[0, :, 5] == index.codes[0, :, 5]).all())
      False
    """
    _check_index(index, weights, bias)
    rows = _finite(take_rows(weights, ids))
    directions, lengths = _directions((rows - index.centre[None]) @ index.encoder)
    cut = _cut(directions, index.subspaces)
    chosen = _nearest(cut, index.codebooks)
    books = index.codebooks[jnp.arange(index.subspaces)[None], chosen]
    kept = jnp.maximum(jnp.sum(books * cut, axis=(1, 2)), _LEAST_KEPT)
    codes = chosen.astype(jnp.uint8)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    at = jnp.where((ids < 0) | (ids >= weights.shape[0]), index.biases.shape[0], ids)
    biases = jnp.take(bias, ids, mode="clip") + rows @ index.mean
    return dataclasses.replace(
        index,
        codes=index.codes.at[at // BLOCK, :, at % BLOCK].set(packed, mode="drop"),
        scales=index.scales.at[at].set(lengths / kept, mode="drop"),
        biases=index.biases.at[at].set(biases, mode="drop"),
    )


def search(
    index: QuantizedIndex,
    queries: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    *,
    k: int,
    rescored: int = 256,
) -> TopK:
    """The k best rows by exact logit among those with the best sums.

    Args:
      index: over the rows.
      queries: float32 [B, d].
      weights: float32 or bfloat16 [N, d], for the exact logits.
      bias: float32 [N].
      k: rows to return for each query.
      rescored: rows that get an exact logit; at least k. The knob between time and recall.

    Returns:
      `topk.TopK`; fewer rows than k are padded with −1 and −∞.

    Raises:
      ValueError: if a size is out of range or the shapes don't fit together.

    Example:
      >>> w = jax.random.normal(jax.random.key(0), (200, 8))
      >>> index = fit(jax.random.key(1), w, jnp.zeros(200), w)
      >>> found = search(index, w[:3], w, jnp.zeros(200), k=2, rescored=200)  # all: exact
      >>> exact = topk.rows(w[:3], w, jnp.zeros(200), k=2)
      >>> bool(jnp.array_equal(found.ids, exact.ids))
      True

    Reference:
      André, Kermarrec & Le Scouarnec, "Cache locality is not enough: high-performance nearest
      neighbor search with product quantization fast scan", VLDB 2015.
    """
    _check_index(index, weights, bias)
    if queries.ndim != 2 or queries.shape[1] != weights.shape[1]:
        raise ValueError(f"queries is {queries.shape}: must be [B, {weights.shape[1]}]")
    common.check_int("k", k, 1)
    common.check_int("rescored", rescored, k, None, "it must be at least k")
    found = quantized_scan(
        *_tables(index, queries),
        index.codes,
        index.scales,
        index.biases,
        min(rescored, weights.shape[0]),
    )
    return topk.among(queries, weights, bias, found, k=k)


def memory_bytes(num_rows: int, dim: int, *, subspaces: int) -> int:
    """Bytes of an index that `fit` makes: M / 2 + 8 a row, and three matrices.

    Args:
      num_rows: N.
      dim: d.
      subspaces: M.

    Returns:
      Bytes.

    Example:
      >>> memory_bytes(670_091, 128, subspaces=32)
      16419584
    """
    blocks, width = -(-num_rows // BLOCK), -(-dim // subspaces) * subspaces
    matrices = dim * (width + CODEWORDS * subspaces) + CODEWORDS * width + 2 * dim
    return blocks * BLOCK * (subspaces // 2 + 8) + 4 * matrices


def _coordinates(
    queries: jax.Array, rows: jax.Array, subspaces: int
) -> tuple[jax.Array, jax.Array]:
    """(encoder, decoder) [d, M·g] with encoder · decoderᵀ = 1, from centred queries and rows.

    A row's coordinates are those of which E[(h·w)²] is the sum of squares, and uncorrelated. They
    are dealt to the subspaces by size, forth and back, so that each gets large and small ones.
    """
    d = rows.shape[1]
    metric = _moments(queries)
    ridge = jnp.maximum(jnp.float32(_RIDGE) * jnp.trace(metric) / jnp.float32(d), 1e-12)
    values, vectors = eigh(metric + ridge * jnp.eye(d, dtype=jnp.float32))
    root = jnp.sqrt(jnp.maximum(values, ridge))
    _, turned = eigh(_moments(rows @ (vectors * root[None])))
    size = -(-d // subspaces)
    rounds = np.arange(size * subspaces).reshape(size, subspaces)
    rounds[1::2] = rounds[1::2, ::-1]
    order = rounds.T.reshape(-1)

    def dealt(matrix: jax.Array) -> jax.Array:
        return jnp.pad(matrix, ((0, 0), (0, size * subspaces - d)))[:, order]

    # Eigenvectors come as rows, and a product with them lying so follows the threads, too (AVX2).
    there, back, turned = jax.lax.optimization_barrier(
        (vectors * root[None], vectors / root[None], turned)
    )
    return dealt(there @ turned), dealt(back @ turned)


# Reductions written as products, laid out behind barriers: otherwise XLA:CPU's order of summation
# follows the threads.
def _mean(x: jax.Array) -> jax.Array:
    share = jnp.full((1, x.shape[0]), 1 / x.shape[0], jnp.float32)
    return (jax.lax.optimization_barrier(share) @ x)[0]


def _moments(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(x.T) @ x / jnp.float32(x.shape[0])


def _directions(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [n, c] as (of length 1, their lengths [n]); a row of nothing is (0, 0)."""
    length = jnp.sqrt(jnp.sum(x * x, axis=1))
    return x / jnp.maximum(length, common.SMALLEST_NORMAL)[:, None], length


def _cut(x: jax.Array, subspaces: int) -> jax.Array:
    """[n, M, g]."""
    return x.reshape(x.shape[0], subspaces, -1)


def _nearest(directions: jax.Array, codebooks: jax.Array) -> jax.Array:
    """The codeword of each row in each subspace, int32 [n, M]."""
    products = jnp.einsum("nmg,mcg->nmc", directions, codebooks)
    half = jnp.float32(0.5) * jnp.sum(codebooks * codebooks, axis=2)
    return jnp.argmax(products - half[None], axis=2).astype(jnp.int32)


def _codebooks(directions: jax.Array, iterations: int) -> jax.Array:
    """k-means in every subspace: float32 [M, 16, g]. A codeword that lost all its rows stays."""
    enough = jnp.arange(CODEWORDS) % directions.shape[0]

    def improve(_: jax.Array, books: jax.Array) -> jax.Array:
        chosen = jax.nn.one_hot(_nearest(directions, books), CODEWORDS, dtype=jnp.float32)
        chosen = jax.lax.optimization_barrier(chosen)
        sums = jnp.einsum("nmc,nmg->mcg", chosen, directions)
        count = jnp.sum(chosen, axis=0)[:, :, None]
        return jnp.where(count > 0, sums / jnp.maximum(count, 1), books)

    return jax.lax.fori_loop(0, iterations, improve, directions[enough].transpose(1, 0, 2))


def _tables(index: QuantizedIndex, queries: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits of all codewords as steps: (uint8 [B, M, 16] above the least of a subspace, all those
    least ones together, int32 [B], and what one step is worth, float32 [B])."""
    products = _cut((_finite(queries) - index.mean[None]) @ index.codewords, index.subspaces)
    least = products.min(axis=2, keepdims=True)
    above = products - least
    step = jnp.maximum(above.max(axis=(1, 2)), common.SMALLEST_NORMAL * 255) * jnp.float32(1 / 255)
    below = jnp.round(jnp.sum(least, axis=(1, 2)) / step)
    limit = jnp.float32(_MOST_STEPS)
    return (
        jnp.round(above / step[:, None, None]).astype(jnp.uint8),
        jnp.clip(below, -limit, limit).astype(jnp.int32),
        step,
    )


def _finite(x: jax.Array) -> jax.Array:
    """Zero for what isn't finite."""
    return jnp.where(jnp.isfinite(x), x, jnp.float32(0))


def _check(weights: Any, bias: Any) -> None:
    if weights.ndim != 2 or bias.shape != weights.shape[:1] or 0 in weights.shape:
        raise ValueError(
            f"weights {weights.shape} and bias {bias.shape}: must be [N, d] and [N], not empty"
        )


def _check_index(index: QuantizedIndex, weights: Any, bias: Any) -> None:
    _check(weights, bias)
    blocks, d = index.codes.shape[0], index.mean.shape[0]
    if -(-weights.shape[0] // BLOCK) != blocks or weights.shape[1] != d:
        raise ValueError(
            f"weights is {weights.shape}: must have {d} columns and {blocks} blocks of {BLOCK} "
            "rows, as when the index was fitted"
        )
