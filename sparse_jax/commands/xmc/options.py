"""The options of `xmc train`, and which of them have an effect together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_jax.commands import reading, spending
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.xmc import joining, memory, table
from sparse_jax.data import weighting
from sparse_jax.ops import bf16
from sparse_jax.retrieval import hashing
from sparse_jax.xmc import step
from sparse_jax.xmc.negatives import STRATEGIES
from sparse_jax.xmc.network_options import OPTIMIZERS, Options, buckets_of
from sparse_jax.xmc.presets import PRESETS

LSH_FAMILIES = [f for f in hashing.FAMILIES if f != "minhash"]  # minhash is for sets

# Options of a network that is trained alone, and their names in `Options`. They are None until
# given, so that one without effect can be told from one that was left alone.
NETWORK: dict[str, tuple[str, dict[str, Any]]] = {
    "strategy": ("strategy", {"choices": list(STRATEGIES)}),
    "mode": ("mode", {"choices": step.MODES}),
    "active": ("active", {"type": int, "metavar": "A"}),
    "hidden": ("hidden", {"type": int, "metavar": "D"}),
    "loss": ("loss", {"choices": ("softmax", "bce")}),
    "correction": ("correction", {"choices": ("none", "logq", "lsh")}),
    "hash": ("family", {"choices": LSH_FAMILIES}),
    "transform": ("transform", {"choices": hashing.transforms.NAMES}),
    "tables": ("tables", {"type": int, "metavar": "L"}),
    "bits": ("bits", {"type": int, "metavar": "K"}),
    "candidates": ("candidates", {"type": int, "metavar": "M"}),
    "rehash": ("rehash", {"type": int, "metavar": "STEPS"}),
    "dtype": ("dtype", {"choices": ("float32", "bfloat16")}),
    "precision": ("precision", {"choices": (*bf16.PRECISIONS, "auto")}),
    "buckets": ("buckets", {"type": int, "metavar": "B"}),
    "repetitions": ("repetitions", {"type": int, "metavar": "R"}),
    "epochs": ("epochs", {"type": int}),
    "batch_size": ("batch_size", {"type": int, "metavar": "B"}),
    "optimizer": ("optimizer", {"choices": list(OPTIMIZERS)}),
    "lr": ("learning_rate", {"type": float}),
}
LABELS = (
    "of a table, the column of labels (default: labels, or label); of points whose labels are ids, "
    "a file with the labels' names, a line each, for --model"
)
HELP = {
    "strategy": "where an active set's negatives come from: "
    + "; ".join(f"{name}, {s.about}" for name, s in STRATEGIES.items())
    + "; lsh where an option of the tables is given",
    "mode": "one active set for a batch, or one for each example",
    "active": "size of the active set; by default what the data need",
    "hidden": "hidden width",
    "loss": "over the active set",
    "correction": "of logits for the chance of being sampled",
    "hash": "LSH family: " + "; ".join(f"{n}, {hashing.about(n)}" for n in LSH_FAMILIES),
    "transform": "of the keys that are hashed",
    "tables": "hash tables",
    "bits": "of a bucket id",
    "candidates": "ranked candidates taken from the tables for each example",
    "rehash": "first interval between re-hashes of changed rows; grows by a fifth each time",
    "dtype": "how the weights of features and labels are stored",
    "precision": "of the output layer's products: mixed rounds their factors to bfloat16 and adds "
    "up in float32, which pays for wide rows; auto does so where the processor multiplies such",
    "buckets": "hash labels to so many buckets, a power of two, in each repetition; none has "
    "a row of its own: for more labels than memory has rows for (docs/mach.md)",
    "repetitions": "with --buckets: a label's row is the sum of its buckets' in so many hashings",
    "epochs": "passes over the training points",
    "batch_size": "points a step",
    "optimizer": "adam keeps 8 bytes a weight; row-scale 4 bytes a row, for large tables",
    "lr": "peak learning rate, decayed to 0; wide networks want less, some 2e-4 at a width of 2000",
}
NEEDS_TABLES = ("hash", "transform", "tables", "bits", "candidates", "rehash")
PICTURES = (".png", ".svg", ".pdf")
AT_LEAST_1 = (
    *("active", "hidden", "tables", "bits", "candidates", "rehash"),
    *("buckets", "repetitions", "epochs", "batch_size"),
)


def parse_args(argv: Sequence[str] | None = None, about: str | None = None) -> argparse.Namespace:
    """The command line; errors end the process, as argparse does."""
    parser = Parser(about)
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="TRAIN, and TEST if there is one; - reads stdin")
    add("--test", metavar="FILE", help="test points, the same as a second FILE")
    add("--model", metavar="DIR", help="keep the trained model here")
    add(
        "--vocabulary",
        metavar="NAMES",
        help="a file with the features' words, a line each: for --model, which then reads texts; "
        "of texts, the words that count (default: all)",
    )
    presets = "; ".join(f"{name}, {preset.about}" for name, preset in PRESETS.items())
    add(
        "--preset",
        choices=list(PRESETS),
        help=f"how much to spend: {presets} (default: fast, unless a network's option is given)",
    )
    add(
        "--weighting",
        choices=weighting.NAMES,
        default="auto",
        help="of features: tfidf for counts, none for values that are weighted already; auto looks "
        "at them and says what it chose (default: auto)",
    )
    add("--seed", type=int, default=0, help="of weights, order, functions, samples (default: 0)")
    add("--max-seconds", type=float, metavar="S", help="stop training after this long")
    add("--checkpoint", metavar="DIR", help="save what is done here on the way, for --resume")
    add("--save-every", type=int, metavar="STEPS", help="save a network as often as this, too")
    add("--resume", action="store_true", help="go on from the last save in --checkpoint")
    add("--json", metavar="FILE", help="write the results here")
    spending.add_price(parser)
    add(
        "--plot",
        metavar="FILE",
        help="draw here (.png, .svg): of a network loss and P@1 over time, of a preset how honest "
        "its chances are and which labels it finds; needs TEST",
    )
    group = parser.add_argument_group(
        "a network alone, instead of a preset", "Any of these trains one network by active sets."
    )
    defaults = Options()
    for name, (field, kind) in NETWORK.items():
        default = getattr(defaults, field)
        shown = "" if default is None else f" (default: {default})"
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, default=None, help=HELP[name] + shown, **kind)
    group.add_argument(
        "--memory",
        type=memory.size_of,
        metavar="BYTES",
        help="that training may take, such as 8GB: chooses --dtype and --optimizer, and with "
        "--strategy lsh --tables and --bits; those given stay",
    )
    joining.add_options(
        parser,
        "A preset's parts can be trained by several processes, which all read the files; the model "
        "is the same. Under `sparse-jax launch`, srun and mpirun these options are known.",
    )
    reading.add_options(parser, labels=LABELS)
    table.add_options(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def network_options(args: argparse.Namespace) -> Options:
    """What a network alone is, from the options given."""
    given = {field: getattr(args, name) for name, (field, _) in NETWORK.items()}
    given = {k: v for k, v in given.items() if v is not None}
    # Options of the tables ask for them; else uniform ones serve (docs/negatives.md).
    tables = _given(args, NEEDS_TABLES) or args.correction == "lsh"
    return Options(**{**({"strategy": "lsh"} if tables else {}), **given}, seed=args.seed)


def given_fields(args: argparse.Namespace) -> list[str]:
    """The fields of `Options` that were given."""
    return [field for name, (field, _) in NETWORK.items() if getattr(args, name) is not None]


def _given(args: argparse.Namespace, names: Sequence[str] = (*NETWORK, "memory")) -> list[str]:
    return [f"--{n.replace('_', '-')}" for n in names if getattr(args, n) is not None]


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if len(args.files) > 2 or (len(args.files) == 2 and args.test):
        parser.error(
            f"got {len(args.files)} files{' and --test' * bool(args.test)}: give TRAIN "
            "and TEST, or TRAIN alone"
        )
    if args.test and not args.files:
        parser.error("--test needs TRAIN")
    if args.test:
        args.files.append(args.test)
    for name in (*AT_LEAST_1, "save_every"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if args.lr is not None and not args.lr > 0:
        parser.error(f"--lr {args.lr}: must be above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    if args.max_seconds is not None and not args.max_seconds > 0:
        parser.error(f"--max-seconds {args.max_seconds}: must be above 0")
    if args.plot and len(args.files) == 1:
        parser.error("--plot has no effect without TEST")
    for name in ("model", "checkpoint", "json", "plot"):
        if getattr(args, name) == "":
            parser.error(f"--{name} '': must not be empty")
    for name in ("json", "plot"):
        value = getattr(args, name)
        if value is not None and (not Path(value).parent.is_dir() or Path(value).is_dir()):
            parser.error(f"--{name} {value}: must be a file in a folder that exists")
    if args.plot and Path(args.plot).suffix.lower() not in PICTURES:
        parser.error(f"--plot {args.plot}: must end in {', '.join(PICTURES)}")
    if args.resume and not args.checkpoint:
        parser.error("--resume needs --checkpoint DIR")
    if args.save_every and not args.checkpoint:
        parser.error("--save-every has no effect without --checkpoint DIR")
    if args.files.count(reading.STDIN) > 1:
        parser.error("-: standard input can be read once; give a file for TEST")
    if args.target is not None:
        _check_table(parser, args)
        return
    for name in ("task", "schema"):
        if getattr(args, name) is not None:
            parser.error(f"--{name}: no effect without --target COLUMN")
    _check_network(parser, args)


def _check_table(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Options that have no effect on a model of a table."""
    useless = _given(
        args, (*NETWORK, "memory", "text", "labels", "base", "label_base", "vocabulary")
    )
    useless += _given(args, ("checkpoint", "plot", "save_every"))
    if args.weighting != "auto":
        useless.append("--weighting")
    if useless:
        parser.error(f"{', '.join(useless)}: no effect with --target, which takes all columns")
    if not args.files:
        parser.error("--target needs TRAIN, a table")
    args.preset = args.preset or "fast"


def _check_network(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Options of a network must be of the one that is trained."""
    given = _given(args)
    if args.preset and given:
        parser.error(
            f"{', '.join(given)}: no effect with --preset {args.preset}, which chooses for itself; "
            "leave the preset out to train a network alone"
        )
    if not given:
        args.preset = args.preset or "fast"
        if args.save_every and not PRESETS[args.preset].visits:
            parser.error(f"--save-every has no effect with --preset {args.preset}: no network")
        return
    options = network_options(args)
    if args.memory is not None and memory.nothing_left(options, given_fields(args)):
        parser.error("--memory: no effect, as all that it chooses is given; leave some of it out")
    tables = _given(args, NEEDS_TABLES)
    if tables and not STRATEGIES[options.strategy].uses_index:
        kept = [t for t in tables if (t, options.strategy) != ("--candidates", "oracle")]
        if kept:
            parser.error(
                f"{', '.join(kept)}: no effect with --strategy {options.strategy}, which has no "
                "hash tables; leave them out or take --strategy lsh"
            )
    if args.repetitions is not None and args.buckets is None:
        parser.error(f"--repetitions {args.repetitions}: no effect without --buckets B")
    if args.buckets is not None:
        _check_buckets(parser, args, options)
    if STRATEGIES[options.strategy].whole_layer:
        without = _given(args, ("active", "correction", "mode"))
        if without:
            parser.error(
                f"{', '.join(without)}: no effect with --strategy {options.strategy}, "
                "which computes all labels"
            )


def _check_buckets(parser: argparse.ArgumentParser, args: argparse.Namespace, options: Any) -> None:
    """Labels that share rows go with a uniform sample that a batch shares."""
    try:
        buckets_of(options, 1)
    except ValueError as error:
        parser.error(f"--{error}")
    useless = [
        f"--{name} {getattr(args, name)}"
        for name, only in (
            ("strategy", "uniform"),
            ("mode", "shared"),
            ("loss", "softmax"),
            ("correction", "none"),
        )
        if getattr(args, name) not in (None, only)
    ]
    useless += _given(args, NEEDS_TABLES)
    if useless:
        parser.error(
            f"{', '.join(useless)}: can't go with --buckets, which takes a softmax over a "
            "uniform sample that a batch shares; leave out the one or the other"
        )
