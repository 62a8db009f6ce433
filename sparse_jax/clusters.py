"""Hash tables with a learned code: rows in lists around centroids, for fast sparse inference.

Two rows are alike if their logits are: by E[(h·w)(h·w')] over activations h, whose second moments
are the metric in which k-means learns the centroids. The code of a row is the centroid nearest to
it, a list holds the rows of one code. A query looks into the lists that promise it most, by their
mean row and the spread about it, as many as hold `max_rows` rows: it reads those at a byte a
coordinate, and gives the best of them exact scores. Random projections, the codes of `index`, need
many times the rows for the same recall, and their rows lie anywhere in memory.

Codes and the first pass are exact integer arithmetic: the same rows are found at any thread count,
in any batch, with the kernels and without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import _ffi, topk
from sparse_jax.hashing import _common as common
from sparse_jax.rows import slice_rows, take_rows
from sparse_jax.topk import TopK

#: Widest row whose code is exact: 127 * 127 * MAX_DIM is below 2**24.
MAX_DIM = 1040
_CHUNK = 8192  # rows coded at a time
_BYTE = 127
_OPTIMISM = 2.0  # spreads by which a list's best row is hoped to exceed its mean
_LARGEST = 2.0**60  # of a shift and of 1 / scale: their product is finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClusterIndex:
    """N rows in C lists. Make one with `fit`."""

    centroids: jax.Array  # int8 [C, d]; row s·b, b of bytes, has the code that is largest in
    shifts: jax.Array  # float32 [C]; centroids·b + shifts / s
    keys: jax.Array  # int8 [C, d]; key_scales * keys = the mean row of a list at the fit
    key_scales: jax.Array  # float32 [C]
    key_biases: jax.Array  # float32 [C]; the mean bias, and twice the spread of the list's logits
    codes: jax.Array  # int32 [N]; the list of each row
    offsets: jax.Array  # int32 [C + 1]; list c stands at places offsets[c] … offsets[c + 1] − 1
    members: jax.Array  # int32 [N]; the row at each place
    bytes: jax.Array  # int8 [N, d]; scales * bytes = the row at each place, nearly
    scales: jax.Array  # float32 [N]
    biases: jax.Array  # float32 [N]; the bias of the row at each place

    @property
    def num_lists(self) -> int:
        """C."""
        return self.centroids.shape[0]

    @property
    def num_rows(self) -> int:
        """N."""
        return self.codes.shape[0]


def default_lists(num_rows: int) -> int:
    """A power of two near 12·sqrt(N): keys to read cost less than the rows then needed.

    Example:
      >>> default_lists(670_091)
      8192
    """
    return int(2 ** max(0, round(np.log2(12 * max(num_rows, 1) ** 0.5))))


def fit(
    key: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    queries: jax.Array | None = None,
    *,
    num_lists: int | None = None,
    sample: int = 32,
    iterations: int = 6,
) -> ClusterIndex:
    """Learns the centroids and puts all rows into their lists.

    k-means in the metric M = E[h hᵀ] of the queries: a row w goes to the list j whose mean m_j is
    nearest, by (w − m_j)ᵀM(w − m_j), the mean square by which their logits differ. Angles instead
    leave lists of one row beside huge ones, where rows share a direction.

    Costs N·C·d multiply-adds for the lists, and sample·C·C·d·iterations to learn.

    Args:
      key: PRNG key of the sample.
      weights: float32 or bfloat16 [N, d].
      bias: float32 [N].
      queries: float32 [S, d], activations such as will be searched for, some thousands; None: the
        metric is the identity.
      num_lists: C; None: `default_lists(N)`.
      sample: rows for each centroid to learn from.
      iterations: of k-means.

    Returns:
      A `ClusterIndex`.

    Raises:
      ValueError: if a size is out of range or the shapes don't fit together.

    Example:
      >>> w = jax.random.normal(jax.random.key(0), (500, 16))
      >>> w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
      >>> index = fit(jax.random.key(1), w, jnp.zeros(500), num_lists=8)
      >>> int(search(index, w[:3], w, jnp.zeros(500), k=1, max_rows=200).ids[2, 0])
      2

    Reference:
      Auvolat et al., "Clustering is efficient for approximate maximum inner product search", 2015;
      Guo et al., "Quantization based fast inner product search", AISTATS 2016 (the metric).
    """
    _check(weights, bias)
    num_rows, d = weights.shape
    if queries is not None and (queries.ndim != 2 or queries.shape[1] != d):
        raise ValueError(f"queries is {queries.shape}: must be [S, {d}]")
    num_lists = min(num_rows, default_lists(num_rows)) if num_lists is None else num_lists
    for name, value, most in (
        ("num_lists", num_lists, num_rows),
        ("sample", sample, None),
        ("iterations", iterations, None),
    ):
        common.check_int(name, value, 1, most)
    metric, optimism = jnp.eye(d, dtype=jnp.float32), 0.0
    if queries is not None:
        # Laid out behind a barrier: fused, XLA:CPU's order of summation follows the threads.
        metric = jax.lax.optimization_barrier(queries.T) @ queries / jnp.float32(len(queries))
        optimism = _OPTIMISM
    return _fit(key, weights, bias, metric, optimism, num_lists, sample, iterations)


def update(
    index: ClusterIndex, ids: jax.Array, weights: jax.Array, bias: jax.Array
) -> ClusterIndex:
    """Rows `ids` have changed: codes them anew, and copies all rows as they are now.

    Coding costs n·C·d multiply-adds; the copy reads the layer once. The result is that of coding
    all rows anew, if `ids` has all that changed. Keys stay as they were fitted: they decide the
    order of lists and nothing else.

    Args:
      index: donated to keep this in place.
      ids: int32 [n]; −1 is padding.
      weights: float32 or bfloat16 [N, d], as they are now.
      bias: float32 [N].

    Returns:
      The index over the rows as they are now.

    Raises:
      ValueError: if the shapes don't fit together.

    Example:
      >>> w = jax.random.normal(jax.random.key(0), (100, 8))
      >>> index = fit(jax.random.key(1), w, jnp.zeros(100), num_lists=4)
      >>> moved = update(index, jnp.array([5], jnp.int32), w.at[5].set(-w[5]), jnp.zeros(100))
      >>> bool(moved.codes[5] == index.codes[5])
      False
    """
    _check(weights, bias)
    if weights.shape != (index.num_rows, index.centroids.shape[1]):
        raise ValueError(
            f"weights is {weights.shape}: must be {(index.num_rows, index.centroids.shape[1])}, "
            "as they were when the index was fitted"
        )
    fresh = _codes(index.centroids, index.shifts, take_rows(weights, ids))
    at = jnp.where(ids < 0, index.num_rows, ids)
    return _pack(index, index.codes.at[at].set(fresh, mode="drop"), weights, bias)


def search(
    index: ClusterIndex,
    queries: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    *,
    k: int,
    max_rows: int,
    rescored: int = 64,
) -> TopK:
    """The k best rows among those in the most promising lists.

    Args:
      index: over the rows.
      queries: float32 [B, d].
      weights: float32 or bfloat16 [N, d], for the exact scores.
      bias: float32 [N].
      k: rows to return for each query.
      max_rows: rows that the first pass reads for each query; the last list is cut there.
      rescored: best rows of the first pass that get an exact score; at least k.

    Returns:
      `topk.TopK`; fewer rows than k are padded with −1 and −∞.

    Raises:
      ValueError: if a size is out of range or the shapes don't fit together.

    Reference:
      Jégou, Douze & Schmid, "Product quantization for nearest neighbor search", PAMI 33, 2011,
      section IV (inverted lists and rescoring).
    """
    _check(weights, bias)
    if queries.ndim != 2 or queries.shape[1] != weights.shape[1]:
        raise ValueError(f"queries is {queries.shape}: must be [B, {weights.shape[1]}]")
    common.check_int("k", k, 1)
    common.check_int("max_rows", max_rows, 1)
    common.check_int("rescored", rescored, k, None, "it must be at least k")
    max_rows, rescored = min(max_rows, index.num_rows), min(rescored, index.num_rows)
    # So many bits that 127 * 2**bits * d fits int32, and the query int16.
    bits = min(14, ((2**31 - 1) // (_BYTE * queries.shape[1])).bit_length() - 1)
    if not _ffi.AVAILABLE:
        found = _first_pass(index, *_to_shorts(queries, bits), max_rows, rescored)
        return topk.among(queries, weights, bias, found, k=k)
    shape = (queries.shape[0], k)
    results = [jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)]
    return TopK(
        *_ffi.call("clusters_search", results)(
            queries,
            index.keys,
            index.key_scales,
            index.key_biases,
            index.offsets,
            index.members,
            index.bytes,
            index.scales,
            index.biases,
            weights,
            bias,
            max_rows=np.int64(max_rows),
            rescored=np.int64(rescored),
            query_bits=np.int64(bits),
        )
    )


def memory_bytes(num_rows: int, dim: int, *, num_lists: int) -> int:
    """Bytes of an index that `fit` makes: a quarter of the layer, and 16 bytes a row.

    Example:
      >>> memory_bytes(100, 8, num_lists=4)
      2532
    """
    return num_rows * (dim + 16) + num_lists * (2 * dim + 16) + 4


def _fit(
    key: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    metric: jax.Array,
    optimism: float,
    num_lists: int,
    sample: int,
    iterations: int,
) -> ClusterIndex:
    num_rows, d = weights.shape
    size = min(num_rows, sample * num_lists)
    drawn, again = jax.random.split(key)
    # Distinct rows, in random order: the first num_lists are the first centroids.
    some = jnp.argsort(jax.random.bits(drawn, (num_rows,), jnp.uint32))[:size].astype(jnp.int32)
    rows = take_rows(weights, some)

    def means(rows: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = jax.ops.segment_sum(jnp.ones(len(codes), jnp.int32), codes, num_segments=num_lists)
        share = jnp.float32(1) / jnp.maximum(count, 1).astype(jnp.float32)
        sums = jax.ops.segment_sum(rows, codes, num_segments=num_lists)
        return sums * (share if rows.ndim == 1 else share[:, None]), count

    def improve(i: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, count = means(rows, _codes(*found, rows))
        # A centroid that lost all its rows starts anew at one of them.
        fresh = jax.random.randint(jax.random.fold_in(again, i), (num_lists,), 0, size)
        return _to_centroids(jnp.where((count == 0)[:, None], rows[fresh], mean), metric)

    centroids, shifts = jax.lax.fori_loop(
        0, iterations, improve, _to_centroids(rows[:num_lists], metric)
    )
    codes = _all_codes(centroids, shifts, weights)
    mean, _ = means(weights.astype(jnp.float32), codes)
    keys, key_scales = _to_bytes(mean)
    squares = means(_squares(metric, weights), codes)[0] - _squares(metric, mean)
    spread = jnp.sqrt(jnp.maximum(squares, jnp.float32(0)))
    spread = jnp.where(jnp.isfinite(spread), spread, jnp.float32(0))
    index = ClusterIndex(
        centroids=centroids,
        shifts=shifts,
        keys=keys,
        key_scales=key_scales,
        key_biases=means(bias, codes)[0] + jnp.float32(optimism) * spread,
        codes=codes,
        offsets=jnp.zeros(num_lists + 1, jnp.int32),
        members=jnp.zeros(num_rows, jnp.int32),
        bytes=jnp.zeros((num_rows, d), jnp.int8),
        scales=jnp.zeros(num_rows, jnp.float32),
        biases=jnp.zeros(num_rows, jnp.float32),
    )
    return _pack(index, codes, weights, bias)


def _to_centroids(means: jax.Array, metric: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What is largest for the nearest mean: w ↦ wᵀM m_j − m_jᵀM m_j / 2, less what all j share.

    The first part as bytes with one scale for all, the second over that scale.
    """
    centre = jnp.full((1, means.shape[0]), 1.0 / means.shape[0], jnp.float32) @ means
    dual = (means - centre) @ metric
    dual = jnp.where(jnp.isfinite(dual), dual, jnp.float32(0))
    # (mᵀMm − cᵀMc) / 2 = (m − c)ᵀM(m + c) / 2
    half = jnp.sum(dual * (means + centre), axis=1) * jnp.float32(0.5)
    scale = jnp.maximum(jnp.max(jnp.abs(dual)), jnp.float32(1e-20)) * jnp.float32(1 / _BYTE)
    shifts = jnp.nan_to_num(-half / scale, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return jnp.round(dual / scale).astype(jnp.int8), jnp.clip(shifts, -_LARGEST, _LARGEST)


def _to_bytes(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [n, d] as (int8 [n, d], scales [n]); a row that isn't finite is (0, 0)."""
    scale = jnp.max(jnp.abs(rows), axis=1, initial=0.0) * jnp.float32(1 / _BYTE)
    sound = jnp.isfinite(scale) & (scale >= common.SMALLEST_NORMAL)
    inverse = jnp.float32(1) / jnp.where(sound, scale, jnp.float32(1))
    rounded = jnp.round(jnp.where(sound[:, None], rows, jnp.float32(0)) * inverse[:, None])
    return rounded.astype(jnp.int8), jnp.where(sound, scale, jnp.float32(0))


def _to_shorts(queries: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Queries [B, d] as (int32 [B, d] of magnitude up to 2**bits, power-of-two scales [B])."""
    clean, _ = common.flatten_features(queries, queries.shape[1])
    whole, shift = common.quantize(clean, bits)
    return whole.astype(jnp.int32), common.power_of_two(jnp.maximum(-shift[:, 0], -126))


def _codes(centroids: jax.Array, shifts: jax.Array, rows: jax.Array) -> jax.Array:
    """The learned hash of some rows, int32 [n]: an exact sum of integers, and one that rounds."""
    whole, scales = _to_bytes(rows)
    inverse = jnp.float32(1) / jnp.where(scales > 0, scales, jnp.float32(1))
    inverse = jnp.minimum(inverse, jnp.float32(_LARGEST))[:, None]
    whole, places = whole.astype(jnp.float32), centroids.astype(jnp.float32)
    if not _ffi.AVAILABLE:
        shift = jax.lax.optimization_barrier(inverse * shifts[None, :])  # lest XLA fuse them
        return jnp.argmax(whole @ places.T + shift, axis=1).astype(jnp.int32)
    # The shift stands last, for the kernel sums in the order of the coordinates: of five queries
    # or more.
    asked = jnp.pad(jnp.concatenate([whole, inverse], axis=1), ((0, 5), (0, 0)))
    given = jnp.concatenate([places, shifts[:, None]], axis=1)
    best = topk.rows(asked, given, jnp.zeros_like(shifts), k=1)
    return best.ids[: rows.shape[0], 0]


def _all_codes(centroids: jax.Array, shifts: jax.Array, weights: jax.Array) -> jax.Array:
    """The codes of all rows."""
    return _by_chunks(lambda rows: _codes(centroids, shifts, rows), weights, jnp.int32)


def _squares(metric: jax.Array, weights: jax.Array) -> jax.Array:
    """wᵀM w of all rows, float32 [N]."""
    return _by_chunks(lambda rows: jnp.sum((rows @ metric) * rows, axis=1), weights, jnp.float32)


def _by_chunks(f: Callable[[jax.Array], jax.Array], weights: jax.Array, dtype: Any) -> jax.Array:
    """f of all rows, some at a time: a number for each."""
    num_rows = weights.shape[0]
    chunk = min(_CHUNK, num_rows)

    def body(i: jax.Array, out: jax.Array) -> jax.Array:
        # The last chunk begins early rather than reach past the end.
        start = jnp.minimum(i * jnp.int32(chunk), jnp.int32(num_rows - chunk))
        fresh = f(slice_rows(weights, start, chunk))
        return jax.lax.dynamic_update_slice_in_dim(out, fresh, start, axis=0)

    return jax.lax.fori_loop(
        jnp.int32(0), jnp.int32(-(-num_rows // chunk)), body, jnp.zeros(num_rows, dtype)
    )


def _pack(
    index: ClusterIndex, codes: jax.Array, weights: jax.Array, bias: jax.Array
) -> ClusterIndex:
    """The index with its rows in the order of `codes`."""
    if _ffi.AVAILABLE:
        held = (index.offsets, index.members, index.bytes, index.scales, index.biases)
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in held]
        packed = _ffi.call("clusters_pack", results)(weights, bias, codes)
        offsets, members, whole, scales, biases = packed
    else:
        members = jnp.argsort(codes, stable=True).astype(jnp.int32)
        lists = jnp.arange(index.num_lists + 1, dtype=jnp.int32)
        offsets = jnp.searchsorted(codes[members], lists).astype(jnp.int32)
        whole, scales = _to_bytes(weights.astype(jnp.float32))
        whole, scales, biases = whole[members], scales[members], jnp.take(bias, members)
    return dataclasses.replace(
        index,
        codes=codes,
        offsets=offsets,
        members=members,
        bytes=whole,
        scales=scales,
        biases=biases,
    )


def _first_pass(
    index: ClusterIndex, shorts: jax.Array, scale: jax.Array, max_rows: int, rescored: int
) -> jax.Array:
    """The fallback's choice of rows to score exactly: ids [B, rescored], −1 = none."""
    sizes = jnp.diff(index.offsets)
    scores = _byte_scores(index.keys[None], index.key_scales[None], shorts, scale)
    scores = scores + index.key_biases[None, :]
    scores = jnp.where((sizes > 0)[None, :] & ~jnp.isnan(scores), scores, -jnp.inf)
    order = jnp.argsort(jnp.where(scores == 0, jnp.float32(0), -scores), axis=1, stable=True)
    ends = jnp.cumsum(sizes[order], axis=1)
    slots = jnp.arange(max_rows, dtype=jnp.int32)
    which = jax.vmap(lambda e: jnp.searchsorted(e, slots, side="right"))(ends)
    lists = jnp.take_along_axis(order, jnp.minimum(which, index.num_lists - 1), axis=1)
    starts = jnp.take_along_axis(ends - sizes[order], jnp.minimum(which, index.num_lists - 1), 1)
    places = index.offsets[lists] + slots[None, :] - starts
    valid = slots[None, :] < ends[:, -1:]
    places = jnp.where(valid, places, 0)
    first = _byte_scores(index.bytes[places], index.scales[places], shorts, scale)
    first = jnp.where(valid, first + index.biases[places], -jnp.inf)
    return topk._best(first, index.members[places], rescored).ids


def _byte_scores(
    whole: jax.Array, scales: jax.Array, shorts: jax.Array, scale: jax.Array
) -> jax.Array:
    """float32 [B, m]: scales · scale · (bytes · query), from bytes [B or 1, m, d], exact but one
    rounding; behind a barrier, lest XLA fuse the product into the sum that follows."""
    whole = jnp.broadcast_to(whole, (shorts.shape[0], *whole.shape[1:]))
    sums = jnp.einsum("bmd,bd->bm", whole.astype(jnp.int32), shorts)
    return jax.lax.optimization_barrier(sums.astype(jnp.float32) * (scales * scale[:, None]))


def _check(weights: jax.Array, bias: jax.Array) -> None:
    if weights.ndim != 2 or bias.shape != weights.shape[:1]:
        raise ValueError(f"weights {weights.shape} and bias {bias.shape}: must be [N, d] and [N]")
    if not 1 <= weights.shape[1] <= MAX_DIM:
        raise ValueError(
            f"weights has {weights.shape[1]} columns: codes are exact for 1 to {MAX_DIM}; "
            "search a projection of wider rows"
        )
