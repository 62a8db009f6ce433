"""One peer of `compare_xmc.py`, in an interpreter that needs NumPy and the peer's package alone.

    python compare_peer.py WAY DIRECTORY SEED

It reads train.txt, train.npz and test.npz there, and writes predicted.npz.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.runtime.machine import peak_rss_bytes

TOP = 10
NEAR = 50  # neighbours that vote
_ROWS = 256  # test points whose similarities, dense, are held at once


def parabel(
    train: str, test: Any, directory: Path, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Omikuji's default: three balanced trees of linear classifiers (Prabhu et al. 2018).

    Omikuji takes no seed: its runs differ all the same.
    """
    return _omikuji(train, test, directory)


def bonsai(
    train: str, test: Any, directory: Path, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Omikuji's Bonsai: shallow trees of 100 branches, unbalanced (Khandagale et al. 2020)."""
    return _omikuji(train, test, directory, cluster_balanced=False, cluster_k=100, max_depth=3)


def _omikuji(
    train: str, test: Any, directory: Path, **options: Any
) -> tuple[np.ndarray, dict[str, float]]:
    import omikuji  # type: ignore[import-not-found]

    chosen = omikuji.Model.default_hyper_param()
    for name, value in options.items():
        setattr(chosen, name, value)
    started = time.perf_counter()
    model = omikuji.Model.train_on_data(train, chosen)
    seconds = time.perf_counter() - started
    model.save(str(directory / "model"))
    size = sum(file.stat().st_size for file in (directory / "model").rglob("*") if file.is_file())
    predicted = np.full((test["n"], TOP), -1, np.int32)
    started = time.perf_counter()
    for i in range(test["n"]):
        row = slice(test["offsets"][i], test["offsets"][i + 1])
        pairs = list(zip(test["ids"][row].tolist(), test["values"][row].tolist(), strict=True))
        best = model.predict(pairs, top_k=TOP)
        predicted[i, : len(best)] = [label for label, _ in best]
    elapsed = time.perf_counter() - started
    return predicted, _figures(seconds, elapsed / test["n"], size)


def xr_linear(
    train: str, test: Any, directory: Path, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """PECOS XR-Linear: one tree over label centroids, its defaults (Yu et al. 2022)."""
    from pecos.xmc import Indexer, LabelEmbeddingFactory  # type: ignore[import-not-found]
    from pecos.xmc.xlinear.model import XLinearModel  # type: ignore[import-not-found]

    points, labels, queries = _matrices(test, directory)
    started = time.perf_counter()
    centroids = LabelEmbeddingFactory.create(labels, points, method="pifa")
    tree = Indexer.gen(centroids, indexer_type="hierarchicalkmeans", seed=seed)
    model = XLinearModel.train(points, labels, C=tree)
    seconds = time.perf_counter() - started
    model.save(str(directory / "pecos"))
    size = sum(file.stat().st_size for file in (directory / "pecos").rglob("*") if file.is_file())
    model = XLinearModel.load(str(directory / "pecos"), is_predict_only=True)
    started = time.perf_counter()
    scores = model.predict(queries, only_topk=TOP)
    elapsed = time.perf_counter() - started
    predicted = np.full((test["n"], TOP), -1, np.int32)
    for i in range(test["n"]):
        row = slice(scores.indptr[i], scores.indptr[i + 1])
        best = scores.indices[row][np.argsort(-scores.data[row], kind="stable")]
        predicted[i, : best.size] = best
    return predicted, _figures(seconds, elapsed / test["n"], size)


def neighbours(
    train: str, test: Any, directory: Path, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Labels of the 50 nearest training points, each weighted by its cosine."""
    from scipy import sparse

    points, labels, queries = _matrices(test, directory)
    predicted = np.full((test["n"], TOP), -1, np.int32)
    started = time.perf_counter()
    transposed = points.T.tocsr()
    most = min(NEAR, points.shape[0])
    for begin in range(0, test["n"], _ROWS):
        near = (queries[begin : begin + _ROWS] @ transposed).toarray()
        best = np.argpartition(-near, most - 1, axis=1)[:, :most]
        rows = np.repeat(np.arange(len(near)), most)
        weights = np.take_along_axis(near, best, axis=1).ravel()
        chosen = sparse.csr_matrix((weights, (rows, best.ravel())), near.shape)
        votes = (chosen @ labels).tocsr()
        for i in range(len(near)):
            row = slice(votes.indptr[i], votes.indptr[i + 1])
            first = np.lexsort((votes.indices[row], -votes.data[row]))[:TOP]
            predicted[begin + i, : first.size] = votes.indices[row][first]
    elapsed = time.perf_counter() - started
    size = points.data.nbytes + points.indices.nbytes + labels.indices.nbytes
    return predicted, _figures(0.0, elapsed / test["n"], size)


def _matrices(test: Any, directory: Path) -> tuple[Any, Any, Any]:
    """Sparse training points, their labels, and test points."""
    from scipy import sparse  # type: ignore[import-untyped]

    with np.load(directory / "train.npz") as z:
        points = sparse.csr_matrix((z["values"], z["ids"], z["offsets"]), z["shape"])
        ones = np.ones(z["labels"].size, np.float32)
        labels = sparse.csr_matrix((ones, z["labels"], z["label_offsets"]), z["label_shape"])
    shape = (test["n"], points.shape[1])
    queries = sparse.csr_matrix((test["values"], test["ids"], test["offsets"]), shape)
    for matrix in (points, labels, queries):
        matrix.sort_indices()
    return points, labels, queries


def _figures(train_seconds: float, each: float, size: int) -> dict[str, float]:
    return {"train_seconds": train_seconds, "predict_us": 1e6 * each, "model_bytes": size}


PEERS: dict[str, Callable[..., tuple[np.ndarray, dict[str, float]]]] = {
    "Parabel": parabel,
    "Bonsai": bonsai,
    "XR-Linear": xr_linear,
    "neighbours": neighbours,
}


if __name__ == "__main__":
    name, where = sys.argv[1], Path(sys.argv[2])
    with np.load(where / "test.npz") as held:
        points = {key: held[key] for key in held.files} | {"n": int(held["n"])}
    found, seen = PEERS[name](str(where / "train.txt"), points, where, int(sys.argv[3]))
    seen["peak_rss_bytes"] = peak_rss_bytes()
    np.savez(where / "predicted.npz", predicted=found, figures=json.dumps(seen))
