"""Chooses an LSH index for a layer: family, bits, tables and bucket size, from a sample.

`plan` predicts, for many configurations, the bytes and the recall, and takes the best recall that
fits the memory; `measure` builds the chosen one and says what it is in truth.

The prediction: a sample of rows and queries is hashed with a family's functions, which estimates
for each pair how often it shares a bucket. The count of shared tables is then binomial. Of all rows
the M with the highest counts become candidates; the sample says how many rows pass each count, so
which count is the cut, and with what probability a row of the exact top k passes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.retrieval import hashing, index, tables, topk
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.retrieval.index import IndexConfig

__all__ = [
    "Measured",
    "Plan",
    "Sample",
    "as_dict",
    "measure",
    "plan",
    "predict_bytes",
    "sample",
]

_DRAWS = 256  # tables hashed to estimate how often a pair shares a bucket
_GRID = 2048  # steps of that chance, in the table of binomial tails


class Sample(NamedTuple):
    """What predictions rest on; `sample` makes it."""

    rows: np.ndarray  # float32 [S, d]; random rows of the layer
    mean: np.ndarray  # float32 [d]; of all rows
    best: np.ndarray  # float32 [Q, k, d]; the rows of the exact top k of each query
    queries: np.ndarray  # float32 [Q, d]
    centre: np.ndarray  # float32 [d]; mean query
    num_rows: int


class Plan(NamedTuple):
    """A configuration, and what it should give; `plan` makes it."""

    config: IndexConfig
    predicted_bytes: int
    predicted_recall: float  # of the exact top k among the candidates of a query
    active: int  # rows of the active set that the candidates are for


class Measured(NamedTuple):
    """What a plan gives in truth; `measure` finds it."""

    bytes: int
    recall: float


def sample(
    key: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    queries: jax.Array,
    *,
    k: int = 5,
    num_rows: int = 4096,
    num_queries: int = 32,
) -> Sample:
    """Draws rows and queries, and finds the exact top k of the queries.

    Args:
      key: PRNG key.
      weights: float32 [N, d].
      bias: float32 [N].
      queries: float32 [Q, d], activations such as the index will see.
      k: best rows to find.
      num_rows: rows to draw.
      num_queries: queries to draw.

    Returns:
      A `Sample`.

    Example:
      >>> rows = jax.random.normal(jax.random.key(0), (400, 16))
      >>> drawn = sample(jax.random.key(1), rows, jnp.zeros(400), rows[:50], k=3, num_queries=8)
      >>> drawn.best.shape, drawn.num_rows
      ((8, 3, 16), 400)
    """
    total = weights.shape[0]
    row_key, query_key = jax.random.split(key)
    some = jax.random.choice(row_key, total, (min(num_rows, total),), replace=False)
    count = min(num_queries, queries.shape[0])
    asked = queries[jax.random.choice(query_key, queries.shape[0], (count,), replace=False)]
    best = topk.rows(asked, weights, bias, k=min(k, total)).ids
    as_numpy = np.asarray
    return Sample(
        rows=as_numpy(weights[some]),
        mean=as_numpy(transforms.fit("centred", weights).mean),
        best=as_numpy(weights[best]),
        queries=as_numpy(asked),
        centre=as_numpy(queries).mean(0),
        num_rows=total,
    )


def plan(
    drawn: Sample,
    *,
    batch_size: int,
    memory: int,
    active_fraction: float,
    families: Sequence[str] = ("simhash", "wta"),
    num_tables: Sequence[int] = (4, 8, 16, 32, 64),
    num_bits: Sequence[int] | None = None,
    fill: Sequence[int] = (2, 4),
) -> list[Plan]:
    """Configurations that fit the memory, the best predicted recall first.

    An active set of active_fraction·N rows is shared by a batch, so each example has room for
    max_candidates = active_fraction·N / batch_size of them, at least one.

    Args:
      drawn: from `sample`.
      batch_size: examples that share an active set.
      memory: bytes that tables and hash functions may take.
      active_fraction: of the rows, in (0, 1].
      families: LSH families to try.
      num_tables: L to try.
      num_bits: K to try; None: mean buckets of about 4 to 128 rows.
      fill: capacities to try, in multiples of the mean bucket.

    Returns:
      Plans, of equal recall the smaller first. Empty where nothing fits.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> rows = jax.random.normal(jax.random.key(0), (400, 16))
      >>> drawn = sample(jax.random.key(1), rows, jnp.zeros(400), rows[:50], num_queries=8)
      >>> best = plan(drawn, batch_size=8, memory=200_000, active_fraction=0.5,
      ...             families=("simhash",), num_bits=(4, 5))[0]
      >>> best.predicted_bytes <= 200_000, best.config.max_candidates
      (True, 25)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: must be at least 1")
    if not 0 < active_fraction <= 1:
        raise ValueError(f"active_fraction = {active_fraction}: must be above 0 and at most 1")
    unknown = set(families) - set(hashing.FAMILIES) | set(families) & {"minhash"}
    if unknown:
        known = sorted(set(hashing.FAMILIES) - {"minhash"})
        raise ValueError(f"families has {sorted(unknown)}: must be of {known}, for dense rows")
    active = max(1, int(active_fraction * drawn.num_rows))
    most = max(1, active // batch_size)
    if num_bits is None:
        fits = math.log2(max(2, drawn.num_rows))
        num_bits = sorted({max(1, min(20, round(fits - less))) for less in (2, 3, 4, 5, 6, 7)})
    out = []
    for family, bits in itertools.product(families, num_bits):
        if family in ("wta", "dwta") and bits % 3:
            continue  # their digits take three bits
        hashed = None
        for count, times in itertools.product(num_tables, fill):
            capacity = max(4, math.ceil(times * drawn.num_rows / 2**bits))
            config = IndexConfig(
                family=family,
                num_tables=count,
                num_bits=bits,
                capacity=capacity,
                max_candidates=most,
            )
            size = predict_bytes(drawn.num_rows, drawn.rows.shape[1], config=config)
            if size > memory:
                continue
            hashed = hashed or _hash(drawn, family, bits)
            out.append(Plan(config, size, _recall(drawn, config, hashed), active))
    return sorted(out, key=lambda p: (-round(p.predicted_recall, 3), p.predicted_bytes))


def predict_bytes(num_rows: int, dim: int, *, config: IndexConfig) -> int:
    """Bytes of the tables and hash functions of an index over [num_rows, dim].

    Args:
      num_rows: N.
      dim: d.
      config: of the index.

    Returns:
      Bytes.

    Example:
      >>> predict_bytes(1000, 8, config=IndexConfig(num_tables=2, num_bits=4, capacity=100))
      25196
    """
    held = tables.memory_bytes(
        num_rows,
        num_tables=config.num_tables,
        num_buckets=2**config.num_bits,
        capacity=config.bucket_capacity(num_rows),
    )
    return held + _nbytes(jax.eval_shape(lambda: _family(config, dim, config.num_tables)))


def measure(
    key: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    queries: jax.Array,
    *,
    config: IndexConfig,
    k: int = 5,
) -> Measured:
    """Builds the index, and looks for the exact top k among its candidates.

    Args:
      key: PRNG key of the index.
      weights: float32 [N, d].
      bias: float32 [N].
      queries: float32 [Q, d]; others than the sample's, to be fair.
      config: what to build.
      k: best rows to look for.

    Returns:
      `Measured`.

    Example:
      >>> rows = jax.random.normal(jax.random.key(0), (200, 8))
      >>> config = IndexConfig(num_tables=32, num_bits=3, max_candidates=100)
      >>> bias, queries = jnp.zeros(200), rows[:20]
      >>> measure(jax.random.key(1), rows, bias, queries, config=config, k=1).recall > 0.9
      True
    """
    made = jax.jit(lambda key, w: index.init(key, w, config=config))(key, weights)
    made = index.observe(made, queries)
    found = index.candidates(made, queries, config=config).ids
    exact = topk.rows(queries, weights, bias, k=min(k, weights.shape[0])).ids
    hits = jnp.any(found[:, :, None] == exact[:, None, :], axis=1)
    recall = float(jnp.mean(hits.astype(jnp.float32)))
    return Measured(_nbytes(made.tables) + _nbytes(made.hash_params), recall)


def _family(config: IndexConfig, dim: int, num_tables: int):  # type: ignore[no-untyped-def]
    family = hashing.FAMILIES[config.family]
    return family.init(jax.random.key(0), dim, num_tables=num_tables, num_bits=config.num_bits)


def _nbytes(tree: object) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


class _Hashed(NamedTuple):
    """How the sample falls into the buckets of T tables."""

    rows: np.ndarray  # bool [Q, S, T]; a row shares the query's bucket
    best: np.ndarray  # bool [Q, k, T]
    row_sizes: np.ndarray  # float [S, T]; rows of all N in that bucket
    best_sizes: np.ndarray  # float [Q, k, T]


def _hash(drawn: Sample, family: str, num_bits: int) -> _Hashed:
    config = IndexConfig(family=family, num_bits=num_bits)
    params = _family(config, drawn.rows.shape[1], _DRAWS)
    run = jax.jit(hashing.hash)

    def codes(x: np.ndarray) -> np.ndarray:
        return np.asarray(run(params, jnp.asarray(x.reshape(-1, x.shape[-1])))).reshape(
            *x.shape[:-1], _DRAWS
        )

    rows = codes(drawn.rows - drawn.mean)
    best = codes(drawn.best - drawn.mean)
    queries = codes(drawn.queries - drawn.centre)
    share = drawn.num_rows / len(rows)  # rows that a row of the sample stands for
    return _Hashed(
        rows == queries[:, None, :],
        best == queries[:, None, :],
        _sizes(rows, rows, share),
        _sizes(best, rows, share),
    )


def _sizes(codes: np.ndarray, rows: np.ndarray, share: float) -> np.ndarray:
    """Sizes of the buckets `codes` [..., T], as the sample's codes [S, T] tell them."""
    out = np.empty(codes.shape)
    for t in range(codes.shape[-1]):
        ordered = np.sort(rows[:, t])
        first, last = (np.searchsorted(ordered, codes[..., t], side) for side in ("left", "right"))
        out[..., t] = np.maximum(1.0, (last - first) * share)
    return out


def _recall(drawn: Sample, config: IndexConfig, hashed: _Hashed) -> float:
    """Expected share of the best rows among the candidates."""
    count, most = config.num_tables, config.max_candidates
    capacity = config.bucket_capacity(drawn.num_rows)
    share = drawn.num_rows / len(drawn.rows)
    # A bucket that is too full holds a row with this chance.
    kept = np.minimum(1.0, capacity / hashed.row_sizes)
    together = np.einsum("qst,st->qs", hashed.rows, kept) / _DRAWS
    places = np.minimum(1.0, capacity / hashed.best_sizes)
    chances = (hashed.best * places).mean(-1)
    grid = _tails(np.linspace(0, 1, _GRID + 1), count)
    total = 0.0
    for near, own in zip(together, chances, strict=True):
        passing = share * grid[np.rint(near * _GRID).astype(int)].sum(0)  # share c tables or more
        found = grid[np.rint(own * _GRID).astype(int)]
        cut = 1 + int(np.argmax(np.append(passing[1:], 0) <= most))
        chance = found[:, min(cut, count + 1)]
        if cut > 1:  # of those with one table less, as many as there is still room for
            tie = max(passing[cut - 1] - passing[cut], 1e-9)
            room = min(1.0, max(0.0, most - passing[cut]) / tie)
            chance = chance + room * (found[:, cut - 1] - found[:, cut])
        total += float(chance.mean())
    return total / len(together)


def _tails(p: np.ndarray, n: int) -> np.ndarray:
    """P(Binomial(n, p) >= c) for c = 0 … n + 1: [len(p), n + 2]."""
    c = np.arange(n + 1)
    choose = np.array([math.comb(n, int(i)) for i in c], np.float64)
    p = np.clip(p, 0.0, 1.0)[:, None]
    mass = choose * p**c * (1 - p) ** (n - c)
    return np.concatenate([np.cumsum(mass[:, ::-1], 1)[:, ::-1], np.zeros((len(p), 1))], axis=1)


def as_dict(chosen: Plan) -> dict[str, Any]:
    """A plan for a report: the choices, without the schedules.

    Args:
      chosen: of `plan`.

    Returns:
      Numbers and strings by name.

    Example:
      >>> as_dict(Plan(IndexConfig(capacity=8), 10, 0.5, 3))["num_tables"]
      16
    """
    names = ("family", "num_tables", "num_bits", "capacity", "max_candidates")
    config = {name: getattr(chosen.config, name) for name in names}
    rest = {n: v for n, v in chosen._asdict().items() if n != "config"}
    return config | rest
