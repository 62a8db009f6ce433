"""Trained output layers to benchmark on: weights, biases, and the activations of held-out points.

Random rows are no benchmark of a search: they have no neighbours. `get` trains a classifier through
the library with `train_xmc.py`'s own recipe, on real files or on a synthetic set with structure,
and keeps what came out in a cache directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import default_set
import jax
import numpy as np

from sparse_jax import data
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.xmc import metrics, network
from sparse_jax.xmc.network_run import NetworkRun

AMAZON_670K = {"points": 490_449, "features": 135_909, "labels": 670_091}


@dataclasses.dataclass(frozen=True)
class Trained:
    """An output layer and queries to it."""

    weights: np.ndarray  # float32 [N, d]
    bias: np.ndarray  # float32 [N]
    queries: np.ndarray  # float32 [Q, d]; hidden activations of held-out points
    seen: np.ndarray  # float32 [S, d]; hidden activations of training points
    origin: str  # one line: where the weights come from

    def digest(self) -> str:
        """Names what was built on this layer."""
        content = hashlib.sha256(self.weights.tobytes())
        content.update(self.bias.tobytes())
        return content.hexdigest()[:12]


def synthetic(
    num_labels: int, *, num_points: int, num_features: int, seed: int = 0
) -> tuple[data.XmcData, data.XmcData]:
    """A power-law set with structure, and 4,096 held-out points of the same law.

    Labels belong to topics of about 150; each label has 12 features of its own, half of them from
    its topic's pool of 300. A point is 3 labels of one topic and 2 of another, drawn by popularity,
    and 75 feature entries: 60 % from its labels' features, 25 % from the pool, 15 % from a
    background law. The popularity of labels, topics and features falls as a power of the rank.
    """
    rng = np.random.default_rng(seed)
    num_topics = max(1, num_labels // 150)
    held_out = 4096
    total = num_points + held_out

    def power(size: tuple[int, ...], most: int, skew: float) -> np.ndarray:
        return (rng.random(size) ** skew * most).astype(np.int64)

    # Label t + T·r has topic t and rank r in it, so a topic's labels by popularity are an
    # arithmetic progression and nothing needs to be stored.
    ranks = -(-num_labels // num_topics)
    scatter = rng.permutation(num_labels)  # ids tell nothing
    pools = power((num_topics, 300), num_features, 1.5)
    own = power((num_labels, 12), num_features, 1.3)
    own[:, :6] = np.take_along_axis(
        pools[np.arange(num_labels) % num_topics], rng.integers(0, 300, (num_labels, 6)), axis=1
    )
    popular = power((total, 5), ranks, 2.0)
    # Each label is met at least once, while the points last: as in the real sets.
    met = min(num_points, num_labels)
    certain = rng.permutation(num_labels)[:met]
    topics, others = power((2, total), num_topics, 1.5)
    topics[:met] = certain % num_topics
    labels = np.where(np.arange(5) < 3, topics[:, None], others[:, None]) + num_topics * popular
    labels[:met, 0] = certain
    labels = np.where(labels < num_labels, labels, labels % num_topics)
    entries = 75
    kind = rng.random((total, entries))
    pick = np.take_along_axis(labels, rng.integers(0, 5, (total, entries)), axis=1)
    features = own[pick, rng.integers(0, 12, (total, entries))]
    pooled = pools[(labels[:, 0] % num_topics)[:, None], rng.integers(0, 300, (total, entries))]
    background = power((total, entries), num_features, 3.0)
    features = np.where(kind < 0.6, features, np.where(kind < 0.85, pooled, background))
    whole = _to_xmc(features, scatter[labels], num_features, num_labels)
    order = np.arange(total)
    return whole.take(order[:num_points]), whole.take(order[num_points:])


def get(
    name: str,
    *,
    files: list[str] | None = None,
    num_labels: int = AMAZON_670K["labels"],
    options: list[str],
    cache: str | None,
    seed: int = 0,
) -> Trained:
    """The trained layer: from the cache if it is there, else trained now.

    Args:
      name: "synthetic", or a name for the set in `files`.
      files: TRAIN and TEST; unused where synthetic.
      num_labels: of the synthetic set, whose points and features shrink with it.
      options: of `train_xmc.py`, which trains.
      cache: a directory, or None to train anew each time.
      seed: of the synthetic set and the training.
    """
    what = {"name": name, "files": files, "labels": num_labels, "options": options, "seed": seed}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(cache) / f"{name}-{digest}.npz" if cache else None
    if path and path.exists():
        with np.load(path) as held:
            return Trained(
                held["weights"], held["bias"], held["queries"], held["seen"], str(held["origin"])
            )
    args = train_xmc.parse_args([*(files or []), "--seed", str(seed), *options])
    if name == "synthetic":
        share = num_labels / AMAZON_670K["labels"]
        train, test = synthetic(
            num_labels,
            num_points=max(256, int(AMAZON_670K["points"] * share)),
            num_features=max(512, int(AMAZON_670K["features"] * share)),
            seed=seed,
        )
        idf = data.fit_idf(train)
        train, test = data.apply_tfidf(train, idf), data.apply_tfidf(test, idf)
    else:
        train, test = train_xmc.load_weighted(args.files or default_set.FILES)
    run = NetworkRun(train_xmc.options.network_options(args), train)
    if name == "synthetic":
        # Near zero, as SLIDE starts at this size: a label met four times can't outgrow more.
        params = run.state.params | {"output": run.state.params["output"] * np.float32(0.1)}
        run.state = dataclasses.replace(run.state, params=params)
    run.fit()
    params = run.state.params
    held_out = metrics.evaluate(run.predict(test), test.label_offsets, test.label_ids)
    trained = Trained(
        weights=np.asarray(params["output"]),
        bias=np.asarray(params["output_bias"]),
        queries=_hidden(params, test, 4096),
        seen=_hidden(params, train, 4096),
        origin=f"{_title(name, files)}: {train.num_points:,} points, {train.num_labels:,} labels; "
        f"{run.clock.step:,} steps of train_xmc.py {' '.join(options)} --seed {seed}; "
        f"held-out P@1 {held_out['p@1']:.3f}, P@5 {held_out['p@5']:.3f}",
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **dataclasses.asdict(trained))
        os.replace(part, path)
    return trained


def _title(name: str, files: list[str] | None) -> str:
    return Path(files[0]).name.split(".")[0].removesuffix("_train") if files else name


def _hidden(params: network.Params, points: data.XmcData, most: int) -> np.ndarray:
    """Hidden activations of evenly spaced points, [at most `most`, d]."""
    count = min(most, points.num_points)
    some = points.take(np.linspace(0, points.num_points - 1, count).astype(np.int64))
    capacity = data.plan_capacity(some, 256, seed=None, epochs=1)
    layer = jax.jit(lambda batch: network.encode(params, batch))
    parts = [np.asarray(layer(batch)) for batch in data.batches(some, 256, capacity=capacity)]
    return np.concatenate(parts)[:count]


def _to_xmc(
    features: np.ndarray, labels: np.ndarray, num_features: int, num_labels: int
) -> data.XmcData:
    """Points from entries [n, F] (repeats add up) and labels [n, L] (repeats fall away)."""
    feature_ids, feature_values, feature_offsets = _rows(features)
    label_ids, _, label_offsets = _rows(labels)
    return data.XmcData(
        feature_offsets,
        feature_ids,
        feature_values,
        label_offsets,
        label_ids,
        num_features=num_features,
        num_labels=num_labels,
    )


def _rows(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct entries of each row with their counts: (ids, counts, offsets)."""
    ordered = np.sort(entries, axis=1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(first.reshape(-1))
    counts = np.diff(np.append(starts, ordered.size))
    offsets = np.concatenate([[0], np.cumsum(first.sum(1))])
    return ordered[first].astype(np.int32), counts.astype(np.float32), offsets.astype(np.int64)
