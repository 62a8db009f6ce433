"""What the shards of a run read of a file, and the sizes of their batches, that lose nothing."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from sparse_jax import data
from sparse_jax.data import weighting
from sparse_jax.data.shares import read_share
from sparse_jax.sharding import AXIS, Dealing, on_shards, parts, processes
from sparse_jax.sharding.placing import By, on_mesh, own_shards
from sparse_jax.xmc import memory, sharded_samples, sharded_step, sizes

ACTIVE = 1024


@dataclasses.dataclass(frozen=True)
class Options:
    """What a network is and how it learns."""

    hidden: int = 128
    active: int | None = None  # places of the active set; None: 1,024, or what the labels need
    epochs: int = 5
    batch_size: int = 128  # of all shards together
    learning_rate: float = 3e-3  # peak of Adam's; decays to 0
    weighting: str = "auto"
    by: By = "hash"
    seed: int = 0


class Points(NamedTuple):
    """The points of this process's shards; `read` makes it."""

    shares: list[data.XmcData]  # weighted, a share for each shard, to be trained on
    counts: list[int]  # of these, of each shard of all processes
    held: list[data.XmcData]  # weighted, of each share what is held out
    held_count: int  # of all processes
    chosen: weighting.Weighting
    reason: str  # of the weighting, a sentence
    kept: list[data.XmcData]  # as they were read, of each share what the model keeps


def read(path: str, mesh: Any, options: Options) -> Points:
    """Reads the shares of this process's shards and weights them as all points together ask for.

    Raises:
      FormatError: a malformed file.
      ValueError: if the processes read different files, or no memory holds what they promise.
      OSError: if the file can't be read.
    """
    shares = [read_share(path, shard, mesh.size) for shard in own_shards(mesh)]
    header = [shares[0].num_points, shares[0].points.num_features, shares[0].points.num_labels]
    processes.agree("header of the points", header)
    points = [share.points for share in shares]
    told = processes.collect("points", [[p.num_points, _empty_at_end(p)] for p in points])
    counts = [count for process in told for count, _ in process]
    excess = sum(counts) - header[0]
    if 0 < excess <= [empty for process in told for _, empty in process][-1]:
        # Empty lines behind the last row are no points, as for one reader.
        counts[-1] -= excess
        if own_shards(mesh)[-1] == mesh.size - 1:
            points[-1] = points[-1].take(slice(0, counts[-1]))
    if sum(counts) != header[0]:
        raise data.FormatError(
            path,
            f"it has {sum(counts)} rows, but the header promises {header[0]}: complete the file, "
            "or mend the header",
        )
    if not sum(counts):
        raise ValueError(f"{path} has no points: must have at least one; check its header")
    if not any(n for process in processes.collect("labels", _labels(points)) for n in process):
        raise ValueError(f"{path} has no labels: labels come first on each line")
    # Its part of the tables, with Adam's two moments.
    rows = -(-(points[0].num_features + points[0].num_labels) // jax.process_count())
    sizes.check(points[0], needed=rows * options.hidden * 3 * 4)
    chosen, reason = _weigh(points, options.weighting, sum(counts), mesh)
    weighted = [weighting.apply(chosen, p) for p in points]
    held, kept = (
        sharded_samples.of_shares(rows, counts)
        for rows in (
            sharded_samples.held_out(sum(counts), options.seed),
            memory.sample(sum(counts), seed=options.seed),
        )
    )
    own = [held[shard] for shard in own_shards(mesh)]
    return Points(
        [p.take(np.delete(np.arange(p.num_points), h)) for p, h in zip(weighted, own, strict=True)],
        [count - rows.size for count, rows in zip(counts, held, strict=True)],
        [p.take(rows) for p, rows in zip(weighted, own, strict=True)],
        sum(rows.size for rows in held),
        chosen,
        reason,
        [p.take(kept[shard]) for p, shard in zip(points, own_shards(mesh), strict=True)],
    )


def _labels(points: list[data.XmcData]) -> list[int]:
    """How many labels the points of each share have."""
    return [int(p.label_ids.size) for p in points]


def _empty_at_end(points: data.XmcData) -> int:
    full = np.flatnonzero(np.diff(points.feature_offsets) + np.diff(points.label_offsets))
    return points.num_points - (int(full[-1]) + 1 if full.size else 0)


def _weigh(
    points: list[data.XmcData], name: str, total: int, mesh: Any
) -> tuple[weighting.Weighting, str]:
    """The weighting that fits all points, and why."""
    choices = [list(weighting.choose(p)) for p in points if p.feature_values.size]
    told = [choice for process in processes.collect("weighting", choices) for choice in process]
    if name == "auto":
        against = [choice for choice in told if choice[0] == "none"]
        name, reason = (against or told or [["none", "no weighting: there are no values"]])[0]
    else:
        reason = f"weighting {name}, as asked for"
    if name == "none":
        return weighting.Weighting(None), reason
    # Document frequencies of all shards, as whole numbers.
    found = [
        np.bincount(p.feature_ids[p.feature_values != 0], minlength=p.num_features) for p in points
    ]
    count = on_shards(lambda x: parts.total(x[0]), mesh, in_specs=jax.P(AXIS), out_specs=jax.P())
    spread = on_mesh([x.astype(np.int32)[None] for x in found], mesh)
    frequency = np.asarray(jax.jit(count)(spread))
    idf = (np.log((1 + total) / (1 + frequency.astype(np.int64))) + 1).astype(np.float32)
    return weighting.Weighting(idf), reason


class Plan(NamedTuple):
    """Sizes that lose nothing, the same on all processes."""

    capacity: data.Capacity  # of a shard's batch
    steps_per_epoch: int
    config: sharded_step.Config


def plan(points: Points, mesh: Any, options: Options) -> Plan:
    """Looks at all batches of all epochs.

    Raises:
      ValueError: if the active set can't hold a batch's labels, or the batch can't be dealt.
    """
    shards = mesh.size
    if options.batch_size < 1 or options.batch_size % shards:
        raise ValueError(
            f"batch_size = {options.batch_size}: must be a multiple of the shards, {shards}"
        )
    size = options.batch_size // shards
    first = points.shares[0]
    features = Dealing(first.num_features, shards, options.by)
    labels = Dealing(first.num_labels, shards, options.by)
    found = [
        _largest(share, size, seed_of(options, shard, shards), options.epochs, features, labels)
        for share, shard in zip(points.shares, own_shards(mesh), strict=True)
    ]
    told = [shard for process in processes.collect("plan", found) for shard in process]
    most = np.max([shard["capacity"] for shard in told], axis=0)
    # What a shard is asked for in a step is at most the sum of what each asks at its most.
    asked = np.sum([shard["features"] for shard in told], axis=0).max()
    held = np.sum([shard["labels"] for shard in told], axis=0).max()
    distinct = min(sum(shard["capacity"][2] for shard in told), labels.num_rows)
    active = options.active or max(ACTIVE, -(-(distinct + ACTIVE // 2) // 64) * 64)
    if min(active, labels.num_rows) < distinct:
        raise ValueError(
            f"active = {active}: must be at least {distinct}, the distinct labels that a batch may "
            "have; leave it out to let the data decide"
        )
    active = min(active, labels.num_rows)
    config = sharded_step.Config(
        features=features,
        labels=labels,
        hidden=options.hidden,
        active=active,
        # A hash deals labels like the fill; by range, one shard may hold those of a whole batch.
        active_here=sharded_step.active_here(
            active, shards, int(held) if options.by == "range" else 0
        ),
        distinct_features=max(1, min(int(asked), features.per_shard)),
        seed=options.seed,
    )
    steps = max(data.num_batches(count, size) for count in points.counts)
    return Plan(data.Capacity(*map(int, most)), steps, config)


def seed_of(options: Options, shard: int, shards: int) -> int:
    return options.seed * shards + shard


def _owners(ids: np.ndarray, dealing: Dealing) -> np.ndarray:
    """The shard of each row's id.

    Ids are padded by an eighth at most, to lengths that shares of a size have in common: a program
    is compiled for each length.
    """
    eighth = 1 << max(0, ids.size.bit_length() - 4)
    padded = np.full(-(-ids.size // eighth) * eighth, -1, np.int32)
    padded[: ids.size] = ids
    return np.asarray(dealing.place(padded)[0])[: ids.size]


def _largest(
    points: data.XmcData, size: int, seed: int, epochs: int, features: Dealing, labels: Dealing
) -> dict[str, list[int]]:
    """What the batches of a shard hold at most: in all, and of each shard's rows."""
    capacity = data.plan_capacity(points, size, seed=seed, epochs=epochs)
    found = {"capacity": list(dataclasses.astuple(capacity))}
    for name, ids, offsets, dealing in (
        ("features", points.feature_ids, points.feature_offsets, features),
        ("labels", points.label_ids, points.label_offsets, labels),
    ):
        owners = _owners(ids, dealing)
        most = np.zeros(dealing.shards, np.int64)
        for epoch in range(epochs):
            order = data.epoch_order(points.num_points, seed=seed, epoch=epoch)
            for start in range(0, points.num_points, size):
                rows = order[start : start + size]
                at, _ = data.xmc.gather_index(offsets, rows)
                _, first = np.unique(ids[at], return_index=True)
                asked = np.bincount(owners[at][first], minlength=dealing.shards)
                np.maximum(most, asked, out=most)
        found[name] = most.tolist()
    return found
