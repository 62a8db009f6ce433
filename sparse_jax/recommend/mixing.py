"""Which weights the parts of a recommender have beside each other: tried on held-out events."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from sparse_jax.data.histories import Split
from sparse_jax.recommend import pairs
from sparse_jax.recommend.evaluation import evaluate
from sparse_jax.recommend.model import Mix, Model

_CLOSED = (0.0, 4.0, 12.0)
_DECAYS = (0.5, 0.7, 0.85)
_WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.5, 6.5)
_START = Mix(weight=3.0, decay=0.7, closed=0.0)


def choose(model: Model, held_out: Split) -> Model:
    """The model with the mix that ranks held-out items best: one number after the other.

    Args:
        model: whose parts have not seen the targets.
        held_out: contexts and what came next.

    Returns:
        The model with the mix of the largest NDCG@10; of equal ones, the first tried.
    """
    tried: dict[Mix, float] = {}

    def figure(mix: Mix) -> float:
        if mix not in tried:
            found = evaluate(with_mix(model, mix), held_out.contexts, held_out.targets, ks=(10,))
            tried[mix] = found["ndcg@10"]
        return tried[mix]

    best = _START
    rounds: list[tuple[str, Iterable[float]]] = [("decay", _DECAYS)]
    if model.closed is not None:
        rounds.insert(0, ("closed", _CLOSED))
    if model.encoders:
        rounds.append(("weight", _WEIGHTS))
    for name, values in rounds:
        candidates = [best, *(best._replace(**{name: value}) for value in values)]
        best = max(candidates, key=figure)
    return with_mix(model, best)


def with_mix(model: Model, mix: Mix) -> Model:
    """The model with other weights.

    Args:
        model: any.
        mix: its weights.
    """
    merged = model.pairs
    if mix.closed != model.mix.closed or not len(merged.items):
        merged = pairs.mixed(model.counts, model.closed, mix)
    return dataclasses.replace(model, mix=mix, pairs=merged)


def log_popularity(popularity: np.ndarray) -> np.ndarray:
    """A bias that orders only what nothing else speaks for: below any pair's weight.

    Args:
        popularity: float32 [N], events of each item.

    Returns:
        float32 [N], from 0 to 1e-3.
    """
    logs = np.log1p(popularity)
    return (logs * (1e-3 / max(float(logs.max(initial=0)), 1.0))).astype(np.float32)
