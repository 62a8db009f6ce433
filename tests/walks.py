"""Histories with a structure to find."""

from __future__ import annotations

import numpy as np

from sparse_jax import data
from sparse_jax.recommend import presets
from sparse_jax.recommend.model import Shape

SMALL = presets.Preset(
    encoders=1,
    shape=Shape(width=16, length=8),
    epochs=6,
    batch_size=32,
    active=24,
    learning_rate=0.02,
    dropout=0.1,
    max_closed=100,
)


def chains(users: int = 300, items: int = 40, seed: int = 0) -> data.Histories:
    """Users walk on from item to item, mostly to the next one."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(users):
        item, row = int(rng.integers(items)), []
        for _ in range(int(rng.integers(2, 12))):
            row.append(f"i{item}")
            item = (item + 1) % items if rng.random() < 0.8 else int(rng.integers(items))
        rows.append(row)
    return data.of_lists(rows)
