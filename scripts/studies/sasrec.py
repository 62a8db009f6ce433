#!/usr/bin/env python3
"""SASRec with the softmax over all items, to its end, beside `fast`.

    python scripts/studies/sasrec.py search Beauty.txt.gz --users 3 --json FILE
    python scripts/studies/sasrec.py train Beauty.txt.gz --width 64 --dropout 0.4 --rate 0.001 \\
        --checkpoint FILE.npz
    python scripts/studies/sasrec.py step --items 1000000

`search` tries settings on one user in `--users` and tells each one's best NDCG@10 on validation,
never a test figure. `train` trains one setting on all and tests it by each user's last item; the
weights of each better epoch are written into `--checkpoint`, so that a run that is killed still
has them. `step` takes turns between SASRec's step and that of `fast` over made-up
items. Processor seconds are those of all cores, and don't grow with what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from sparse_jax import data
from sparse_jax.commands.recommend import sasrec
from sparse_jax.data.histories import Split
from sparse_jax.optim import rowwise
from sparse_jax.recommend import encoder, presets, training
from sparse_jax.recommend.evaluation import evaluate_scores
from sparse_jax.recommend.model import Shape

_WIDTHS, _DROPOUTS, _RATES = (64, 128), (0.4, 0.2), (1e-3, 3e-3)


def options_of(width: int, dropout: float, rate: float) -> sasrec.Options:
    """One of the settings; 200 epochs, so that patience ends it.

    Args:
        width: of the encoder.
        dropout: share of units.
        rate: of learning.
    """
    shape = Shape(blocks=2, width=width)
    return sasrec.Options(shape=shape, epochs=200, learning_rate=rate, dropout=dropout)


def train(
    split: Split, options: sasrec.Options, *, seed: int, max_seconds: float, keep: Path | None
) -> dict[str, Any]:
    """Trains one setting, until patience or the clock of the processor ends it.

    Args:
        split: what is trained on and asked.
        options: how.
        seed: of weights, batches and dropout.
        max_seconds: of the processor.
        keep: the file that the best weights are written into.

    Returns:
        Figures, with "ended" telling which of both it was.
    """
    best, number, epochs, ended, busy = 0.0, 0, [], "patience", time.process_time()
    params: Any = None
    for epoch in sasrec.epochs(split.train, seed, options):
        number += 1
        spent = time.process_time() - busy
        epochs.append(round(epoch.figure, 5))
        if epoch.is_best:
            best, params = epoch.figure, jax.tree.map(np.asarray, epoch.params)
            if keep is not None:
                leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(params))}
                np.savez(keep, allow_pickle=False, **leaves)
        print(f"    epoch {number}: {epoch.figure:.5f}, {spent:,.0f} s", flush=True)
        if spent > max_seconds:
            ended = "processor seconds"
            break
    return {
        "validation_ndcg@10": best,
        "epochs": number,
        "cpu_seconds": time.process_time() - busy,
        "ended": ended,
        "by_epoch": epochs,
        "params": params,
    }


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Each setting's figure on validation, on some of the users."""
    histories = data.read_histories(args.file)
    split = data.leave_one_out(histories)
    some = split._replace(train=split.train.take(np.arange(0, histories.num_users, args.users)))
    found = {}
    for width, dropout, rate in list(itertools.product(_WIDTHS, _DROPOUTS, _RATES))[: args.first]:
        name = f"width {width}, dropout {dropout}, rate {rate}"
        print(name, flush=True)
        options = options_of(width, dropout, rate)
        figures = train(some, options, seed=args.seed, max_seconds=args.max_cpu_seconds, keep=None)
        del figures["params"]
        found[name] = figures
    return found


def test(args: argparse.Namespace) -> dict[str, Any]:
    """One setting on all users, and what it finds of their last items."""
    split = data.leave_one_out(data.read_histories(args.file))
    options = options_of(args.width, args.dropout, args.rate)
    figures = train(
        split,
        options,
        seed=args.seed,
        max_seconds=args.max_cpu_seconds,
        keep=args.checkpoint,
    )
    tested = evaluate_scores(
        sasrec.scorer(figures.pop("params"), options),
        split.contexts,
        split.targets,
        popularity=np.bincount(split.train.items, minlength=split.train.num_items),
        ks=(10,),
    )
    return figures | {key: tested[key] for key in ("hr@10", "ndcg@10")}


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of processor an example, of both steps by turns."""
    preset = presets.PRESETS["fast"]
    rng = np.random.default_rng(args.seed)
    whole = sasrec.Options(shape=Shape(blocks=preset.shape.blocks), batch_size=args.batch)
    tx = rowwise(optax.adam(1e-3, b2=0.98))
    most = {size: training.max_targets(_rows(rng, args, size), size) for size in (args.batch, 128)}
    ours = training.make_step(tx, preset, most[128])
    theirs = sasrec.make_step(tx, whole, most[args.batch])
    first, second = (
        encoder.init(jax.random.key(0), args.items, shape=shape)
        for shape in (preset.shape, whole.shape)
    )
    ours_state, theirs_state = (first, tx.init(first), jax.random.key(1)), (second, tx.init(second))
    del first, second  # given away by the steps
    key = jax.random.key(2)
    spent: dict[str, list[float]] = {"fast": [], "sasrec": []}
    for turn in range(args.turns + 1):
        busy = time.process_time()
        for _ in range(20):
            ours_state, _ = ours(ours_state, _rows(rng, args, 128))
        jax.block_until_ready(ours_state)
        between = time.process_time()
        *theirs_state, loss = theirs(*theirs_state, _rows(rng, args, args.batch), key)
        jax.block_until_ready(loss)
        if turn:  # the first compiles
            spent["fast"].append((between - busy) / 20 / 128)
            spent["sasrec"].append((time.process_time() - between) / args.batch)
    found: dict[str, Any] = {f"{k} ms an example": 1e3 * np.median(v) for k, v in spent.items()}
    ratios = np.array(spent["sasrec"]) / np.array(spent["fast"])
    return found | {"batch": args.batch, "ratios": np.round(ratios, 1).tolist()}


def _rows(rng: np.random.Generator, args: argparse.Namespace, size: int) -> np.ndarray:
    """Windows of made-up events, int32 [size, L + 1], as long as Beauty's are in the mean."""
    length = presets.PRESETS["fast"].shape.length
    rows = rng.integers(0, args.items, (size, length + 1)).astype(np.int32)
    rows[:, : length - args.targets] = -1
    return rows


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsers = parser.add_subparsers(required=True)
    for name, run in (("search", search), ("train", test), ("step", steps)):
        sub = parsers.add_parser(name)
        sub.set_defaults(run=run)
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--json", type=Path, metavar="FILE")
        if name == "step":
            sub.add_argument("--items", type=int, default=1_000_000)
            sub.add_argument("--batch", type=int, default=8, help="of SASRec (default: 8)")
            sub.add_argument("--targets", type=int, default=7, help="of an example (default: 7)")
            sub.add_argument("--turns", type=int, default=5)
            continue
        sub.add_argument("file")
        sub.add_argument("--max-cpu-seconds", type=float, default=np.inf, metavar="S")
        if name == "search":
            sub.add_argument("--users", type=int, default=3, help="one in so many (default: 3)")
            sub.add_argument("--first", type=int, default=8, help="settings (default: all 8)")
        else:
            sub.add_argument("--width", type=int, default=64)
            sub.add_argument("--dropout", type=float, default=0.4)
            sub.add_argument("--rate", type=float, default=1e-3)
            sub.add_argument("--checkpoint", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    figures = args.run(args)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
