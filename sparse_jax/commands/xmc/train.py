"""Train a classifier over many labels on one CPU, and keep it.

    sparse-jax xmc train train.txt.gz --test test.txt.gz --model MODEL
    sparse-jax xmc train table.csv --text question --labels type --model MODEL
    sparse-jax xmc train trn_X_Xf.txt,trn_X_Y.txt --model MODEL
    sparse-jax xmc train table.csv --target price --model MODEL
    sparse-jax xmc predict MODEL new.txt --top-k 5
    sparse-jax launch -n 2 -- xmc train train.txt --model MODEL

Files hold points by the ids of their features and labels, or texts with labels by name; plain or
gzip, - for standard input.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sparse_jax import data, xmc
from sparse_jax.commands import reading, spending
from sparse_jax.commands.checks import check_target
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.progress import Bars
from sparse_jax.commands.report import draw, draw_model, print_table, tell
from sparse_jax.commands.xmc import joining, memory, naming, options
from sparse_jax.commands.xmc import table as table_models
from sparse_jax.commands.xmc.evaluate import evaluate
from sparse_jax.data import weighting
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.files import check_writable
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.runtime.machine import peak_rss_bytes, sha256
from sparse_jax.xmc import metrics, sizes
from sparse_jax.xmc.alone import network_alone
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return options.parse_args(argv, __doc__)


def load(args: argparse.Namespace) -> tuple[data.Table, data.Table | None]:
    """The training points, and the test points if there are any, with features and names.

    Raises:
      ValueError: if a file is malformed, or the two don't fit together.
      ImportError: if a library for a kind of file is missing.
      OSError: if a file can't be read.
    """
    train = reading.read(args.files[0], args)
    naming.check_labels(args.files[0], train)
    train = naming.with_names(train, args.labels, args.vocabulary, args.model)
    if len(args.files) == 1:
        return train, None
    test = reading.read(args.files[1], args, strict=False)
    naming.check_labels(args.files[1], test)
    return train, naming.as_test(args.files[0], args.files[1], train, test)


def load_weighted(files: Sequence[str]) -> tuple[data.XmcData, data.XmcData]:
    """Training and test points, both weighted as the training points ask for: for benchmarks."""
    train, test = load(parse_args(list(files)))
    if test is None:
        raise ValueError(f"{files[0]} stands alone: must be TRAIN and TEST")
    chosen = weighting.fit(train.points)
    return weighting.apply(chosen, train.points), weighting.apply(chosen, test.points)


def main(argv: Sequence[str] | None = None, *, defaults: Sequence[str] = ()) -> int:
    """Runs the command, on the default files where none are named; returns its exit status."""
    args = parse_args(argv)
    args.files = args.files or list(defaults)
    if args.memory is None:  # kept memory falls to pieces that a step's temporaries don't fit into
        keep_freed_memory()
    return status_of(_train, args)


def _train(args: argparse.Namespace) -> int:
    if not args.files:
        raise ValueError("no files: give TRAIN, points of any kind; --help shows how")
    with joining.joined(args) as first:
        if first:
            return _train_and_keep(args)
        args.files = args.files[:1]  # the test points are the first one's
        joining.take_part(args, load(args)[0])
        return 0


def _train_and_keep(args: argparse.Namespace) -> int:
    check_target(args.model, kind="table" if args.target else "xmc")
    if args.target:
        if args.model:
            check_writable(args.model)
        with locked(args.model):
            return table_models.train(args)
    # A directory may serve as both.
    checkpoint = None if args.checkpoint == args.model else args.checkpoint
    with locked(args.model), locked(checkpoint):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Trains, keeps and reports; returns the exit status."""
    for place in (args.model, args.checkpoint):
        if place is not None:
            check_writable(place)
    table, test_table = load(args)
    train, test = table.points, None if test_table is None else test_table.points
    names: Names = {"label_names": table.label_names, "feature_names": table.feature_names}
    held = "" if test is None else f"{test.num_points:,} test points, "
    print(
        f"{train.num_points:,} training points, {held}{train.num_features:,} features, "
        f"{train.num_labels:,} labels"
    )
    sizes.check(train)
    if args.weighting == "auto":
        print(weighting.choose(train).reason)
    # A network alone has its time for steps; a preset for all of it.
    interrupt = Interrupt(args.max_seconds if args.preset else None)
    with interrupt, Bars() as bars:
        if args.preset:
            model, history, costs = _fit_preset(args, table, names, interrupt, bars)
        else:
            model, history, costs = _fit_network(args, table, names, interrupt, bars)
    about = dataclasses.replace(
        model.about, notes=model.about.notes | reading.columns_note(args, table)
    )
    model = dataclasses.replace(model, about=about)
    if interrupt.asked:
        where = f"; what is done is saved in {args.checkpoint}" if args.checkpoint else ""
        print(f"\ninterrupted{where}")
    elif interrupt.ended:
        print(f"stopped after {args.max_seconds:g} s: the model is what there was by then")
    if args.model and interrupt.asked:
        print(f"{args.model} stays as it was", file=sys.stderr)
    elif args.model:
        xmc.save(model, args.model)
        print(f"kept in {args.model}")
    results = _results(args, model, train, test, costs)
    print_table(results)
    tell(results | spending.spent(args), args.json)
    if args.plot and args.preset and test is not None:
        most = max(train.num_labels, test.num_labels)
        frequency = np.bincount(train.label_ids, minlength=most)
        predicted = xmc.predict(model, test, k=min(5, model.num_labels))
        draw_model(args.plot, predicted, test, frequency)
    elif args.plot and test is not None:
        draw(args.plot, history, results)
    return 130 if interrupt.asked and args.model else 0


Fitted = tuple[xmc.Model, list[dict[str, float]], dict[str, Any]]


Names = dict[str, tuple[str, ...] | None]


def _fit_preset(
    args: argparse.Namespace,
    table: data.Table,
    names: Names,
    interrupt: Interrupt,
    bars: Bars,
) -> Fitted:
    runs: list[NetworkRun] = []
    model = xmc.fit_together(
        table.points,
        label_weights=table.label_weights,
        preset=args.preset,
        seed=args.seed,
        weighting=args.weighting,
        checkpoint_directory=args.checkpoint,
        resume=args.resume,
        interrupt=interrupt,
        progress=bars,
        on_network=runs.append,
        **names,
    )
    assert model is not None  # this is the first process
    costs = runs[-1].costs() if runs else {}
    near = model.neighbours
    shown = {
        "preset": args.preset,
        "seed": args.seed,
        "wide_weight": float(model.mix.weight),
        "wide_pairs": int(model.wide.weights.size),
        "trees": len(model.trees),
        "tree_weight": float(model.mix.tree_weight),
        "networks": len(model.encoders),
        "neighbours": 0 if near is None else near.num_points,
        "neighbour_weight": 0.0 if near is None else float(near.weight),
        "weights_sha256": digest(model),
    }
    kept = ("train_seconds", "madds", "dense_madds", "madds_saved")
    notes = {name: model.about.notes[name] for name in kept}
    return model, runs[-1].history if runs else [], costs | shown | notes


def _fit_network(
    args: argparse.Namespace,
    table: data.Table,
    names: Names,
    interrupt: Interrupt,
    bars: Bars,
) -> Fitted:
    train = table.points
    chosen = weighting.fit(train, args.weighting)
    weighted, chosen_options = weighting.apply(chosen, train), options.network_options(args)

    def make(wanted: Options, *, begun: bool = False) -> NetworkRun:
        return NetworkRun(
            wanted,
            weighted,
            label_weights=table.label_weights,
            directory=args.checkpoint,
            save_every=args.save_every,
            begun=begun,
        )

    predicted: dict[str, Any] = {}
    if args.memory is None:
        run = make(chosen_options, begun=not args.resume)
    else:
        run, prediction = memory.fit_into(
            args.memory,
            chosen_options,
            options.given_fields(args),
            make,
            num_features=train.num_features,
            num_labels=train.num_labels,
            resumed=args.checkpoint if args.resume else None,
        )
        predicted = {"memory_bytes": args.memory, "predicted_bytes": prediction.total}
    if args.resume:
        if not run.resume():
            raise ValueError(f"nothing is saved in {args.checkpoint} yet: start without --resume")
        print(f"resumed at step {run.clock.step} of {run.total_steps}")
    run.fit(interrupt=interrupt, max_seconds=args.max_seconds, progress=bars)
    model = network_alone(run, train, chosen, **names)
    return model, run.history, run.costs() | predicted


def digest(model: xmc.Model) -> str:
    """Digest of all arrays: equal runs have equal digests."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return sha256({jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def _results(
    args: argparse.Namespace,
    model: xmc.Model,
    train: data.XmcData,
    test: data.XmcData | None,
    costs: dict[str, Any],
) -> dict[str, Any]:
    results = dict(costs)
    if test is not None:
        most = max(train.num_labels, test.num_labels)
        inverse = metrics.inverse_propensities(train.label_offsets, train.label_ids, most)
        results |= evaluate(model, test, np.asarray(inverse), others=True)
    results["model_bytes"] = model.nbytes()
    results["peak_rss_bytes"] = peak_rss_bytes()
    return results


if __name__ == "__main__":
    sys.exit(main())
