#!/usr/bin/env python3
"""A recommender of a million items, from fifty million events of a million users, on one CPU.

    python scripts/studies/recommend_scale.py --items 1000000 --users 1000000 --events 50000000 \\
        --preset linear --json FILE

Histories are generated from a seed. Items lie in groups of about five hundred, popular by a power
law within each, as the groups are. A user stays in a group for some ten events and then drifts to
one near by. Every other step within a group goes to a successor of one of the last three items, of
which each item has three; so order matters, and no model can know more than half of the steps. How
many events a user has follows a power law as well. The last event of some users is what is asked
for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_GROUP = 500  # items of a group, in the mean
_STAYS = 0.9  # chance to stay in a group
_FOLLOWS = 0.5  # chance of a successor, within a group
_SUCCESSORS = 3
_REMEMBERED = 3  # last items, of one of which it is a successor
_NEAR = 5  # groups away that a user drifts, at most
_ASKED = 2_000  # users, at most: each is asked about all items


def make_histories(items: int, users: int, events: int, *, seed: int) -> Any:
    """`data.Histories` of that many items and users, and about as many events.

    Args:
        items: N, at least 2.
        users: n.
        events: in all, about; a user has at least 3.
        seed: of all draws.
    """
    from sparse_jax import data

    rng = np.random.default_rng(seed)
    lengths = _lengths(rng, users, events)
    order = np.argsort(-lengths, kind="stable")  # whoever has more events is still there later
    left = -lengths[order]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    taken = np.empty(offsets[-1], np.int32)
    starts = _groups(items)
    count = len(starts) - 1
    group = _power_law(rng, users, count)
    last = np.repeat(_in_group(rng, starts, group)[None], _REMEMBERED, axis=0)
    for step in range(int(lengths.max())):
        there = order[: np.searchsorted(left, -step)]  # those of more than `step` events
        group, last = group[: there.size], last[:, : there.size]
        if step:
            drifts = rng.random(there.size) >= _STAYS
            moved = group + rng.integers(-_NEAR, _NEAR + 1, there.size)
            group = np.where(drifts, moved % count, group)
            of = last[rng.integers(0, _REMEMBERED, there.size), np.arange(there.size)]
            size = starts[group + 1] - starts[group]
            jump = 1 + 7 * rng.integers(0, _SUCCESSORS, there.size)
            after = starts[group] + (of - starts[group] + jump) % size
            follows = ~drifts & (rng.random(there.size) < _FOLLOWS)
            item = np.where(follows, after, _in_group(rng, starts, group))
            last = np.concatenate([last[1:], item[None]])
        taken[offsets[there] + step] = last[-1]
    names = tuple(map(str, range(items)))
    return data.Histories(offsets, taken, names, tuple(map(str, range(users))))


def _lengths(rng: np.random.Generator, users: int, events: int) -> np.ndarray:
    """Events of each user, int64 [n]: Pareto's law, from 3 to twenty times the mean."""
    mean = events / users
    drawn = rng.pareto(1.5, users) + 1
    drawn = np.minimum(drawn / drawn.mean(), 20) * (mean - 3)
    drawn *= (mean - 3) / drawn.mean()
    return 3 + np.round(drawn).astype(np.int64)


def _groups(items: int) -> np.ndarray:
    """Where each group of items begins, int64 [groups + 1]."""
    count = max(1, items // _GROUP)
    return np.linspace(0, items, count + 1).astype(np.int64)


def _power_law(rng: np.random.Generator, count: int, size: Any) -> np.ndarray:
    """Numbers from 0 to size - 1, the chance of each about as 1 / (1 + number)."""
    size = np.asarray(size)
    drawn = np.exp(rng.random(count) * np.log(size + 1)) - 1
    return np.minimum(drawn.astype(np.int64), size - 1)


def _in_group(rng: np.random.Generator, starts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """An item of each group."""
    return starts[group] + _power_law(rng, group.size, starts[group + 1] - starts[group])


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes histories, trains and asks."""
    from sparse_jax import data, recommend
    from sparse_jax.commands.recommend.peers import PEERS
    from sparse_jax.recommend.evaluation import evaluate_scores
    from sparse_jax.runtime.machine import peak_rss_bytes

    began = time.perf_counter()
    histories = make_histories(args.items, args.users, args.events, seed=args.seed)
    split = data.leave_one_out(histories)
    made = time.perf_counter() - began
    number = len(histories.items)
    del histories
    chosen = np.random.default_rng(args.seed).permutation(split.contexts.num_users)[:_ASKED]
    contexts, targets = split.contexts.take(np.sort(chosen)), split.targets[np.sort(chosen)]
    train = split.train
    del split
    before = peak_rss_bytes()
    clock, cpu = time.perf_counter(), time.process_time()
    model = recommend.fit(train, preset=args.preset, seed=args.seed)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    peak = peak_rss_bytes()
    figures = recommend.evaluate(model, contexts, targets, ks=(10,))
    popular = np.bincount(train.items, minlength=train.num_items)
    markov = evaluate_scores(
        PEERS["markov"](train, args.seed), contexts, targets, popularity=popular, ks=(10,)
    )
    alone = evaluate_scores(
        PEERS["popularity"](train, args.seed), contexts, targets, popularity=popular, ks=(10,)
    )
    recommend.predict(model, contexts, k=10)  # compiles
    asked = time.perf_counter()
    recommend.predict(model, contexts, k=10)
    asked = time.perf_counter() - asked
    return {
        "items": args.items,
        "users": args.users,
        "events": number,
        "preset": args.preset,
        "seed": args.seed,
        "making_seconds": round(made, 1),
        "train_seconds": round(clock, 1),
        "train_cpu_seconds": round(cpu, 1),
        "rss_before_bytes": before,
        "peak_rss_bytes": peak,
        "users_asked": figures["users"],
        "hr@10": figures["hr@10"],
        "ndcg@10": figures["ndcg@10"],
        "markov_hr@10": markov["hr@10"],
        "popularity_hr@10": alone["hr@10"],
        "us_a_user": 1e6 * asked / len(targets),
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--users", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--events", type=int, default=50_000_000, help="(default: 50000000)")
    parser.add_argument("--preset", default="linear", help="of ours (default: linear)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here, too")
    args = parser.parse_args(argv)
    if args.items < 2 or args.users < 1 or args.events < 4 * args.users:
        parser.error("--items must be at least 2, --users 1, and --events four for each user")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    figures = run(args)
    print(json.dumps(figures, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
