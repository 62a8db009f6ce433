"""Ways to find the top k of an output layer, ours and others', behind one small interface."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from trained import Trained

from sparse_jax.retrieval import index, quantized, topk


@dataclasses.dataclass
class Searcher:
    """One way with one setting."""

    name: str
    setting: str
    prepare: Callable[[np.ndarray], Any]  # queries [B, d] as `search` wants them
    search: Callable[[Any], Any]
    ids: Callable[[Any], np.ndarray]  # int [B, k] from what search gave
    build_seconds: float = 0.0  # wall
    build_cpu_seconds: float = 0.0
    bytes: int = 0  # beside the layer itself; 0 where unknown


class _Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> _Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu

    @property
    def spent(self) -> dict[str, float]:
        return {"build_seconds": self.wall, "build_cpu_seconds": self.cpu}


def num_threads() -> int:
    """What XLA:CPU uses: NPROC if set, else the CPUs of this process."""
    return int(os.environ.get("NPROC", 0)) or len(os.sched_getaffinity(0))


def exact(layer: Trained, *, k: int) -> list[Searcher]:
    """Ours, and XLA's product with its top_k."""
    w, b = jnp.asarray(layer.weights), jnp.asarray(layer.bias)

    def xla(w: jax.Array, b: jax.Array, q: jax.Array) -> jax.Array:
        scores = jax.lax.dot_general(q, w, (((1,), (1,)), ((), ()))) + b[None, :]
        # Without the barrier XLA:CPU would sort all N.
        return jax.lax.optimization_barrier(jax.lax.top_k(scores, k))[1]

    def kernel(w: jax.Array, b: jax.Array, q: jax.Array) -> jax.Array:
        return topk.rows(q, w, b, k=k).ids

    return [
        _jax("exact, kernel", "", functools.partial(jax.jit(kernel), w, b)),
        _jax("exact, XLA", "", functools.partial(jax.jit(xla), w, b)),
    ]


def quantized_rows(
    layer: Trained, *, k: int, subspaces: list[int], rescored: list[int]
) -> list[Searcher]:
    """`quantized`, giving exact scores to so many rows."""
    w, b = jnp.asarray(layer.weights), jnp.asarray(layer.bias)
    out = []
    for count in subspaces:
        fit = jax.jit(functools.partial(quantized.fit, subspaces=count))
        compiled = fit.lower(jax.random.key(0), w, b, layer.seen).compile()
        with _Clock() as clock:
            made = jax.block_until_ready(compiled(jax.random.key(0), w, b, layer.seen))
        held = sum(x.nbytes for x in jax.tree.leaves(made))
        for most in rescored:

            def search(
                made: quantized.QuantizedIndex,
                w: jax.Array,
                b: jax.Array,
                q: jax.Array,
                most: int = most,
            ) -> jax.Array:
                return quantized.search(made, q, w, b, k=k, rescored=most).ids

            run = functools.partial(jax.jit(search), made, w, b)
            setting = f"M={count}, {most} rescored"
            out.append(_jax("quantized", setting, run, bytes=held, **clock.spent))
    return out


def lsh_tables(
    layer: Trained, *, k: int, configs: list[tuple[int, int]], candidates: list[int]
) -> list[Searcher]:
    """`index` with (tables, bits), ranking so many candidates."""
    w, b = jnp.asarray(layer.weights), jnp.asarray(layer.bias)
    out = []
    for num_tables, num_bits in configs:
        config = index.IndexConfig(num_tables=num_tables, num_bits=num_bits)
        init = jax.jit(functools.partial(index.init, config=config))
        compiled = init.lower(jax.random.key(0), w).compile()
        with _Clock() as clock:
            made = jax.block_until_ready(compiled(jax.random.key(0), w))
        made = index.observe(made, jnp.asarray(layer.seen))
        held = sum(x.nbytes for x in jax.tree.leaves(made.tables))
        for most in candidates:
            wide = dataclasses.replace(config, max_candidates=most)

            def search(
                made: index.LshIndex,
                w: jax.Array,
                b: jax.Array,
                q: jax.Array,
                config: index.IndexConfig = wide,
            ) -> jax.Array:
                found = index.candidates(made, q, config=config).ids
                return topk.among(q, w, b, found, k=k).ids

            run = functools.partial(jax.jit(search), made, w, b)
            setting = f"L={num_tables} K={num_bits}, {most} candidates"
            out.append(_jax("LSH tables", setting, run, bytes=held, **clock.spent))
    return out


def hnswlib(layer: Trained, *, k: int, efs: list[int], cache: str | None) -> list[Searcher]:
    """hnswlib's graph by inner product, M = 16, ef_construction = 200."""
    library = importlib.import_module("hnswlib")
    rows = _augmented(layer.weights, layer.bias)
    graph = library.Index(space="ip", dim=rows.shape[1])
    path = _cached(cache, layer, "hnswlib-M16")

    def build() -> None:
        graph.init_index(max_elements=len(rows), M=16, ef_construction=200, random_seed=1)
        graph.add_items(rows, num_threads=num_threads())

    spent = _build_or_load(
        path,
        build,
        lambda p: graph.save_index(p),
        lambda p: graph.load_index(p, max_elements=len(rows)),
    )

    def search(queries: np.ndarray, ef: int) -> Any:
        graph.set_ef(ef)
        return graph.knn_query(queries, k=k, num_threads=num_threads())

    return [
        Searcher(
            "hnswlib",
            f"M=16, ef={ef}",
            _with_one,
            functools.partial(search, ef=ef),
            lambda found: found[0].astype(np.int64),
            bytes=graph.index_file_size(),
            **spent,
        )
        for ef in efs
    ]


def faiss(
    layer: Trained, *, k: int, efs: list[int], probes: list[int], cache: str | None
) -> list[Searcher]:
    """faiss by inner product: flat, HNSW32, and inverted lists of bytes (IVF, SQ8)."""
    library = importlib.import_module("faiss")
    library.omp_set_num_threads(num_threads())
    rows = _augmented(layer.weights, layer.bias)
    metric = library.METRIC_INNER_PRODUCT
    num_lists = int(2 ** round(np.log2(8 * len(rows) ** 0.5)))  # faiss's guide: 4 to 16 sqrt N
    out = []
    for name, factory, settings in (
        ("faiss flat", "Flat", [0]),
        ("faiss HNSW32", "HNSW32", efs),
        ("faiss IVF SQ8", f"IVF{num_lists},SQ8", probes),
    ):
        held = {"index": library.index_factory(rows.shape[1], factory, metric)}
        path = _cached(cache, layer, factory.replace(",", "-")) if settings != [0] else None

        def build(held: dict[str, Any] = held) -> None:
            if not held["index"].is_trained:
                held["index"].train(rows[:: max(1, len(rows) // (64 * num_lists))])
            held["index"].add(rows)

        def save(path: str, held: dict[str, Any] = held) -> None:
            library.write_index(held["index"], path)

        def load(path: str, held: dict[str, Any] = held) -> None:
            held["index"] = library.read_index(path)

        spent = _build_or_load(path, build, save, load)
        for value in settings:

            def search(queries: np.ndarray, value: int = value, made: Any = held["index"]) -> Any:
                if hasattr(made, "hnsw"):
                    made.hnsw.efSearch = value
                elif hasattr(made, "nprobe"):
                    made.nprobe = value
                return made.search(queries, k)

            word = {"faiss HNSW32": "ef", "faiss IVF SQ8": "nprobe"}.get(name, "")
            setting = f"{word}={value}" if word else ""
            out.append(Searcher(name, setting, _with_one, search, lambda found: found[1], **spent))
    return out


def _jax(name: str, setting: str, run: Callable[[jax.Array], jax.Array], **known: Any) -> Searcher:
    return Searcher(
        name, setting, jnp.asarray, lambda q: jax.block_until_ready(run(q)), np.asarray, **known
    )


def _augmented(weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[w; b], whose inner product with [h; 1] is the logit."""
    return np.concatenate([weights, bias[:, None]], axis=1)


def _with_one(queries: np.ndarray) -> np.ndarray:
    return np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)


def _cached(cache: str | None, layer: Trained, name: str) -> Path | None:
    return Path(cache) / f"{layer.digest()}-{name}.index" if cache else None


def _build_or_load(
    path: Path | None,
    build: Callable[[], None],
    save: Callable[[str], None],
    load: Callable[[str], None],
) -> dict[str, Any]:
    """Builds, or takes what an earlier run built; what building took then is kept beside it."""
    times = path.with_suffix(".npz") if path else None
    if path and times and times.exists():
        load(str(path))
        with np.load(times) as seen:
            return {name: float(seen[name]) for name in seen}
    with _Clock() as clock:
        build()
    if path and times:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(str(path))
        np.savez(times, **clock.spent)  # type: ignore[arg-type]
    return clock.spent
