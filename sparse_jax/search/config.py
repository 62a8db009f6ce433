"""What an index computes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """What an index computes. Saved with it; the defaults are what docs/benchmarks.md measured.

    Example:
      >>> Config(num_features=1 << 12, dim=8, cold_steps=2).seed  # small, for a test
      0
    """

    num_features: int = 1 << 18  # features are hashed into so many
    dim: int = 128  # width of the network
    kind_weights: tuple[float, float, float] = (1.0, 1.0, 0.5)  # words, n-grams, pairs
    k1: float = 0.8  # saturation of the hashed features
    b: float = 0.5  # their normalization by length
    bm25_k1: float = 1.2
    bm25_b: float = 0.75
    bm25_weight: float = 0.1  # in the fused score; the hashed features have weight 1
    deep_weight: float = 0.3
    strong: float = 2.0  # a word of the title counts as so many of the text
    train_from: int = 1000  # documents; the network of fewer is not trained
    cold_steps: int = 1500  # training steps at the start; fewer where documents are few
    cold_batch: int = 512
    seed: int = 0
