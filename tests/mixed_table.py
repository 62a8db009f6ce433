"""A table with a column of each kind, and a schema of it."""

from __future__ import annotations

import numpy as np

from sparse_jax.data import features


def table_of(rows: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    words = np.array(["red", "green", "apple", "car", "house"])
    return {
        "shop": rng.choice(np.array(["a", "b", "c", None], object), rows),
        "tags": ["|".join(rng.choice(["x", "y", "z"], rng.integers(1, 4))) for _ in range(rows)],
        "price": np.where(rng.random(rows) < 0.1, float("nan"), rng.normal(size=rows)),
        "when": np.datetime64("2024-01-01T00:00:00") + rng.integers(0, 10**7, rows),
        "about": [" ".join(rng.choice(words, 4)) for _ in range(rows)],
        "user": rng.choice(["u", "v", "w"], rows),
        "bought": rng.choice(["p", "q", "r"], rows),
    }


SPECS = (
    features.Category("shop"),
    features.Categories("tags", "|"),
    features.Number("price"),
    features.Date("when"),
    features.Text("about", pairs=True, grams=(3, 4)),
    features.History("user", "when", "bought"),
    features.Cross("shop", "price"),
    features.Cross("history of bought", "when"),
)
