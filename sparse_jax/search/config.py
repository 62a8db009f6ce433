"""What an index computes."""

from __future__ import annotations

import dataclasses
import math

_MOST_PARAMETERS = 1 << 32


@dataclasses.dataclass(frozen=True)
class Config:
    """What an index computes. Saved with it; the defaults are what docs/benchmarks.md measured.

    Raises:
      ValueError: if a value means nothing; it names it.

    Example:
      >>> Config(num_features=1 << 12, dim=8, cold_steps=2).seed  # small, for a test
      0
    """

    num_features: int = 1 << 18  # features are hashed into so many
    dim: int = 128  # width of the network
    kind_weights: tuple[float, float, float] = (1.0, 0.2, 0.5)  # words, n-grams, pairs
    k1: float = 1.0  # saturation of n-grams and pairs
    b: float = 0.65  # their normalization by length
    bm25_k1: float = 1.0  # those of words
    bm25_b: float = 0.65
    deep_weight: float = 0.2
    strong: float = 4.0  # a word of the title counts as so many of the text
    train_from: int = 1000  # documents; the network of fewer is not trained
    cold_steps: int = 1500  # training steps at the start; fewer where documents are few
    cold_batch: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_features", "dim", "train_from", "cold_steps", "cold_batch"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("seed", self.seed, 0)
        if self.num_features * self.dim >= _MOST_PARAMETERS:
            raise ValueError(
                f"num_features = {self.num_features}, dim = {self.dim}: their product must be "
                f"below {_MOST_PARAMETERS:,}; take fewer features"
            )
        if len(self.kind_weights) != 3:
            raise ValueError(f"kind_weights = {self.kind_weights}: must be three, see `Config`")
        for name in ("k1", "bm25_k1", "deep_weight", "strong"):
            _check_number(name, getattr(self, name), math.inf)
        for name in ("b", "bm25_b"):
            _check_number(name, getattr(self, name), 1)
        for weight in self.kind_weights:
            _check_number("kind_weights", weight, math.inf)


def _check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r}: must be a whole number, {least} or more")


def _check_number(name: str, value: float, most: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= most or not math.isfinite(value):
        upto = f" to {most}" if most < math.inf else " or more"
        raise ValueError(f"{name} = {value!r}: must be a finite number, 0{upto}")
