"""A kept classifier on a test file: ranking metrics, calibration, and time.

sparse-jax xmc evaluate MODEL test.txt.gz
sparse-jax xmc evaluate MODEL test.csv --text question --labels type
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from sparse_jax import data, xmc
from sparse_jax.commands import reading
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.report import tell
from sparse_jax.commands.xmc import naming
from sparse_jax.commands.xmc import table as table_models
from sparse_jax.runtime.allocator import keep_freed_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory of a kept model")
    add(
        "test", metavar="TEST", help="points with their labels, of any kind; - reads standard input"
    )
    add("--json", metavar="FILE", help="write the figures here, too")
    reading.add_options(parser, labels="the column of labels (default: labels, or label)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    return status_of(_run, args, closed_pipe=141)


def _run(args: argparse.Namespace) -> None:
    """Reads test points, tells the figures."""
    if table_models.is_table(args.model):
        table_models.evaluate(args)
        return
    model = xmc.load(args.model)
    table = reading.read(args.test, args, model=model)
    naming.refuse_labels(table, args.labels)
    naming.check_labels(args.test, table)
    table = naming.for_model(args.test, table, model)
    results = evaluate(model, table.points, others=table.label_names is not None)
    print_figures(results)
    tell(results, args.json)


def evaluate(
    model: xmc.Model,
    test: data.XmcData,
    inverse_propensities: np.ndarray | None = None,
    *,
    others: bool = False,
) -> dict[str, Any]:
    """Figures of a model on test points, with the time of a prediction once compiled.

    Args:
      model: kept or just trained.
      test: points with their true labels.
      inverse_propensities: float [N], of the training points; None leaves out PSP.
      others: labels beyond the model's are known to be others, and are missed.

    Raises:
      ValueError: if the test points don't fit the model, or have no labels.
    """
    if test.num_labels > model.num_labels and not others:
        raise ValueError(
            f"the test points are of {test.num_labels} labels, the model of {model.num_labels}: "
            "they must number the same labels; update the model with points of the new ones first"
        )
    k = min(5, model.num_labels)
    xmc.predict(model, test.take(slice(0, 512)), k=k)  # compiles
    started = time.perf_counter()
    predicted = xmc.predict(model, test, k=k)
    seconds = time.perf_counter() - started
    figures: dict[str, Any] = xmc.evaluate(
        predicted, test, inverse_propensities=inverse_propensities
    )
    figures["predict_us"] = 1e6 * seconds / max(test.num_points, 1)
    figures["model_bytes"] = model.nbytes()
    return figures


def print_figures(results: dict[str, Any]) -> None:
    """The figures, for people."""
    ks = [k for k in (1, 3, 5) if f"p@{k}" in results]
    for name, key in (("P", "p"), ("nDCG", "ndcg"), ("PSP", "psp")):
        if f"{key}@1" in results:
            head = " / ".join(f"{name}@{k}" for k in ks)
            print(f"  {head:<21} " + " / ".join(f"{results[f'{key}@{k}']:.4f}" for k in ks))
    print(f"  {'calibration error':<21} {results['ece']:.4f}")
    size = f"model {results['model_bytes'] / 2**20:,.0f} MiB"
    print(f"  {'predicting':<21} {results['predict_us']:,.0f} µs a point, {size}")


if __name__ == "__main__":
    sys.exit(main())
