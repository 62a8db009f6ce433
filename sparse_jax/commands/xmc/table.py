"""Models of tables in the xmc commands: `xmc train table.csv --target COLUMN`, and asking them."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from sparse_jax.commands import reading, spending
from sparse_jax.commands.progress import Bars
from sparse_jax.commands.report import tell
from sparse_jax.data import reading as reading_room
from sparse_jax.data.features import schema as schemas
from sparse_jax.data.kinds.base import Options
from sparse_jax.data.kinds.cells import TABLES, read_cells
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.saved import read_manifest
from sparse_jax.xmc import tabular


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of training on all columns of a table."""
    group = parser.add_argument_group(
        "a column from all others, instead of labels from texts",
        "Texts, categories, numbers and dates of a table become features; what each column is, is "
        "guessed and printed. Of the others, --preset, --seed, --separator, --kind, --test, "
        "--model, --max-seconds and --json count.",
    )
    add = group.add_argument
    add("--target", metavar="COLUMN", help="the column to predict, by classes or as a number")
    add(
        "--task",
        choices=tabular.TASKS,
        help="what the target is (default: classes, unless its values are more than 50 different "
        "numbers, or numbers that aren't whole)",
    )
    add("--schema", metavar="FILE", help="what the columns are, a JSON list as `schema` of --json")


def is_table(model: str) -> bool:
    """Whether a directory holds a model of a table."""
    return bool(read_manifest(model)["kind"] == tabular.KIND)


def read(path: str, kind: str, target: str | None) -> dict[str, Any]:
    """The columns of a file.

    Raises:
      ValueError: a malformed file, or one without columns.
      ImportError: a missing library.
      OSError: a file can't be read.
    """
    sources = reading_room.open_sources(reading.source_of(path))
    if kind == "auto":
        kind = reading_room.find(sources, None, Options(labels=target)).name
    if kind not in TABLES:
        raise ValueError(
            f"{path} is of kind {kind}: must be a table, one of {', '.join(TABLES)}; say --kind, "
            "or check the names in its first line"
        )
    return read_cells(sources[0], kind)


def train(args: argparse.Namespace) -> int:
    """Trains on a table, keeps and reports; returns the exit status."""
    table = read(args.files[0], args.kind, args.target)
    test = read(args.files[1], args.kind, args.target) if len(args.files) > 1 else None
    schema = _schema(args.schema) if args.schema else None
    interrupt = Interrupt(args.max_seconds)
    started = time.perf_counter()
    with interrupt, Bars() as bars:
        model = tabular.fit_table(
            table,
            args.target,
            task=args.task,
            separator=args.separator,
            schema=schema,
            preset=args.preset,
            seed=args.seed,
            interrupt=interrupt,
            progress=bars,
        )
    if interrupt.asked:
        print(f"\ninterrupted: {args.model} stays as it was" if args.model else "\ninterrupted")
        return 130
    seconds = time.perf_counter() - started
    describe(model)
    if args.model:
        tabular.save_table(model, args.model)
        print(f"kept in {args.model}")
    results: dict[str, Any] = {"target": args.target, "task": task(model), "seed": args.seed}
    results |= {"train_seconds": round(seconds, 3)}
    results["schema"] = schemas.to_json(model.features.schema)
    if test is not None:
        results |= figures(model, test)
    tell(results | spending.spent(args), args.json)
    return 0


def _schema(path: str) -> schemas.Schema:
    try:
        return schemas.from_json(json.loads(Path(path).read_text("utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"--schema {path}: is no JSON ({error}); see docs/classify.md") from None


def task(model: tabular.TableModel) -> str:
    """What the target is."""
    return "number" if model.number is not None else "classes"


def describe(model: tabular.TableModel) -> None:
    """What is predicted from what, for people."""
    what = "a number"
    if model.classifier is not None:
        what = f"one of {model.classifier.num_labels:,} classes"
    print(f"{model.target}: {what}, from {model.features.num_features:,} features:")
    for line in str(model.features.schema).splitlines():
        print(f"  {line}")


def figures(model: tabular.TableModel, table: dict[str, Any]) -> dict[str, float]:
    """Figures of a model on a table, printed and returned."""
    found = tabular.evaluate_table(model, table)
    if model.number is not None:
        for name, about in (("rmse", "root mean square error"), ("mae", "mean absolute error")):
            print(f"  {about:<24} {found[name]:.6g} (of the mean: {found[f'mean_{name}']:.6g})")
        return found
    ks = [k for k in (1, 3, 5) if f"p@{k}" in found]
    shown = " / ".join(f"{found[f'p@{k}']:.4f}" for k in ks)
    print(f"  {' / '.join(f'P@{k}' for k in ks):<21} {shown}")
    print(f"  {'calibration error':<21} {found['ece']:.4f}")
    return found


def predict(args: argparse.Namespace) -> tuple[tabular.TableModel, tabular.TablePredictions]:
    """The model of a command line, and what it predicts for the file.

    Raises:
      ValueError: options without effect, and what `read` refuses.
    """
    model = tabular.load_table(args.model)
    useless = {"--text": args.text, "--separator": args.separator, "--base": args.base}
    if model.number is not None:
        useless["--threshold"] = args.threshold or None
    _refuse(useless, f"{args.model} predicts {model.target!r} of a table")
    table = read(args.file, args.kind, None)
    return model, tabular.predict_table(model, table, k=args.top_k)


def evaluate(args: argparse.Namespace) -> None:
    """The figures of the model of a command line on its file.

    Raises:
      ValueError: options without effect, and what `read` refuses.
    """
    model = tabular.load_table(args.model)
    useless = {"--text": args.text, "--labels": args.labels, "--separator": args.separator}
    _refuse(useless, f"{args.model} predicts {model.target!r} of a table")
    tell(figures(model, read(args.test, args.kind, model.target)), args.json)


def _refuse(options: dict[str, Any], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: no effect, since {why}; leave it out")
