#!/usr/bin/env python3
"""Score a text with a trained language model: exactly, and through the hash tables.

python scripts/eval_lm.py DIR --test other.txt [--sparse]
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import jax.numpy as jnp

from sparse_jax import lm
from sparse_jax.commands.report import tell
from sparse_jax.lm import corpus as lm_data
from sparse_jax.lm import evaluate, generate, sparse_head
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.machine import peak_rss_bytes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="--checkpoint of train_lm.py")
    add(
        "--test",
        action="append",
        default=[],
        metavar="FILE",
        help="text to score; default: what was held out of the training files",
    )
    add("--sparse", action="store_true", help="score through the hash tables, too")
    add("--tables", type=int, default=16, metavar="L", help="(16)")
    add("--bits", type=int, default=8, metavar="K", help="(8)")
    add("--candidates", type=int, default=256, metavar="M", help="words scored from tables (256)")
    add("--popular", type=int, default=1024, metavar="P", help="words scored always (1024)")
    add("--json", metavar="FILE", help="write the results here")
    return parser.parse_args(argv)


def score(args: argparse.Namespace, model: lm.LanguageModel) -> dict[str, Any]:
    """The figures."""
    data = lm_data.load(
        list(model.files),
        args.test,
        kind="word",
        min_count=1,
        bpe_size=0,
        vocabulary=model.vocabulary,
    )
    params, memory = model.params, model.memory
    started = time.perf_counter()
    exact = evaluate.score(
        params,
        memory,
        data.test,
        extra_bits=data.spelling_bits,
        lsh=model.lsh,
        config=model.config,
    )
    results: dict[str, Any] = {
        "test_perplexity": exact.perplexity,
        "test_bits_per_byte": exact.bits_per_byte,
        "test_tokens": exact.tokens,
        "test_seconds": time.perf_counter() - started,
    }
    if args.sparse:
        started = time.perf_counter()
        tables = IndexConfig(
            num_tables=args.tables, num_bits=args.bits, max_candidates=args.candidates
        )
        head = generate.make_head(model, tables, popular=args.popular)
        sparse, words = sparse_head.score(
            head, params, memory, data.test, lsh=model.lsh, config=model.config
        )
        results |= {
            "sparse_test_perplexity": sparse.perplexity,
            "sparse_words_scored": words,
            "sparse_cost": sparse.perplexity / exact.perplexity - 1,
            "sparse_test_seconds": time.perf_counter() - started,
        }
    if memory is not None:
        results["memory_rows_used"] = float(jnp.mean(memory.tags > 0))
    return results | {"peak_rss_bytes": peak_rss_bytes()}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        results = score(args, lm.load(args.directory))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in results.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        print(f"  {name:<24} {shown}")
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
