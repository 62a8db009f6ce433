"""The processes that a training command shares its work with, and the options that name them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from sparse_jax import data, sharding, xmc
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.sharding import joining, processes

_GIVEN = ("coordinator", "processes", "process")


def add_options(parser: argparse.ArgumentParser, about: str) -> argparse._ArgumentGroup:
    """--coordinator, --processes and --process, as a group."""
    group = parser.add_argument_group("processes", about)
    add = group.add_argument
    add("--coordinator", metavar="HOST:PORT", help="where process 0 listens, on all the same")
    add("--processes", type=int, metavar="N", help="how many there are")
    add("--process", type=int, metavar="I", help="which one this is, from 0")
    return group


def tell_waiting(line: str) -> None:
    """Says who is waited for."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[bool]:
    """The others of a run, if there are any; whether this is the first process.

    It ends when all have: a process that left before would be missed.

    Raises:
      ValueError: if the run is none that processes share, or the arguments don't fit together.
    """
    given = [getattr(args, name) for name in _GIVEN]
    count = joining.find(*given).processes
    if count == 1:
        yield True
        return
    _check(args, count)
    with sharding.hard_exit():
        sharding.initialize(*given, options=[args.preset, args.seed], tell=tell_waiting)
        yield processes.here()[0] == 0
        processes.barrier("the command's end", timeout=processes.LATE)


def _check(args: argparse.Namespace, count: int) -> None:
    """Whether processes can share what is asked for."""
    if args.target is not None:
        raise ValueError(f"--target among {count} processes: must be trained by one alone")
    if not args.preset:
        raise ValueError(
            f"a network alone among {count} processes: must be a preset, or `sparse-jax xmc "
            "train-sharded`, which deals the rows of a network"
        )
    if args.checkpoint:
        raise ValueError(
            f"--checkpoint among {count} processes: must be left out; one process alone can go on "
            "from checkpoints, and so can `sparse-jax xmc train-sharded`"
        )
    if "-" in args.files:
        raise ValueError(f"- among {count} processes: must be a file, which each of them reads")


def take_part(args: argparse.Namespace, table: data.Table) -> None:
    """What a process does that is not the first: it trains its share, and keeps nothing."""
    xmc.fit_together(
        table.points,
        label_weights=table.label_weights,
        preset=args.preset,
        seed=args.seed,
        weighting=args.weighting,
        interrupt=Interrupt(args.max_seconds),
        label_names=table.label_names,
        feature_names=table.feature_names,
    )
