"""Our recommender and what others recommend by, on the same histories, in one run.

    sparse-jax recommend compare events.csv
    sparse-jax recommend compare events.csv --hold-out 2024-05-01 --peers markov,ease --seeds 3

Each is trained in a process of its own, one after the other, and ranks all items for the held-out
one of each user. HR@10, NDCG@10, seconds of training, those of processors beside them, which other
programs on the machine do not change, peak memory of the process, and µs a user for lists of ten.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_jax import recommend
from sparse_jax.commands import checks
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.recommend import options
from sparse_jax.commands.recommend.peers import PEERS
from sparse_jax.commands.report import tell
from sparse_jax.data.histories import Histories, Split
from sparse_jax.recommend.evaluation import Scorer, evaluate_scores
from sparse_jax.recommend.presets import PRESETS
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.machine import peak_rss_bytes

_SHOWN = (
    *("hr@10", "ndcg@10", "mrr", "coverage@10"),
    *("train_seconds", "cpu_seconds", "peak_rss_mib", "predict_us"),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="histories or events; - reads standard input")
    add("--presets", default=",".join(PRESETS), metavar="NAMES", help="of ours (default: all)")
    add("--peers", default=",".join(PEERS), metavar="NAMES", help=f"(default: {','.join(PEERS)})")
    add("--seeds", type=int, default=1, metavar="N", help="runs of each (default: 1)")
    add("--json", metavar="FILE", help="write the figures here, too")
    options.add_hold_out(parser, "last")
    options.add_reading(parser)
    args = parser.parse_args(argv)
    checks.at_least(parser, args, 1, ["seeds"])
    for name, known in (("presets", PRESETS), ("peers", PEERS)):
        asked = [part for part in getattr(args, name).split(",") if part]
        wrong = next((part for part in asked if part not in known), None)
        if wrong:
            parser.error(f"--{name} {wrong}: must be among {', '.join(known)}")
        setattr(args, name, asked)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    return status_of(_run, args)


def _run(args: argparse.Namespace) -> None:
    """Trains and asks each, tells their figures."""
    split = options.split(options.read(args.file, args), args.hold_out)
    print(f"{len(split.targets):,} users asked; {split.train.num_items:,} items")
    print(f"  {'':<16}" + "".join(f"{name:>14}" for name in _SHOWN))
    results: dict[str, Any] = {}
    for name in [*args.peers, *(f"ours, {preset}" for preset in args.presets)]:
        runs = [_apart(name, split, seed) for seed in range(args.seeds)]
        results[name] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        results[name] |= {
            f"{key} by seed": [run[key] for run in runs] for key in ("hr@10", "ndcg@10")
        }
        print(f"  {name:<16}" + "".join(f"{results[name][key]:>14.4g}" for key in _SHOWN))
        sys.stdout.flush()
    tell(results, args.json)


def _apart(name: str, split: Split, seed: int) -> dict[str, float]:
    """`measure` in a fresh process, whose peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, name, split, seed).result()


def measure(name: str, split: Split, seed: int) -> dict[str, float]:
    """Trains and asks one of them.

    Args:
      name: in `PEERS`, or "ours, " and a preset.
      split: what is trained on and asked.
      seed: of training.

    Returns:
      The figures of `recommend.evaluate`, train_seconds, cpu_seconds of training on all cores,
      predict_us and peak_rss_mib.

    Raises:
      ImportError: a peer's library is missing.
    """
    keep_freed_memory()
    started, busy = time.perf_counter(), time.process_time()
    if name in PEERS:
        scorer = PEERS[name](split.train, seed)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        counts = np.bincount(split.train.items, minlength=split.train.num_items)
        figures = evaluate_scores(
            scorer, split.contexts, split.targets, popularity=counts, ks=(10,)
        )
        figures["predict_us"] = _microseconds(lambda part: _lists(scorer, part), split.contexts)
    else:
        preset = name.removeprefix("ours, ")
        model = recommend.fit(split.train, preset=preset, seed=seed)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        figures = recommend.evaluate(model, split.contexts, split.targets, ks=(10,))
        figures["predict_us"] = _microseconds(
            lambda part: recommend.predict(model, part, k=10), split.contexts
        )
    return figures | {
        "train_seconds": seconds,
        "cpu_seconds": busy,
        "peak_rss_mib": peak_rss_bytes() / 2**20,
    }


def _microseconds(predict: Any, histories: Histories) -> float:
    """Of one user in batches of 256, once everything is compiled."""
    users = np.arange(min(histories.num_users, 4096))
    parts = [histories.take(users[i : i + 256]) for i in range(0, len(users), 256)]
    for part in (parts[0], parts[-1]):
        predict(part)
    started = time.perf_counter()
    for part in parts:
        predict(part)
    return 1e6 * (time.perf_counter() - started) / len(users)


def _lists(scorer: Scorer, part: Histories) -> np.ndarray:
    """The ten best of each, without what was taken before."""
    scores = np.array(scorer(part))
    scores[np.repeat(np.arange(part.num_users), part.lengths), part.items] = -np.inf
    k = min(10, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


if __name__ == "__main__":
    sys.exit(main())
