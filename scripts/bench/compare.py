#!/usr/bin/env python3
"""Ours beside its peers on extreme-classification sets: one command, one table.

    python scripts/compare_xmc.py --sets DIR DIR --seeds 0 1 2 --output table.md
    python scripts/compare_xmc.py TRAIN TEST --output table.json --plot accuracy.png

Every way runs in a process of its own, one after the other, on the same files in the text format of
the Extreme Classification Repository, with the same weights of features; whole test sets are
predicted. Ours takes names of labels and words where they lie beside the points, which no peer can.
Omikuji (Parabel and Bonsai; `pip install omikuji`), PECOS XR-Linear (`pip install libpecos`) and
TF-IDF nearest neighbours (`pip install scipy`) take part where installed; --peers-python names
another interpreter that has some of them.

A figure is kept on the disk as soon as it is there: after Ctrl-C the same command goes on. Training
seconds are all of training, compiling and tree building counted; reading the files is counted only
for Omikuji, which reads its own.

Sets stand in two halves: in order of their kind (dense, large, middle or small, from the points
alone) and of the SHA-256 of their names, every other one. The way of ours that is best on one half
is reported on the other, beside the peer that is best there, and the other way round.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import compare_cells as cells
import compare_sets
import compare_table as tables
import default_set
from compare_ours import OURS

from sparse_jax.commands import report
from sparse_jax.runtime import files

MOST_DENSE = 25_000  # labels for which a network over all of them is trained
USUAL = ("fast", "fast, no names", "accurate", "network, dense", *cells.PEERS)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = [*OURS, *cells.PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST; default: debian-depends")
    add("--sets", nargs="+", metavar="DIR", help="all sets of these directories")
    add("--ways", metavar="LIST", help=f"of {'; '.join(known)}, with ; between them (most of them)")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="(0)")
    add(
        "--peers-python",
        "--python",
        action="append",
        default=[],
        metavar="EXE",
        help="an interpreter that has peers this one lacks; more than once if need be",
    )
    add("--output", metavar="FILE", help="FILE.md and FILE.json are both written")
    add("--cells", metavar="DIR", help="keeps each figure (FILE.cells)")
    add("--max-seconds", type=float, metavar="S", help="end a way that takes longer on a set")
    add("--plot", metavar="FILE", help="of one set, draw P@1 against training seconds here")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2) or (args.files and args.sets):
        parser.error(f"got {len(args.files)} file(s): give TRAIN and TEST, or --sets, or neither")
    if args.plot and args.sets:
        parser.error("--plot has no effect with --sets: give TRAIN and TEST")
    args.ways = [w.strip() for w in args.ways.split(";")] if args.ways else list(USUAL)
    unknown = set(args.ways) - {*known}
    if unknown:
        parser.error(f"--ways {'; '.join(sorted(unknown))}: must be of {'; '.join(known)}")
    if args.max_seconds is not None and args.max_seconds <= 0:
        parser.error(f"--max-seconds {args.max_seconds:g}: must be above 0")
    return args


class Job:
    """What is to be measured, and what has been."""

    def __init__(self, args: argparse.Namespace, store: cells.Store) -> None:
        self.args, self.store = args, store
        given = args.files or default_set.FILES
        found = compare_sets.in_directories(args.sets) if args.sets else []
        self.sets = compare_sets.smallest_first(found or [compare_sets.of_files(*given)])
        self.shapes = {s.name: compare_sets.shape_of(s.train) for s in self.sets}
        self.halves = compare_sets.halves({n: shape.kind for n, shape in self.shapes.items()})
        peers = [way for way in args.ways if way in cells.PEERS]
        self.pythons, self.absent = cells.interpreters(peers, args.peers_python)
        self.digests = {s.name: s.digest() for s in self.sets}
        self.done: dict[tuple[str, str, int], dict[str, Any]] = {}
        for chosen in self.sets:
            for way, seed in self.wanted(chosen):
                kept = store.read(chosen.name, self.digests[chosen.name], way, seed)
                if kept is not None:
                    self.done[chosen.name, way, seed] = kept

    def wanted(self, chosen: compare_sets.Set) -> Iterator[tuple[str, int]]:
        """The ways that make sense on a set, with each seed that changes them."""
        for seed in self.args.seeds:
            for way in self.args.ways:
                if way in cells.PEERS and way not in self.pythons:
                    continue
                if way in cells.SEEDLESS and seed != self.args.seeds[0]:
                    continue
                if way == "fast, no names" and not (chosen.labels and chosen.words):
                    continue
                if way == "network, dense" and self.shapes[chosen.name].labels > MOST_DENSE:
                    continue
                yield way, seed

    def run(self) -> None:
        """Measures what is missing, all sets with one seed before the next."""
        for seed in self.args.seeds:
            for chosen in self.sets:
                missing = [
                    way
                    for way, s in self.wanted(chosen)
                    if s == seed and (chosen.name, way, seed) not in self.done
                ]
                if missing:
                    self._run_set(chosen, missing, seed)

    def _run_set(self, chosen: compare_sets.Set, ways: Sequence[str], seed: int) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "set"
            cells.prepare(chosen, directory)
            for way in ways:
                try:
                    cell = cells.run(
                        way,
                        chosen,
                        directory,
                        python=self.pythons.get(way, sys.executable),
                        seed=seed,
                        max_seconds=self.args.max_seconds,
                    )
                except cells.Failed as error:  # not kept: the next run tries again
                    cell = {"failed": str(error)}
                else:
                    cell["set"] = self.digests[chosen.name]
                    self.store.write(chosen.name, way, seed, cell)
                self.done[chosen.name, way, seed] = cell
                print(f"{chosen.name:22}{seed:3}  {way:18}{_line(cell)}", flush=True)

    def failures(self) -> list[str]:
        """A line for each peer that cannot be had and each way that failed."""
        failed = {k: c["failed"] for k, c in self.done.items() if "failed" in c}
        return [*self.absent, *(f"{n}, {w}, seed {s}: {why}" for (n, w, s), why in failed.items())]


HEADS = ("p@1", "p@3", "p@5", "r@10")


def _line(cell: dict[str, Any]) -> str:
    if "failed" in cell:
        return f"  {cell['failed']}"
    scores = "".join(f"{cell[c]:8.4f}" if c in cell else " " * 8 for c in HEADS)
    rss, size = cell["peak_rss_bytes"] / 2**20, cell["model_bytes"] / 2**20
    return (
        f"{scores}{cell['train_seconds']:9.1f}{cell['predict_us']:11,.0f}{rss:9,.0f}{size:10,.0f}"
    )


def write(job: Job, output: str | None) -> None:
    """The table as far as it got, for people and as JSON."""
    names = [s.name for s in sorted(job.sets, key=lambda s: (job.halves[s.name], s.name))]
    table = tables.rows(job.done, names, [*OURS, *cells.PEERS])
    missing = sum(
        (s.name, way, seed) not in job.done for s in job.sets for way, seed in job.wanted(s)
    )
    notes = [
        f"Seeds {', '.join(map(str, job.args.seeds))}; means over those there; whole test sets."
    ]
    if missing:
        notes.append(f"Not finished: {missing} runs are missing; the same command goes on.")
    text = tables.markdown(table, job.failures(), job.shapes, job.halves, notes)
    if output is None:
        return
    path = Path(output)
    files.write_atomically(path.with_suffix(".md"), text.encode())
    value = {
        "missing": missing,
        "failures": job.failures(),
        "sets": {n: job.shapes[n]._asdict() | {"half": "AB"[job.halves[n]]} for n in names},
        "rows": [row._asdict() for row in table],
        "choices": [choice._asdict() for choice in tables.choices(table, job.halves)],
    }
    files.write_json(path.with_suffix(".json"), value)


def draw(path: str, table: Sequence[tables.Row]) -> None:
    """P@1 against training seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in table:
        at = (row.figures["train_seconds"], row.figures["p@1"])
        axes.scatter(*at, color="tab:orange" if row.way in OURS else "tab:blue")
        axes.annotate(row.way, at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="training seconds", ylabel="P@1 on the test set")
    report.save_figure(path, figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended as by Ctrl-C
    try:
        return _main(args)
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        beside = None if args.output is None else Path(args.output).with_suffix(".cells")
        place = args.cells or beside or scratch
        try:
            job = Job(args, cells.Store(Path(place)))
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        for line in job.absent:
            print(line)
        if job.done:
            print(f"{len(job.done)} runs are in {place} already")
        print(
            f"{'':45}"
            + "".join(f"{c:>8}" for c in HEADS)
            + "  train s predict µs  RSS MiB model MiB"
        )
        status = 0
        try:
            job.run()
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", file=sys.stderr)
            status = 130
        write(job, args.output)
        if args.plot and not status:
            draw(args.plot, tables.rows(job.done, [job.sets[0].name], args.ways))
    return status


if __name__ == "__main__":
    sys.exit(main())
