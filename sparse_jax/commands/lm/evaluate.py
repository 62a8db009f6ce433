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
from sparse_jax.commands import checks
from sparse_jax.commands.lm.models import load
from sparse_jax.commands.lm.report import unknown
from sparse_jax.commands.report import tell
from sparse_jax.lm import corpus as lm_data
from sparse_jax.lm import evaluate, generate, sparse_head
from sparse_jax.lm.spelling import spelling_bits
from sparse_jax.lm.text import encode_corpus, read_texts
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.machine import peak_rss_bytes

TABLES = {  # options of --sparse
    "tables": ("L", "hash tables"),
    "bits": ("K", "of a bucket id"),
    "candidates": ("M", "words scored from tables"),
    "popular": ("P", "words scored always"),
}
DEFAULTS = {"tables": 16, "bits": 8, "candidates": 256, "popular": 1024}


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
        help="text to score; default: the test text of the training, if it is still what it was",
    )
    add("--sparse", action="store_true", help="score through the hash tables, too")
    for name, (letter, about) in TABLES.items():
        add(checks.flag(name), type=int, metavar=letter, help=f"{about} ({DEFAULTS[name]})")
    add("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    checks.at_least(parser, args, 1, TABLES)
    if not args.sparse:
        checks.no_effect(parser, args, TABLES, "without --sparse")
    checks.fill(args, DEFAULTS)
    return args


def read_test(args: argparse.Namespace, model: lm.LanguageModel) -> list[str]:
    """The documents to score; notes on them go to standard error.

    Raises:
      ValueError: if none are named, and those of the training aren't known any more.
    """
    if not args.test:
        return lm_data.load_test(model.record)
    given = read_texts(args.test)
    if not given.documents:
        raise ValueError(f"{', '.join(args.test)}: no text to score; give one that isn't empty")
    for note in given.notes + lm_data.trained_on(model.record.learned(), given.sources):
        print(f"note: {note}", file=sys.stderr)
    return given.documents


def score(args: argparse.Namespace, model: lm.LanguageModel) -> dict[str, Any]:
    """The figures."""
    documents = read_test(args, model)
    test = encode_corpus(model.vocabulary, documents)
    extra_bits = 0.0
    if model.spelling is not None:
        extra_bits = spelling_bits(model.vocabulary, documents, model.spelling)
    params, memory = model.params, model.memory
    started = time.perf_counter()
    exact = evaluate.score(
        params,
        memory,
        test,
        extra_bits=extra_bits,
        lsh=model.lsh,
        config=model.config,
    )
    results: dict[str, Any] = {
        "test_perplexity": exact.perplexity,
        "test_bits_per_byte": exact.bits_per_byte,
        "test_unknown_share": test.unknown_share,
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
            head, params, memory, test, lsh=model.lsh, config=model.config
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
        results = score(args, load(args.directory))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in results.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        if name.endswith("perplexity"):
            shown += unknown(results["test_unknown_share"])
        print(f"  {name:<24} {shown}")
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
