#!/usr/bin/env python3
"""Texts to TF-IDF rows: seconds beside scikit-learn's, and what a linear classifier makes of both.

python scripts/bench/bench_text.py

The texts are pieces of the standard library's source, and the class of each is its folder.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from sparse_jax import text

PIECE = 800  # characters
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "words": ({}, {"token_pattern": r"[^\W_]+"}),
    "words and pairs": ({"pairs": True}, {"token_pattern": r"[^\W_]+", "ngram_range": (1, 2)}),
    "3- to 5-grams": (
        {"words": False, "grams": (3, 5)},
        {"analyzer": "char_wb", "ngram_range": (3, 5)},
    ),
}


def read() -> tuple[list[str], np.ndarray]:
    """(pieces, their folders' numbers)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: list[str] = []
    folders: list[str] = []
    for path in sorted(root.glob("*/**/*.py")):
        folder = path.relative_to(root).parts[0]
        if folder in ("site-packages", "test", "idlelib", "__pycache__"):
            continue
        whole = path.read_text(encoding="utf-8", errors="replace")
        pieces = [whole[i : i + PIECE] for i in range(0, len(whole), PIECE)]
        texts += pieces
        folders += [folder] * len(pieces)
    return texts, np.unique(folders, return_inverse=True)[1]


def timed(run: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Least seconds of three runs, of the clock and of all processors, and the result."""
    best = {"seconds": np.inf, "processor_seconds": np.inf}
    for _ in range(3):
        clock, processor = time.perf_counter(), time.process_time()
        result = run()
        best["seconds"] = min(best["seconds"], time.perf_counter() - clock)
        best["processor_seconds"] = min(best["processor_seconds"], time.process_time() - processor)
    return best, result


def accuracy(rows: scipy.sparse.csr_array, labels: np.ndarray) -> float:
    """Of a linear classifier on every fifth piece, trained on the others."""
    test = np.arange(labels.size) % 5 == 0
    fitted = LinearSVC().fit(rows[~test], labels[~test])
    return float(np.mean(fitted.predict(rows[test]) == labels[test]))


def main() -> int:
    """Prints one JSON object."""
    texts, labels = read()
    results: dict[str, Any] = {"texts": len(texts), "bytes": sum(map(len, texts))}
    for name, (ours, theirs) in KINDS.items():
        took, (vectorizer, rows) = timed(lambda: text.fit_transform(texts, **ours))  # noqa: B023
        shape = (len(texts), vectorizer.num_features)
        matrix = scipy.sparse.csr_array(
            (rows.values, rows.ids, rows.offsets.astype(np.int32)), shape=shape
        )
        their_time, their_matrix = timed(
            lambda: TfidfVectorizer(min_df=2, **theirs).fit_transform(texts)  # noqa: B023
        )
        results[name] = {
            "ours": took | {"features": shape[1], "accuracy": accuracy(matrix, labels)},
            "scikit-learn": their_time
            | {"features": their_matrix.shape[1], "accuracy": accuracy(their_matrix, labels)},
            "times_as_fast": their_time["seconds"] / took["seconds"],
            "times_as_few_processor_seconds": their_time["processor_seconds"]
            / took["processor_seconds"],
        }
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
