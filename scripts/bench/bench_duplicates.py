#!/usr/bin/env python3
"""Near-duplicates of texts: seconds, recall and precision beside datasketch's MinHashLSH.

python scripts/bench/bench_duplicates.py TEXTS.jsonl --text text --copies 3000

The texts are a file's, as `sparse-jax dedupe` reads them; behind them come copies of some, a few
words of each changed. Both sides compare sets of words and pairs of words; what they flag is judged
by the exact similarity of each text to the one that it is said to be like.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparse_jax.data import streams
from sparse_jax.data.kinds.base import Options
from sparse_jax.retrieval import duplicates

THRESHOLD = 0.8
LEAST_WORDS = 20  # of a text that is copied
PERMUTATIONS = 128
_WORD = re.compile(r"\w+")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("file", metavar="FILE", help="texts of any kind that sparse-jax dedupe reads")
    add("--text", help="of a table, the column of texts")
    add("--texts", type=int, default=20_000, help="to take of the file (%(default)s)")
    add("--copies", type=int, default=3_000, help="to put behind them (%(default)s)")
    add("--rounds", type=int, default=3, help="of which the fastest counts (%(default)s)")
    return parser.parse_args(argv)


def set_of(text: str) -> set[str]:
    """Words and pairs of neighbouring words."""
    words = _WORD.findall(text.lower())
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def jaccard(a: str, b: str) -> float:
    """Similarity of two texts."""
    one, other = set_of(a), set_of(b)
    return len(one & other) / max(len(one | other), 1)


def with_copies(texts: list[str], count: int) -> tuple[list[str], list[int]]:
    """(texts and copies of some of them behind, which text each copy is of)."""
    rng = np.random.default_rng(0)
    copies, sources = [], []
    for source in rng.permutation(len(texts))[:count].tolist():
        words = texts[source].split()
        if len(words) < LEAST_WORDS:
            continue
        for _ in range(max(1, len(words) // 40)):
            words[rng.integers(len(words))] = f"w{rng.integers(10**6)}"
        copies.append(" ".join(words))
        sources.append(source)
    return texts + copies, sources


def ours(texts: list[str]) -> list[int]:
    """What each text is like, or its own number."""
    return duplicates.find(texts, threshold=THRESHOLD).numbers.tolist()


def of_datasketch(texts: list[str]) -> list[int]:
    """The same: of the texts that MinHashLSH names, the one of the most similar signature."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    kept: dict[int, Any] = {}
    found: list[int] = []
    for number, text in enumerate(texts):
        signature = MinHash(PERMUTATIONS)
        signature.update_batch([part.encode() for part in set_of(text)])
        near = lsh.query(signature)
        if near:
            found.append(max(near, key=lambda other: signature.jaccard(kept[other])))
        else:
            lsh.insert(number, signature)
            kept[number] = signature
            found.append(number)
    return found


def measure(
    find: Callable[[list[str]], list[int]], texts: list[str], sources: list[int], rounds: int
) -> dict[str, Any]:
    """Seconds, and what is right: recall of the copies whose source is kept."""
    seconds, processor = np.inf, np.inf
    for _ in range(rounds):
        clock, cpu = time.perf_counter(), time.process_time()
        found = find(texts)
        seconds = min(seconds, time.perf_counter() - clock)
        processor = min(processor, time.process_time() - cpu)
    first = len(texts) - len(sources)
    near = [
        found[first + i] != first + i
        for i, source in enumerate(sources)
        if found[source] == source and jaccard(texts[first + i], texts[source]) >= THRESHOLD
    ]
    flagged = [(i, other) for i, other in enumerate(found) if other != i]
    alike = np.array([jaccard(texts[i], texts[other]) for i, other in flagged])
    return {
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "copies": len(near),
        "recall": round(float(np.mean(near)), 4) if near else None,
        "flagged": len(flagged),
        "below_threshold": int(np.sum(alike < THRESHOLD)),
        "least_similarity": round(float(alike.min(initial=1.0)), 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all, prints JSON."""
    args = parse_args(argv)
    options = Options(text=None if args.text is None else (args.text,))
    parts = streams.read(args.file, streams.kind_of(args.file, options), options)
    given = itertools.chain.from_iterable(part.texts for part in parts)
    texts, sources = with_copies(list(itertools.islice(given, args.texts)), args.copies)
    results: dict[str, Any] = {"texts": len(texts), "threshold": THRESHOLD}
    results["sparse_jax"] = measure(ours, texts, sources, args.rounds)
    try:
        results["datasketch"] = measure(of_datasketch, texts, sources, args.rounds)
    except ModuleNotFoundError as error:
        results["absent"] = f"{error}; pip install 'sparse_jax[peers]'"
    else:
        one, other = results["datasketch"], results["sparse_jax"]
        for name in ("seconds", "processor_seconds"):
            results[f"times_{name}"] = round(one[name] / other[name], 1)
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
