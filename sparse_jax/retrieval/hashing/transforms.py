"""Key transforms: what of a row is hashed, so that collisions follow inner products.

Hashing by angle finds large cosines; an output layer wants large inner products. A transform maps
rows to keys and activations to queries so that the two agree better. It is fitted to the rows once
and then fixed: the keys of some rows are the keys of all rows, at those rows, bit for bit.

Scales do not matter: every family here is invariant to a positive factor on its input, so the
norms that the papers divide by are left in.
"""

from __future__ import annotations

import dataclasses
import difflib

import jax
import jax.numpy as jnp

from sparse_jax.ops.whole import one_program
from sparse_jax.retrieval.hashing import _common as common

__all__ = [
    "NAMES",
    "KeyTransform",
    "fit",
    "keys",
    "queries",
    "ranges",
]

#: Names accepted by `fit`.
NAMES = ("none", "centred", "bias", "bias_centred", "alsh", "norm_range")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyTransform:
    """A fitted transform; `fit` makes one.

    Attributes:
      mean: float32 [dim] (centred), [dim + 1] (bias_centred), else [0].
      bounds: float32 [R], ascending: the largest squared norm of each range (alsh: R = 1; without
        norms: R = 0).
    """

    mean: jax.Array
    bounds: jax.Array
    name: str = dataclasses.field(metadata=dict(static=True))
    dim: int = dataclasses.field(metadata=dict(static=True))

    @property
    def uses_bias(self) -> bool:
        """Whether `keys` needs the bias of the rows."""
        return self.name.startswith("bias")

    @property
    def transformed_dim(self) -> int:
        """Width of keys and queries: the `dim` to give a hash family."""
        return self.dim if self.name in ("none", "centred") else self.dim + 1


@one_program("name", "num_ranges")
def fit(
    name: str, weights: jax.Array, bias: jax.Array | None = None, *, num_ranges: int = 8
) -> KeyTransform:
    """Fit a transform to all rows.

    | name | key of (w, b) | query of h | follows |
    |---|---|---|---|
    | none | w | h | cos(w, h) |
    | centred | w - mean(w) | h | the order of h.w for each h, less anisotropy |
    | bias | [w; b] | [h; 1] | h.w + b |
    | bias_centred | [w; b] - mean | [h; 1] | both |
    | alsh | [w; sqrt(M^2 - |w|^2)] | [h; 0] | cosine = h.w / (|h| M), M = max |w| |
    | norm_range | the same with M_j, the maximum of w's range of norms | [h; 0] | h.w / (|h| M_j) |

    norm_range cuts the rows into `num_ranges` ranges of equal count by their norm. Within a range
    the cosine orders rows by inner product, and is larger than alsh's, whose M is set by the few
    longest rows; across ranges it favours short rows. The paper keeps an index for each range and
    probes them by bound: `ranges` gives the range of each row for that.

    Means and squared norms are sums of integers (rows rounded with a power-of-two scale), so they
    are the same bits at any thread count and for any subset of rows. The mean is within about
    max(2**-20, N * 2**-30) max|column| of the exact one; as h.mean is a constant of the query, the
    order of h.(w - mean) is that of h.w whatever the mean. Squared norms have a relative error of
    the order of 2**-t at most, t = floor((31 - log2 dim) / 2): 5e-4 at dim 128.

    Args:
      name: one of NAMES.
      weights: float32 [N, dim].
      bias: float32 [N]; required by the bias transforms, ignored by the others.
      num_ranges: R of norm_range.

    Returns:
      A KeyTransform, whose arrays stay fixed until the next fit.

    Raises:
      ValueError: an unknown name, a missing bias, or a wrong shape.

    Example:
      >>> import jax
      >>> w = jax.random.normal(jax.random.key(0), (100, 16))
      >>> transform = fit("alsh", w)
      >>> keys(transform, w[:5]).shape, queries(transform, w[:2]).shape
      ((5, 17), (2, 17))

    References:
      Neyshabur & Srebro, "On symmetric and asymmetric LSHs for inner product search", ICML 2015,
      section 4 (simple-ALSH); Yan, Li, Dai, Chen & Cheng, "Norm-ranging LSH for maximum inner
      product search", NeurIPS 2018, algorithm 1; Spring & Shrivastava, "Scalable and sustainable
      deep learning via randomized hashing", KDD 2017 (bias).
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"name must be one of {NAMES}, got {name!r}{hint}")
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(
            f"weights must have shape [N, dim] with N, dim >= 1, got {weights.shape}; pass all "
            "rows, one a row"
        )
    common.check_int("num_ranges", num_ranges, 1)
    none = jnp.zeros((0,), jnp.float32)
    transform = KeyTransform(none, none, name, weights.shape[1])
    rows = _augment(transform, weights, bias)
    if name in ("centred", "bias_centred"):
        return dataclasses.replace(transform, mean=_column_mean(rows))
    if name in ("alsh", "norm_range"):
        norms = _squared_norms(rows)
        count = norms.shape[0]
        parts = 1 if name == "alsh" else min(num_ranges, count)
        last = [(j + 1) * count // parts - 1 for j in range(parts)]
        bounds = jnp.max(norms)[None] if parts == 1 else jnp.sort(norms)[jnp.asarray(last)]
        return dataclasses.replace(transform, bounds=bounds)
    return transform


@one_program()
def keys(params: KeyTransform, rows: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Keys of some rows; equal to the same rows of the keys of all, bit for bit.

    A row that has grown longer than its largest bound since the fit gets 0 as its last coordinate.

    Args:
      params: from `fit`.
      rows: float32 [U, dim].
      bias: float32 [U], for the bias transforms.

    Returns:
      float32 [U, transformed_dim].

    Raises:
      ValueError: a wrong shape or a missing bias.

    Example:
      >>> w = jnp.array([[1.0, 0.0], [3.0, 0.0]])
      >>> keys(fit("centred", w), w).tolist()
      [[-1.0, 0.0], [1.0, 0.0]]
    """
    out = _augment(params, rows, bias)
    if params.mean.shape[0]:
        return out - params.mean[None, :]
    if params.bounds.shape[0]:
        norms = _squared_norms(out)
        limit = params.bounds[_range_of(params.bounds, norms)]
        rest = jnp.sqrt(jnp.maximum(limit - norms, jnp.float32(0)))
        return jnp.concatenate([out, rest[:, None]], axis=1)
    return out


@one_program()
def queries(params: KeyTransform, h: jax.Array) -> jax.Array:
    """Queries of a batch of activations.

    Args:
      params: from `fit`.
      h: float32 [B, dim].

    Returns:
      float32 [B, transformed_dim].

    Raises:
      ValueError: a wrong shape.

    Example:
      >>> w = jnp.array([[1.0, 0.0], [3.0, 0.0]])
      >>> queries(fit("bias", w, jnp.zeros(2)), jnp.array([[2.0, 5.0]])).tolist()
      [[2.0, 5.0, 1.0]]
    """
    h = _check_rows("h", h, params.dim)
    if params.transformed_dim == params.dim:
        return h
    extra = jnp.float32(1 if params.uses_bias else 0)
    return jnp.concatenate([h, jnp.broadcast_to(extra, (h.shape[0], 1))], axis=1)


@one_program()
def ranges(params: KeyTransform, rows: jax.Array) -> jax.Array:
    """The range of norms that each row is in; 0 where the transform has no ranges.

    Args:
      params: from `fit`.
      rows: float32 [U, dim].

    Returns:
      int32 [U], each in [0, R).

    Raises:
      ValueError: a wrong shape.

    Example:
      >>> w = jnp.array([[1.0], [2.0], [3.0], [4.0]])
      >>> ranges(fit("norm_range", w, num_ranges=2), w).tolist()
      [0, 0, 1, 1]
    """
    rows = _check_rows("rows", rows, params.dim)
    if not params.bounds.shape[0]:
        return jnp.zeros((rows.shape[0],), jnp.int32)
    return _range_of(params.bounds, _squared_norms(rows))


def _check_rows(name: str, rows: jax.Array, dim: int) -> jax.Array:
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(
            f"{name} must have shape [n, {dim}] (the width given to fit), got {rows.shape}; "
            "reshape it, or fit again"
        )
    return rows.astype(jnp.float32)


def _augment(params: KeyTransform, rows: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Append the bias column where the transform has one."""
    rows = _check_rows("rows", rows, params.dim)
    if not params.uses_bias:
        return rows
    if bias is None or bias.shape != rows.shape[:1]:
        got = None if bias is None else bias.shape
        raise ValueError(
            f"bias must have shape {rows.shape[:1]} for transform {params.name!r}, got {got}; "
            "pass the bias of these rows, or use 'none' or 'centred'"
        )
    return jnp.concatenate([rows, bias.astype(jnp.float32)[:, None]], axis=1)


def _column_mean(rows: jax.Array) -> jax.Array:
    """Mean over rows, exact in any order of summation: sums of N integers within int32."""
    clean, _ = common.flatten_features(rows, rows.shape[1])
    count = rows.shape[0]
    bits = min(((2**31 - 1) // count).bit_length() - 1, common.MAX_QUANT_BITS)
    q, shift = common.quantize(clean, bits, axis=0)
    total = jnp.sum(q.astype(jnp.int32), axis=0).astype(jnp.float32)
    # Not total / count: XLA may or may not turn a division by a constant into a product.
    return total * jnp.float32(1 / count) * common.power_of_two(jnp.maximum(-shift[0], -126))


def _squared_norms(rows: jax.Array) -> jax.Array:
    """|w|^2 of each row [U], exact for the row rounded to t bits: sums of squares within int32.

    No product feeds an addition unless it is exact, so contraction to FMA cannot change the bits.
    """
    clean, _ = common.flatten_features(rows, rows.shape[1])
    bits = (((2**31 - 1) // rows.shape[1]).bit_length() - 1) // 2
    q, shift = common.quantize(clean, bits)
    q = q.astype(jnp.int32)
    total = jnp.sum(q * q, axis=1).astype(jnp.float32)
    # Two halves: 2**(-2 shift) alone may not be a float32.
    half = common.power_of_two(jnp.maximum(-shift[:, 0], -126))
    return jnp.minimum(total * half * half, jnp.float32(3e38))


def _range_of(bounds: jax.Array, norms: jax.Array) -> jax.Array:
    """First range whose bound is not below the norm; the last for rows longer than all."""
    index = jnp.searchsorted(bounds, norms, side="left").astype(jnp.int32)
    return jnp.minimum(index, jnp.int32(bounds.shape[0] - 1))
