#!/usr/bin/env python3
"""Train an extreme classifier through LSH tables on one CPU.

Without arguments: 19,182 Debian packages, recommended from a package's description. With two files
in the Extreme Classification Repository's text format (plain or .gz), your own data:

    python scripts/train_xmc.py train.txt.gz test.txt.gz --hidden 256 --epochs 10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparse_jax import data
from sparse_jax.commands.report import draw, print_table, tell
from sparse_jax.commands.xmc import presets
from sparse_jax.commands.xmc.run import Run
from sparse_jax.retrieval import hashing
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.xmc import step as training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN and TEST; default: debian-depends")
    add(
        "--preset",
        choices=presets.PRESETS,
        help="linear parts and networks together, sized by the data; nothing else to choose",
    )
    add(
        "--strategy",
        choices=training.STRATEGIES,
        help="where the active set's negatives come from (lsh; uniform with --preset)",
    )
    add(
        "--mode",
        choices=training.MODES,
        default="shared",
        help="one active set for a batch, or one for each example (default: shared)",
    )
    add("--active", type=int, default=1024, metavar="A", help="size of the active set (1024)")
    add("--hidden", type=int, default=128, metavar="D", help="hidden width (128)")
    add("--loss", choices=("softmax", "bce"), default="softmax", help="(softmax)")
    add(
        "--correction",
        choices=("none", "logq", "lsh"),
        default="none",
        help="correct logits for the chance of being sampled (none)",
    )
    add(
        "--hash",
        choices=[f for f in hashing.FAMILIES if f != "minhash"],
        default="simhash",
        help="LSH family (simhash)",
    )
    add(
        "--transform",
        choices=hashing.transforms.NAMES,
        default="centred",
        help="key transform (centred)",
    )
    add("--tables", type=int, default=16, metavar="L", help="hash tables (16)")
    add("--bits", type=int, default=8, metavar="K", help="bits of a bucket id (8)")
    add(
        "--candidates",
        type=int,
        default=3,
        metavar="M",
        help="ranked candidates taken from the tables for each example (3)",
    )
    add(
        "--rehash",
        type=int,
        default=50,
        metavar="STEPS",
        help="first interval between re-hashes of changed rows; grows by a fifth each time (50)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="how the weights of features and labels are stored (float32)",
    )
    add("--epochs", type=int, default=5, help="(5)")
    add("--batch-size", type=int, default=128, metavar="B", help="(128)")
    add("--lr", type=float, default=3e-3, help="peak learning rate of Adam, decayed to 0 (3e-3)")
    add("--seed", type=int, default=0, help="of weights, order, functions and samples (0)")
    add("--max-seconds", type=float, metavar="S", help="stop training after this long")
    add("--checkpoint", metavar="DIR", help="save here at each epoch and at the end")
    add("--save-every", type=int, metavar="STEPS", help="save as often as this, too")
    add("--resume", action="store_true", help="go on from the last save in --checkpoint")
    add("--json", metavar="FILE", help="write the results here")
    add("--plot", metavar="FILE", help="draw loss and P@1 over time here (.png, .svg)")
    args = parser.parse_args(argv)
    if len(args.files) not in (0, 2):
        parser.error(f"got {len(args.files)} file(s): give TRAIN and TEST, or neither")
    args.strategy = args.strategy or ("uniform" if args.preset else "lsh")
    if args.resume and not args.checkpoint:
        parser.error("--resume needs --checkpoint DIR")
    for name in (
        "active",
        "hidden",
        "tables",
        "bits",
        "candidates",
        "rehash",
        "epochs",
        "batch_size",
        "save_every",
    ):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if not args.lr > 0:
        parser.error(f"--lr {args.lr}: must be above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    return args


def load(args: argparse.Namespace) -> tuple[data.XmcData, data.XmcData]:
    """The two sets, TF-IDF weighted by the training set's document frequencies."""
    train_file, test_file = args.files
    train, test = data.read_xmc(train_file), data.read_xmc(test_file)
    if (train.num_features, train.num_labels) != (test.num_features, test.num_labels):
        raise ValueError(
            f"{test_file} has {test.num_features} features and {test.num_labels} labels, "
            f"{train_file} {train.num_features} and {train.num_labels}: they must be equal"
        )
    if train.num_labels < 5:
        raise ValueError(f"{train_file} has {train.num_labels} labels: P@5 takes at least 5")
    idf = data.fit_idf(train)
    return data.apply_tfidf(train, idf), data.apply_tfidf(test, idf)


def main(argv: list[str] | None = None, *, defaults: Sequence[str] = ()) -> int:
    """Runs the command, on the default files where none are named; returns its exit status."""
    args = parse_args(argv)
    args.files = args.files or list(defaults)
    keep_freed_memory()
    try:
        train, test = load(args)
        print(f"{train.num_points:,} training points, {test.num_points:,} test points, "
              f"{train.num_features:,} features, {train.num_labels:,} labels")  # fmt: skip
        if args.preset:
            history, results = presets.run(args, train, test)
        else:
            run = Run(args, train)
            if args.resume:
                run.resume()
            run.fit()
            history, results = run.history, run.results(test)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(results)
    tell(results, args.json)
    if args.plot and not history:
        print(f"no network was trained: {args.plot}, its curve, is not drawn")
    elif args.plot:
        draw(args.plot, history, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
