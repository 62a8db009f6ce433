"""The options of `lm train`, and which of them have an effect together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparse_jax.commands import checks, spending
from sparse_jax.lm import model

# They are None until given, so that one without effect can be told from one that was left alone.
DEFAULTS = {
    "dtype": "float32",
    "min_count": 5,
    "bpe_size": 32_768,
    "memory_lr": 0.15,
    "save_every": 5000,
}


def parse_args(argv: Sequence[str] | None = None, about: str | None = None) -> argparse.Namespace:
    """The command line; errors end the process, as argparse does."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="text files (.gz too) or folders of them")
    add("--test", action="append", default=[], metavar="FILE", help="test text; else held out")
    add("--vocabulary", choices=("word", "bpe"), default="word", help="(word)")
    add("--min-count", type=int, help="words seen less often are unknown (5)")
    add("--bpe-size", type=int, help="ids of the byte-level BPE (32768)")
    add(
        "--rows",
        type=int,
        default=1 << 24,
        metavar="R",
        help="rows of the memory, 64 parameters each; 0 trains the trunk alone (16777216)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="how the memory's rows are stored; bfloat16 takes half the bytes (float32)",
    )
    add(
        "--pairs",
        type=int,
        default=0,
        metavar="M",
        help="slots of a key-value memory in the trunk, looked up by hashing (0 = none)",
    )
    add("--hidden", type=int, default=192, help="width of the trunk (192)")
    add(
        "--no-evidence",
        action="store_true",
        help="leave out the counted followers and recent words: embeddings and trunk only",
    )
    add("--active", type=int, default=1536, metavar="A", help="sampled softmax (1536)")
    add(
        "--batch-size",
        type=int,
        help="tokens a step, in runs of 32; default: 1024, less for small texts",
    )
    add(
        "--epochs",
        type=int,
        default=2,
        help="passes over the text; the memory starts empty in each (2)",
    )
    add("--lr", type=float, default=2e-3, help="peak rate of Adam, for all but the memory (2e-3)")
    add("--memory-lr", type=float, help="of the memory's Adagrad, which doesn't decay (0.15)")
    add("--seed", type=int, default=0, help="(0)")
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help="stop training after this long; the learning rate then ends on time",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop when validation has not improved for N looks of a pass, one each tenth of it",
    )
    add("--checkpoint", metavar="DIR", help="save here, every --save-every steps and at the end")
    add("--save-every", type=int, metavar="STEPS", help="(5000)")
    add("--resume", action="store_true", help="go on from the last save in --checkpoint")
    add("--json", metavar="FILE", help="write the results here")
    spending.add_price(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    checks.fill(args, DEFAULTS)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.resume and not args.checkpoint:
        parser.error("--resume needs --checkpoint DIR")
    checks.at_least(
        parser, args, 1, ("min_count", "hidden", "active", "epochs", "save_every", "patience")
    )
    checks.at_least(parser, args, 256 + 4, ("bpe_size",))
    if args.batch_size is not None and (args.batch_size < 32 or args.batch_size % 32):
        parser.error(f"--batch-size {args.batch_size}: must be a multiple of 32")
    checks.at_least(parser, args, 0, ("rows", "pairs"))
    checks.rows(parser, args.rows)
    checks.positive(parser, args, ("lr", "memory_lr", "max_seconds"))
    checks.seeds(parser, args)
    if args.vocabulary == "word":
        checks.no_effect(parser, args, ("bpe_size",), "with --vocabulary word")
    else:
        checks.no_effect(parser, args, ("min_count",), "with --vocabulary bpe")
    if not args.rows:
        checks.no_effect(parser, args, ("memory_lr", "dtype"), "with --rows 0, which has no memory")
    if not args.checkpoint:
        checks.no_effect(parser, args, ("save_every",), "without --checkpoint DIR")


def make_config(args: argparse.Namespace, vocabulary_size: int) -> model.Config:
    """The static sizes."""
    return model.Config(
        vocabulary=vocabulary_size,
        rows=args.rows,
        dtype=args.dtype,
        hidden=args.hidden,
        inner=2 * args.hidden,
        evidence=not args.no_evidence,
        pairs=args.pairs,
    )
