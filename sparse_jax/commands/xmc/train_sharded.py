"""Train a network over many labels on many processes, its rows dealt to them.

    sparse-jax launch -n 2 -- xmc train-sharded train.txt --model MODEL
    sparse-jax xmc train-sharded train.txt --model MODEL \\
        --coordinator 192.168.1.10:8476 --processes 2 --process 0
    sparse-jax xmc evaluate MODEL test.txt

Each process reads its share of the file, which is in the Extreme Classification Repository's
format. A twentieth of the points, at most 2,000, is not trained on: these say what scores are worth
as chances. Nothing that processes exchange is encrypted.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from sparse_jax import sharding, xmc
from sparse_jax.commands.checks import check_target
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.progress import Bars
from sparse_jax.commands.xmc import joining
from sparse_jax.data import weighting
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import check_writable
from sparse_jax.runtime.lock import locked
from sparse_jax.sharding import traffic
from sparse_jax.xmc import calibration
from sparse_jax.xmc.sharded_points import Options
from sparse_jax.xmc.sharded_run import ShardedRun


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; errors end the process, as argparse does."""
    parser = Parser(__doc__)
    add = parser.add_argument
    default = Options()
    add(
        "train", metavar="TRAIN", help="points: a header `points features labels`, then a line each"
    )
    add("--model", metavar="DIR", help="process 0 keeps the trained model here, for one machine")
    add("--checkpoint", metavar="DIR", help="all save here after each epoch, each its own rows")
    add("--save-every", type=int, metavar="STEPS", help="and as often as this")
    add(
        "--resume",
        action="store_true",
        help="go on from the last save in --checkpoint, if there is one; by as many processes as "
        "divide the shards",
    )
    about = "Under `sparse-jax launch`, srun and mpirun all but --shards is known."
    add = joining.add_options(parser, about).add_argument
    add(
        "--shards",
        type=int,
        metavar="S",
        help="pieces of the tables, a multiple of N: the same S gives the same weights, bit for "
        "bit, on any number of processes (default: N)",
    )
    add = parser.add_argument_group("network").add_argument
    add("--hidden", type=int, default=default.hidden, help="hidden width (default: 128)")
    add("--active", type=int, metavar="A", help="active set; by default what the data need")
    add("--epochs", type=int, default=default.epochs, help="passes over the points (default: 5)")
    add(
        "--batch-size",
        type=int,
        metavar="B",
        default=default.batch_size,
        help="points a step, of all shards (default: 128)",
    )
    add(
        "--lr",
        type=float,
        dest="learning_rate",
        default=default.learning_rate,
        help="peak learning rate of Adam, decayed to 0 (default: 0.003)",
    )
    add(
        "--weighting",
        choices=weighting.NAMES,
        default=default.weighting,
        help="of features, as in `xmc train` (default: auto)",
    )
    add(
        "--by",
        choices=("hash", "range"),
        default=default.by,
        help="how rows are dealt; by hash, frequent ones are spread (default: hash)",
    )
    add("--seed", type=int, default=0, help="of weights, order and samples (default: 0)")
    args = parser.parse_args(argv)
    for name in ("hidden", "active", "epochs", "batch_size", "save_every", "shards"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if not args.learning_rate > 0:
        parser.error(f"--lr {args.learning_rate}: must be above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    for name, value in (("--resume", args.resume), ("--save-every", args.save_every)):
        if value and not args.checkpoint:
            parser.error(f"{name} needs --checkpoint DIR")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status. Where it fails among others, the process ends."""
    args = parse_args(argv)
    keep_freed_memory()
    names = ("hidden", "active", "epochs", "batch_size", "learning_rate", "weighting", "by", "seed")
    options = Options(**{name: getattr(args, name) for name in names})
    try:
        with sharding.hard_exit():
            sharding.initialize(
                args.coordinator,
                args.processes,
                args.process,
                shards=args.shards,
                options=vars(options) | {"saves": [args.save_every, args.resume]},
                tell=joining.tell_waiting,
            )
            first = jax.process_index() == 0
            if first:
                check_target(args.model, kind="xmc")
            # A directory may be one for all processes: process 0 holds it.
            with locked(args.model if first else None), locked(args.checkpoint if first else None):
                return _run(args, options, first=first)
    except MemoryError as error:  # NumPy's says how many bytes
        print(f"error: not enough memory: {error}; take more processes", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace, options: Options, *, first: bool) -> int:
    for place in (args.model if first else None, args.checkpoint):
        if place is not None:
            check_writable(place)
    run = ShardedRun(args.train, options, directory=args.checkpoint, save_every=args.save_every)
    config = run.plan.config
    if first:
        dense = traffic.dense_all_reduce(run.num_weights, run.mesh.size)
        print(
            f"{run.num_points:,} points, {config.features.num_rows:,} features, "
            f"{config.labels.num_rows:,} labels on {run.mesh.size} shards of "
            f"{jax.process_count()} processes"
        )
        print(run.points.reason)
        sent = run.bytes_per_step()
        share = f", {sent / dense:.3%} of a dense all-reduce" if dense else ""
        print(f"a shard sends {sent / 1e6:,.2f} MB a step{share}", flush=True)
    if args.resume:
        found = run.resume()
        if first:
            where = f"at step {run.clock.step} of {run.total_steps}" if found else "nothing: new"
            print(f"resumed {where}", flush=True)
    if first:
        with Bars() as bars:
            run.fit(progress=bars)
    else:
        run.fit()
    model = run.model()
    if model is not None:
        if args.model:
            xmc.save(model, args.model)
            print(f"kept in {args.model}")
        if run.last_loss is not None:
            print(f"  loss     {run.last_loss:.4f}")
        print(f"  training {run.clock.seconds:.1f} s")
        print(f"  weights  {_digest(model)}")
        print(f"  scores   {_meaning(run)}", flush=True)
    return 0


def _meaning(run: ShardedRun) -> str:
    """What the scores of the model are worth."""
    held = run.points.held_count
    if run.calibrates:
        return f"chances, as {held:,} points tell that were not trained on"
    return (
        f"not calibrated: they order labels, but are no chances, since {held} of {run.num_points} "
        f"points could be held out and {calibration.FEW_POINTS} are needed"
    )


def _digest(model: xmc.Model) -> str:
    """Of the network, and of what its scores mean: equal runs have equal digests."""
    found = hashlib.sha256()
    parts = (model.encoders, model.output, model.output_bias, model.mix.curve)
    for leaf in jax.tree.leaves(parts):
        found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
