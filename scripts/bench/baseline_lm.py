#!/usr/bin/env python3
"""Baselines of train_lm.py, on the same tokens and the same test text.

    python scripts/baseline_lm.py kn FILE --test FILE
    python scripts/baseline_lm.py transformer FILE --test FILE --max-seconds 1800

The third baseline, the same trunk without memories, is `train_lm.py --rows 0 --no-evidence`, in
as many passes as what it stands beside.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformer
from kneser_ney import KneserNey
from tqdm import tqdm

from sparse_jax import optim
from sparse_jax.commands import checks
from sparse_jax.commands.report import tell
from sparse_jax.lm import batching, evaluate
from sparse_jax.lm import corpus as lm_data
from sparse_jax.lm.text import DOCUMENT
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.machine import peak_rss_bytes

MODELS = {"kn": "n-gram model", "transformer": "transformer"}
OPTIONS: dict[str, dict[str, tuple[Any, str]]] = {
    "kn": {"order": (5, "order")},
    "transformer": {
        "width": (192, "width"),
        "depth": (3, "blocks"),
        "heads": (4, "heads"),
        "window": (128, "tokens of context"),
        "runs": (8, "windows a step"),
        "active": (1536, "sampled softmax, 0 for the full one,"),
        "lr": (2e-3, "peak rate of Adam"),
        "epochs": (3, "epochs"),
    },
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", choices=("kn", "transformer"))
    add("files", nargs="*", metavar="FILE", help="as for train_lm.py")
    add("--test", action="append", default=[], metavar="FILE")
    add("--vocabulary", choices=("word", "bpe"), default="word", help="(word)")
    add("--min-count", type=int, help="(5)")
    add("--bpe-size", type=int, help="(32768)")
    for model, options in OPTIONS.items():
        for name, (default, about) in options.items():
            shown = f"{about} of the {MODELS[model]} ({default})"
            add(checks.flag(name), type=type(default), help=shown)
    add("--max-seconds", type=float, metavar="S", help="of the transformer, as for train_lm.py")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    for model, options in OPTIONS.items():
        if model != args.model:
            checks.no_effect(parser, args, options, f"on the model {args.model}")
        checks.fill(args, {name: default for name, (default, _) in options.items()})
    if args.model == "kn":
        checks.no_effect(parser, args, ("max_seconds",), "on the model kn")
    unused = "bpe_size" if args.vocabulary == "word" else "min_count"
    checks.no_effect(parser, args, (unused,), f"with --vocabulary {args.vocabulary}")
    checks.fill(args, {"min_count": 5, "bpe_size": 32_768})
    whole = ("min_count", "order", "width", "depth", "heads", "window", "runs", "epochs")
    checks.at_least(parser, args, 1, whole)
    checks.at_least(parser, args, 0, ("active",))
    checks.positive(parser, args, ("lr", "max_seconds"))
    checks.seeds(parser, args)
    if args.width % args.heads:
        parser.error(f"--width {args.width}: must be a multiple of --heads {args.heads}")
    return args


def run_kneser_ney(args: argparse.Namespace, data: lm_data.Data) -> dict[str, Any]:
    """Modified Kneser-Ney, given the validation stretches to train on, too."""
    started = time.perf_counter()
    fitted = KneserNey(
        np.concatenate([data.train.tokens, data.validation.tokens]),
        vocabulary=data.vocabulary.size,
        order=args.order,
        document=DOCUMENT,
    )
    seconds = time.perf_counter() - started
    nats = -float(fitted.log_probs(data.test.tokens).sum())
    return {
        **scores(
            evaluate.Score(nats, data.test.tokens.size, data.test.num_bytes, data.spelling_bits)
        ),
        "parameters": sum(fitted.num_grams),
        "train_seconds": seconds,
    }


def run_transformer(args: argparse.Namespace, data: lm_data.Data) -> dict[str, Any]:
    """The dense transformer, its learning rate a line to 0 at the end of the steps or the time."""
    shape = transformer.Shape(data.vocabulary.size, args.width, args.depth, args.heads, args.window)
    counts = np.bincount(data.train.tokens, minlength=data.vocabulary.size)
    share = jnp.asarray((counts + 0.5) / (counts + 0.5).sum(), jnp.float32)
    key, own = jax.random.split(jax.random.key(args.seed))
    params = transformer.init(own, shape, share)
    tx = optim.rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.98)))
    opt_state = tx.init(params)
    active = min(args.active, data.vocabulary.size)
    step = jax.jit(
        transformer.make_step(tx, shape, lr=args.lr, active_size=active, counts=counts),
        donate_argnums=(0, 1, 2),
    )
    per_epoch = batching.num_batches(data.train, args.runs, args.window)
    total, done, spent = per_epoch * args.epochs, 0, 0.0
    stamp = 0.0
    with tqdm(total=total, unit="step", disable=None, dynamic_ncols=True) as bar:
        while done < total:
            made = batching.batches(
                data.train, args.runs, args.window, 1, seed=args.seed, epoch=done // per_epoch
            )
            for batch in made:
                part = done / total
                if args.max_seconds is not None:
                    part = max(part, min(1.0, spent / args.max_seconds))
                rate = jnp.float32(min(1.0, (done + 1) / 100) * (1.0 - part))
                params, opt_state, key, loss = step(params, opt_state, key, batch.tokens, rate)
                done += 1
                if done == 1:  # compiling isn't training
                    jax.block_until_ready(loss)
                    stamp = time.perf_counter()
                if done % 20 == 0:
                    value = float(loss)
                    spent += time.perf_counter() - stamp
                    stamp = time.perf_counter()
                    if not math.isfinite(value):
                        raise ValueError(f"the loss of step {done} is {value}: lower --lr")
                    bar.set_postfix_str(f"perplexity {evaluate.perplexity(value):.2f}")
                    bar.update(20)
                if args.max_seconds is not None and spent >= args.max_seconds:
                    total = done
                    break
    jax.block_until_ready(params)
    found = transformer.score(params, data.test, shape, extra_bits=data.spelling_bits)
    return {
        **scores(found),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "tokens_per_second": (done - 1) * args.runs * args.window / max(spent, 1e-9),
        "train_seconds": spent,
        "steps": done,
        "epochs": done / per_epoch,
    }


def scores(found: evaluate.Score) -> dict[str, Any]:
    """Exact figures of a test text."""
    return {
        "test_perplexity": found.perplexity,
        "test_bits_per_byte": found.bits_per_byte,
        "test_tokens": found.tokens,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        data = lm_data.load(
            args.files,
            args.test,
            kind=args.vocabulary,
            min_count=args.min_count,
            bpe_size=args.bpe_size,
        )
        for note in data.notes:
            print(f"note: {note}", file=sys.stderr)
        run = run_kneser_ney if args.model == "kn" else run_transformer
        results = {"model": args.model, **run(args, data)}
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results |= {
        "test_unknown_share": data.test.unknown_share,
        "vocabulary": data.vocabulary.size,
        "train_tokens": data.train.tokens.size,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
