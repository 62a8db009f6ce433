"""100,000 queries while rows change: build, then rounds of changes, updates and searches.

In each round 1 % of the rows move by a tenth of their length, the index is brought up to date, and
an equal part of the queries runs in batches of 256. Recall is that of the last round, against the
exact top 5 of the rows as they then are.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import searchers
from trained import Trained

from sparse_jax.retrieval import quantized, topk

QUERIES, BATCH, K = 100_000, 256, 5


def run(layer: Trained, rounds: int, methods: list[str]) -> list[dict[str, Any]]:
    """What each way took, as a list of figures."""
    ways: dict[str, Callable[[Trained, list[Any], int], dict[str, float]]] = {}
    ways["exact, kernel"] = functools.partial(_ours, rescored=None)
    for rescored in (64, 256, 1024):
        ways[f"quantized, {rescored} rescored"] = functools.partial(_ours, rescored=rescored)
    if "hnswlib" in methods and importlib.util.find_spec("hnswlib"):
        for ef in (32, 128):
            ways[f"hnswlib M=16, ef={ef}"] = functools.partial(_hnswlib, ef=ef)
    changes = _changes(layer, rounds)
    out = []
    for name, way in ways.items():
        taken = way(layer, changes, max(1, QUERIES // rounds // BATCH))
        total = taken["build_seconds"] + taken["update_seconds"] + taken["search_seconds"]
        out.append({"method": name, "total_seconds": total, **taken})
    return out


def _changes(layer: Trained, rounds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, new rows) of each round."""
    rng = np.random.default_rng(0)
    size = max(1, len(layer.bias) // 100)
    out, rows = [], layer.weights.copy()
    for _ in range(rounds):
        ids = rng.choice(len(rows), size, replace=False).astype(np.int32)
        step = rng.normal(size=(size, rows.shape[1])).astype(np.float32)
        step *= 0.1 * np.linalg.norm(rows[ids], axis=1, keepdims=True) / step.shape[1] ** 0.5
        rows[ids] += step
        out.append((ids, rows[ids].copy()))
    return out


def _batch(layer: Trained) -> np.ndarray:
    return layer.queries[np.arange(BATCH) % len(layer.queries)]


def _recall(found: Any, layer: Trained, rows: jax.Array) -> float:
    truth = topk.rows(jnp.asarray(_batch(layer)), rows, jnp.asarray(layer.bias), k=K).ids
    return float((np.asarray(found)[:, :, None] == np.asarray(truth)[:, None, :]).any(1).mean())


def _ours(layer: Trained, changes: list[Any], calls: int, rescored: int | None) -> dict[str, float]:
    rows, bias, queries = map(jnp.asarray, (layer.weights, layer.bias, _batch(layer)))
    key = jax.random.key(0)
    fit = jax.jit(quantized.fit).lower(key, rows, bias, layer.seen).compile()
    update = jax.jit(quantized.update, donate_argnums=0)
    write = jax.jit(lambda rows, ids, fresh: rows.at[ids].set(fresh), donate_argnums=0)

    @jax.jit
    def search(index: quantized.QuantizedIndex | None, rows: jax.Array) -> jax.Array:
        if index is None or rescored is None:
            return topk.rows(queries, rows, bias, k=K).ids
        return quantized.search(index, queries, rows, bias, k=K, rescored=rescored).ids

    begun = time.perf_counter()
    index = jax.block_until_ready(fit(key, rows, bias, layer.seen)) if rescored else None
    taken = {"build_seconds": time.perf_counter() - begun, "update_seconds": 0.0}
    if index is not None:  # compile outside the clock
        index = update(index, jnp.asarray(changes[0][0]), rows, bias)
    found = jax.block_until_ready(search(index, rows))
    searched = 0.0
    for ids, fresh in changes:
        rows = jax.block_until_ready(write(rows, ids, fresh))
        begun = time.perf_counter()
        if index is not None:
            index = jax.block_until_ready(update(index, jnp.asarray(ids), rows, bias))
        taken["update_seconds"] += time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(calls):
            found = jax.block_until_ready(search(index, rows))
        searched += time.perf_counter() - begun
    return taken | {"search_seconds": searched, "recall@5": _recall(found, layer, rows)}


def _hnswlib(layer: Trained, changes: list[Any], calls: int, ef: int) -> dict[str, float]:
    library = importlib.import_module("hnswlib")
    threads = searchers.num_threads()
    rows = layer.weights.copy()
    whole = np.concatenate([rows, layer.bias[:, None]], axis=1)
    queries = np.concatenate([_batch(layer), np.ones((BATCH, 1), np.float32)], axis=1)
    begun = time.perf_counter()
    graph = library.Index(space="ip", dim=whole.shape[1])
    graph.init_index(max_elements=len(whole), M=16, ef_construction=200, random_seed=1)
    graph.add_items(whole, np.arange(len(whole)), num_threads=threads)
    graph.set_ef(ef)
    taken = {"build_seconds": time.perf_counter() - begun, "update_seconds": 0.0}
    searched = 0.0
    for ids, fresh in changes:
        rows[ids] = fresh
        begun = time.perf_counter()
        # An id that is there is updated in place.
        fresh = np.concatenate([fresh, layer.bias[ids, None]], axis=1)
        graph.add_items(fresh, ids, num_threads=threads)
        taken["update_seconds"] += time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(calls):
            found = graph.knn_query(queries, k=K, num_threads=threads)[0]
        searched += time.perf_counter() - begun
    recall = _recall(found.astype(np.int64), layer, jnp.asarray(rows))
    return taken | {"search_seconds": searched, "recall@5": recall}
