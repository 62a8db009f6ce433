"""One of our ways of `compare_xmc.py`, as a user runs it, in a process of its own.

    python compare_ours.py WAY TRAIN TEST DIRECTORY SEED [LABELS WORDS]

It trains by the command and keeps the model in DIRECTORY, reads it again, and writes predicted.npz.
LABELS or WORDS is a file of names, or -.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparse_jax import data, xmc
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.runtime.machine import peak_rss_bytes

TOP = 10
OURS = {
    "fast": ["--preset", "fast"],
    "fast, no names": ["--preset", "fast"],
    "accurate": ["--preset", "accurate"],
    "network, dense": ["--strategy", "dense"],
    "network, lsh": ["--strategy", "lsh"],
    "network, uniform": ["--strategy", "uniform"],
}
NAMELESS = ("fast, no names", "network, dense", "network, lsh", "network, uniform")


def main(argv: Sequence[str]) -> int:
    """Trains, predicts, writes; returns the command's exit status."""
    way, train, test, where, seed, labels, words = argv
    directory = Path(where)
    named: list[str] = []
    if way not in NAMELESS:
        named += [] if labels == "-" else ["--labels", labels]
        named += [] if words == "-" else ["--vocabulary", words]
    kept = ["--model", str(directory / "model"), "--json", str(directory / "trained.json")]
    status = train_xmc.main([train, *OURS[way], "--seed", seed, *named, *kept])
    if status:
        return status
    trained = json.loads((directory / "trained.json").read_text(encoding="utf8"))
    model = xmc.load(directory / "model")
    points = data.with_sizes(data.read_xmc(test), num_features=model.num_features)
    k = min(TOP, model.num_labels)
    xmc.predict(model, points.take(slice(0, 512)), k=k)  # compiles
    started = time.perf_counter()
    predicted = xmc.predict(model, points, k=k).labels
    seconds = time.perf_counter() - started
    compiling = 0 if "preset" in trained else trained["compile_seconds"]  # a preset's holds it
    figures = {
        "train_seconds": trained["train_seconds"] + compiling,
        "predict_us": 1e6 * seconds / points.num_points,
        "model_bytes": model.nbytes(),
        "peak_rss_bytes": peak_rss_bytes(),
    }
    np.savez(directory / "predicted.npz", predicted=predicted, figures=json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
