"""Each kernel and the plain JAX (or NumPy) it must equal, on the same random arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import ops
from sparse_jax.ops import (
    active_sets,
    adam,
    bag,
    bf16,
    ensemble,
    ffi,
    label_tree,
    mach,
    minhash,
    neighbours,
    partition,
    quantized,
    rows,
    softmax,
    tables,
    text_features,
    topk,
    unique,
    wide,
    xmc_parser,
)
from sparse_jax.ops.wide import Entries

N, D, B = 40, 20, 7
pytestmark = pytest.mark.usefixtures("quick_compiles")
# Tested in layers, rows and test_mixing.py; neighbours with the ensemble, whose kernel finds them.
WITHOUT_KERNEL = {"exporting", "ffi", "finite", "fixed_order", "mixing", "threads", "whole"}
WITHOUT_KERNEL |= {"neighbours"}


class Case(NamedTuple):
    """A function of random arrays, and how near two results must be; 0 means equal bits."""

    run: Callable[[np.random.Generator], Any]
    rtol: float = 0.0


def ints(rng: np.random.Generator, low: int, high: int, *shape: int) -> jax.Array:
    return jnp.asarray(rng.integers(low, high, shape), jnp.int32)


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def distinct_ids(rng: np.random.Generator, count: int = 12) -> jax.Array:
    """Of rows, with some out of range on both sides."""
    return jnp.asarray([-1, *rng.permutation(N)[:count], N, 2**31 - 1], jnp.int32)


def jitted(function: Callable[..., Any], *arrays: Any) -> Any:
    """Traced anew: jit keeps what it traced by the function."""
    return jax.jit(lambda *given: function(*given))(*arrays)


def run_active_sets(rng: np.random.Generator) -> Any:
    seeds = jnp.asarray(rng.integers(0, 2**32, (3, 2)), jnp.uint32)
    labels, found = ints(rng, -1, N + 2, 3, 5), ints(rng, -1, N + 2, 3, 9)
    scores = ints(rng, 0, 4, 3, 9)
    return [
        jitted(
            lambda *given, size=size: active_sets.active_sets(*given, size=size, num_rows=N),
            seeds,
            labels,
            found,
            scores,
        )
        for size in (4, 16, N + 3)
    ]


def run_adam(rng: np.random.Generator) -> Any:
    scalars = [0.9, 0.99, 0.1, 0.01, 1e-6, 1e-7, 0.3, 0.04, -0.1]
    ids = distinct_ids(rng)
    mu, nu, grad = normal(rng, N, D), normal(rng, N, D) ** 2, normal(rng, ids.size, D)
    given = jnp.asarray(scalars, jnp.float32)
    return [
        jitted(adam.adam_rows, mu, nu, ids, grad, given),
        jitted(adam.adam_rows_added, mu, nu, normal(rng, N, D), ids, grad, given),
    ]


def run_bag(rng: np.random.Generator) -> Any:
    table, weights, out = normal(rng, N, D), normal(rng, 60), normal(rng, B, D)
    positions, segments = ints(rng, -1, N, 60), jnp.sort(ints(rng, -1, B, 60))

    def both(table: jax.Array, weights: jax.Array, out: jax.Array) -> Any:
        found, pull = jax.vjp(
            lambda t, w: bag.weighted_sum(t, positions, segments, w, B), table, weights
        )
        return found, pull(out)

    return jitted(both, table, weights, out)


def run_bf16(rng: np.random.Generator) -> Any:
    table, ids = normal(rng, N, D).astype(jnp.bfloat16), distinct_ids(rng)
    added = jitted(bf16.add_bf16, table, ids, normal(rng, ids.size, D), jnp.uint32(5))
    return jax.lax.bitcast_convert_type(added, jnp.uint16), jitted(bf16.take_bf16, table, ids)


def entries(rng: np.random.Generator) -> Entries:
    """Of B points, in order, distinct in each, some of them padding; the last point has none."""
    points = jnp.repeat(jnp.arange(B - 1, dtype=jnp.int32), 5)
    ids = np.concatenate([rng.permutation(N)[:5] for _ in range(B - 1)])
    ids = np.where(rng.random(ids.size) < 0.2, -1, ids)
    return Entries(jnp.asarray(ids, jnp.int32), points, normal(rng, ids.size))


def by_feature(rng: np.random.Generator, columns: int) -> tuple[jax.Array, jax.Array]:
    """(offsets [N + 1], ascending columns of each of N features)."""
    held = rng.random((N, columns)) < 0.2
    held[:, 0] = False  # in a tree this is the root
    offsets = np.concatenate([[0], held.sum(axis=1).cumsum()])
    return jnp.asarray(offsets, jnp.int32), jnp.asarray(np.nonzero(held)[1], jnp.int32)


def tree(rng: np.random.Generator, num_labels: int = 12) -> label_tree.LabelTree:
    """A root, its three children, four labels below each."""
    count = 1 + 3 + num_labels
    offsets, nodes = by_feature(rng, count)
    children = jnp.asarray([1, 4, 8, 12, 16], jnp.int32)
    labels = jnp.asarray(rng.permutation(num_labels), jnp.int32)
    weights, bias = normal(rng, nodes.size), normal(rng, count)
    return label_tree.LabelTree(offsets, nodes, weights, bias, children, labels, depth=2)


def run_label_tree(rng: np.random.Generator) -> Any:
    forest, given = tree(rng), entries(rng)
    scores = [
        jitted(lambda t, e, b=beam: label_tree.tree_scores(t, e, B, b), forest, given)
        for beam in (1, 2, 9)
    ]
    points, features = 24, 10
    held = rng.random((points, features)) < 0.4
    arrays = (
        np.concatenate([[0], held.sum(axis=1).cumsum()]),
        np.nonzero(held)[1].astype(np.int32),
        rng.standard_normal(held.sum()).astype(np.float32),
    )
    members = np.arange(points, dtype=np.int32)
    level = label_tree.Level(
        np.array([0, 14, points]),
        members,
        np.array([0, 2, 5]),
        np.array([0, 6, 14, 18, 20, 24]),
        members,
    )
    return scores, label_tree.fit_tree_level(arrays, features, level, label_tree.Svm(), 3)


def wide_part(rng: np.random.Generator, num_labels: int = 12) -> ensemble.WidePart:
    offsets, labels = by_feature(rng, num_labels)
    bias = normal(rng, num_labels)
    return ensemble.WidePart(
        offsets, labels, normal(rng, labels.size), bias, ensemble.order_by_bias(bias)
    )


def stored_points(rng: np.random.Generator) -> neighbours.Neighbours:
    """More of them than are looked at, some without labels, many equally near."""
    offsets, points = by_feature(rng, 90)
    starts = np.concatenate([[0], rng.integers(0, 3, 90).cumsum()])
    labels = ints(rng, 0, 12, int(starts[-1]))
    values = jnp.abs(ints(rng, -2, 4, points.size).astype(jnp.float32))
    weights = normal(rng, labels.size) ** 2
    return neighbours.Neighbours(
        offsets, points, values, jnp.asarray(starts, jnp.int32), labels, weights, jnp.float32(0.7)
    )


def run_ensemble(rng: np.random.Generator) -> Any:
    part, trees, given = wide_part(rng), [tree(rng), tree(rng)], entries(rng)
    near = stored_points(rng)
    layer = ensemble.LastLayer(normal(rng, B, D), normal(rng, 12, D), normal(rng, 12))
    halves = {"weight": jnp.float32(0.5), "tree_weight": jnp.float32(0.2)}
    return [
        jitted(
            lambda near, *parts, k=k: ensemble.ensemble_topk(
                *parts, num_points=B, near=near, beam=2, k=k, **halves
            ),
            near if with_near else None,
            part,
            trees,
            layer if with_layer else None,
            given,
        )
        for with_layer in (False, True)
        for with_near in (False, True)
        for k in (3, 14)
    ]


def run_partition(rng: np.random.Generator) -> Any:
    """Logits of a trained softmax's size; rows left out, and more of them than a panel holds."""
    bias = jnp.where(jnp.arange(150) % 7 == 3, -jnp.inf, normal(rng, 150))
    first = jnp.asarray([0, 0, 2, 1, 4, 9, -1], jnp.int32)
    queries = normal(rng, B, D) * 2
    queries = queries[jnp.asarray([0, 0, 2, 0, 4, 5, 6])]
    return jitted(partition.log_partition, queries, normal(rng, 150, D) * 0.3, bias, first)


def run_quantized(rng: np.random.Generator) -> Any:
    lookup = jnp.asarray(rng.integers(0, 256, (B, 6, 16)), jnp.uint8)
    codes = jnp.asarray(rng.integers(0, 256, (2, 3, quantized.BLOCK)), jnp.uint8)
    biases = normal(rng, 64).at[60:].set(-jnp.inf)
    below, steps, scales = ints(rng, -99, 0, B), normal(rng, B) ** 2, normal(rng, 64) ** 2
    return [
        jitted(
            lambda *given, limit=limit: quantized.quantized_scan(*given, limit),
            lookup,
            below,
            steps,
            codes,
            scales,
            biases,
        )
        for limit in (5, 64)
    ]


def run_rows(rng: np.random.Generator) -> Any:
    ids = jnp.asarray([N, *rng.permutation(N)[:12], 2**31 - 1], jnp.int32)
    return jitted(rows.add_rows, normal(rng, N, D), ids, normal(rng, ids.size, D))


def run_softmax(rng: np.random.Generator) -> Any:
    hidden, weights, bias = normal(rng, B, D), normal(rng, N, D), normal(rng, N)
    bias = bias.at[::7].set(-jnp.inf)
    examples, places = jnp.sort(ints(rng, 0, B - 1, 11)), ints(rng, -1, N // 7, 11) * 7 + 1
    scale = normal(rng, B)

    def both(hidden: jax.Array, weights: jax.Array, bias: jax.Array) -> Any:
        def total(*given: jax.Array) -> Any:
            loss, best = softmax.head(*given, examples, places)
            return jnp.sum(scale * loss), (loss, best)

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(hidden, weights, bias)

    return jitted(both, hidden, weights, bias)


def run_tables(rng: np.random.Generator) -> Any:
    empty = [
        tables.HashTables(
            buckets=jnp.full((3, 8, 4), -1, jnp.int32),
            sizes=jnp.zeros((3, 8), jnp.int32),
            codes=jnp.full((3, N), -1, jnp.int32),
            stamps=jnp.zeros(N, jnp.int32),
            clock=jnp.int32(9),
            rejected=jnp.int32(0),
            seed=jnp.int32(17),
            policy=policy,
        )
        for policy in tables.POLICIES
    ]
    codes, stamps = ints(rng, -1, 9, 3, N), ints(rng, 0, 9, N)
    ids, fresh, asked = ints(rng, -1, N + 2, 15), ints(rng, -2, 9, 15, 3), ints(rng, -1, 9, B, 3)

    def life(held: tables.HashTables) -> Any:
        built = tables.tables_build(held, codes, stamps)
        names = ("codes", "stamps", "buckets", "sizes")
        held = dataclasses.replace(held, **dict(zip(names, built, strict=True)))
        written = [tables.tables_write(held, ids, fresh, restamp) for restamp in (False, True)]
        return built, written, [tables.tables_query(held, asked, most) for most in (3, 20)]

    return [jitted(life, held) for held in empty]


def run_mach(rng: np.random.Generator) -> Any:
    buckets = mach.Buckets(50, 8, repetitions=3, seed=2)
    logits = jnp.round(normal(rng, B, buckets.num_rows), 1).at[1, 3].set(jnp.nan)
    return [
        jitted(lambda x, p=p, k=k: mach.mach_topk(x, buckets, probes=p, k=k), logits)
        for p, k in ((1, 4), (3, 60))
    ]


def run_topk(rng: np.random.Generator) -> Any:
    queries, weights, bias = normal(rng, B, D), normal(rng, N, D), normal(rng, N)
    weights, bias = weights.at[3].set(weights[2]), bias.at[3].set(bias[2])  # a tie
    bias = bias.at[5].set(jnp.nan)
    some = jnp.stack([distinct_ids(rng) for _ in range(B)])
    return [
        (
            jitted(lambda *given, k=k: topk.topk_rows(*given, k), queries, weights, bias),
            jitted(lambda *given, k=k: topk.topk_among(*given, k), queries, weights, bias, some),
            [
                jitted(
                    lambda *given, k=k: topk.topk_run(*given, size=7, k=k),
                    *(queries, weights, bias, jnp.int32(first)),
                )
                for first in (0, 2, N - 7, N + 3, -4)
            ],
        )
        for k in (1, 6, N + 2)
    ]


def run_unique(rng: np.random.Generator) -> Any:
    ids = ints(rng, -1, N + 2, 50)
    return [
        jitted(lambda ids, s=size: unique.unique_ids(ids, num_rows=N, size=s), ids)
        for size in (9, 60)
    ]


def run_wide(rng: np.random.Generator) -> Any:
    part, given = wide_part(rng), entries(rng)
    labels = ints(rng, -1, 12, 9), jnp.sort(ints(rng, 0, B, 9))
    state = [part.weights, jnp.ones_like(part.weights), part.bias, jnp.ones_like(part.bias)]
    stepped = [
        jitted(
            lambda *parts, g=group: wide.wide_step(*parts, num_points=B, group=g),
            part.offsets,
            part.label_ids,
            state,
            given,
            labels,
            jnp.float32(0.3),
        )
        for group in (1, 3)
    ]
    offsets = np.arange(0, 91, 3)
    pairs = wide.co_occurring(
        offsets,
        rng.permuted(np.tile(np.arange(N, dtype=np.int32), (30, 1)), axis=1)[:, :3].ravel(),
        offsets,
        rng.permuted(np.tile(np.arange(12, dtype=np.int32), (30, 1)), axis=1)[:, :3].ravel(),
        N,
        12,
        0.3,
    )
    return jitted(lambda *p: wide.wide_scores(*p, B), *part[:4], given), stepped, pairs


def run_minhash(rng: np.random.Generator) -> Any:
    sets = [np.sort(rng.permutation(N)[: rng.integers(9)]) for _ in range(B)]
    offsets, ids = np.cumsum([0, *map(len, sets)]), np.concatenate(sets).astype(np.int32)
    words, strides = rng.integers(1, 2**32, 6, np.uint32), rng.integers(1, 11, 8, np.int32)
    codes = minhash.codes(minhash.Params(words[:2], words[2:], strides, 30, 11), offsets, ids)
    return codes, *minhash.Matcher(4, 0.1, 8).add(offsets, ids, codes)


def run_text_features(rng: np.random.Generator) -> Any:
    words = np.array(["red", "Apple", "a", "größe", "x1", "the", "C++", "日本"])
    texts = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(B)]
    options = text_features.Options(words=True, pairs=True, low=2, high=4)
    found, counts = text_features.fit_vocabulary(texts, options, 2, 50, str.lower)
    names = np.frombuffer("\n".join(found.names).encode(), np.uint8)
    known = text_features.count_known(texts[::-1], options, found.keys, str.lower)
    hashed = text_features.hash_texts(texts, options, 1000, str.lower)
    return found.keys, found.frequencies, names, counts, known, hashed


def run_xmc_parser(rng: np.random.Generator) -> Any:
    lines = [b"40 30 12"]
    for _ in range(40):
        labels = ",".join(map(str, rng.permutation(12)[: rng.integers(0, 4)]))
        held = rng.permutation(30)[: rng.integers(0, 6)]
        pairs = " ".join(f"{i}:{rng.normal():.7g}" for i in held)
        lines.append(f"{labels} {pairs}".encode())
    return xmc_parser.parse_xmc(b"\n".join(lines))


CASES = {
    "active_sets": Case(run_active_sets),
    "adam": Case(run_adam, 1e-5),
    "bag": Case(run_bag, 1e-4),
    "bf16": Case(run_bf16),
    "ensemble": Case(run_ensemble, 1e-4),
    "label_tree": Case(run_label_tree, 1e-3),
    "minhash": Case(run_minhash),
    "partition": Case(run_partition, rtol=2e-5),
    "quantized": Case(run_quantized),
    "rows": Case(run_rows),
    "softmax": Case(run_softmax, 1e-4),
    "tables": Case(run_tables),
    "text_features": Case(run_text_features),
    "mach": Case(run_mach),
    "topk": Case(run_topk, 1e-4),
    "unique": Case(run_unique),
    "wide": Case(run_wide, 1e-4),
    "xmc_parser": Case(run_xmc_parser),
}


def test_every_operation_is_compared():
    files = {path.stem for path in Path(ops.__file__).parent.glob("[!_]*.py")}
    assert files == set(CASES) | WITHOUT_KERNEL


@pytest.mark.skipif(not ffi.AVAILABLE, reason="no C++ kernels to compare with")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_kernel_and_fallback_agree(monkeypatch, name, seed):
    case = CASES[name]
    found = []
    for available in (True, False):
        monkeypatch.setattr(ffi, "AVAILABLE", available)
        found.append(jax.tree.map(np.asarray, case.run(np.random.default_rng(seed))))
    kernel, fallback = (jax.tree.leaves(x) for x in found)
    assert len(kernel) == len(fallback) > 0
    for a, b in zip(kernel, fallback, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == np.float32 and case.rtol:
            np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.rtol / 10)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_comparison_can_fail(monkeypatch, name):
    """Other arrays give other results: what is compared isn't empty or constant."""
    monkeypatch.setattr(ffi, "AVAILABLE", False)
    results = [jax.tree.leaves(CASES[name].run(np.random.default_rng(seed))) for seed in (0, 1)]
    pairs = [tuple(map(np.asarray, pair)) for pair in zip(*results, strict=True)]
    same = [np.array_equal(a, b, equal_nan=a.dtype == np.float32) for a, b in pairs]
    assert not all(same) and sum(same) <= len(same) / 2
