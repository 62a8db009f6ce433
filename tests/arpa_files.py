"""Small ARPA files for tests, made and scored with dictionaries alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

Gram = tuple[str, ...]


def discounted(sentences: Iterable[str], order: int, discount: float = 0.5) -> list[dict]:
    """({n-gram: (p, backoff)} of each length): absolute discounting, <unk> with what is left."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = ["<s>", *sentence.split(), "</s>"]
        for n in range(1, order + 1):
            counts[n - 1].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    del counts[0][("<s>",)]
    total = sum(counts[0].values())
    p = [{g: (c - discount) / total for g, c in counts[0].items()}]
    p[0][("<unk>",)] = discount * len(counts[0]) / total
    backoff: list[dict[Gram, float]] = []
    for n in range(1, order):
        totals: Counter[Gram] = Counter()
        kinds: Counter[Gram] = Counter()
        for gram, count in counts[n].items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        backoff.append({c: discount * kinds[c] / totals[c] for c in totals})
        p.append(
            {
                g: (c - discount) / totals[g[:-1]] + backoff[-1][g[:-1]] * p[n - 1][g[1:]]
                for g, c in counts[n].items()
            }
        )
    p[0][("<s>",)] = 1e-99
    backoff.append({})
    return [{g: (x, backoff[n].get(g, 1.0)) for g, x in p[n].items()} for n in range(order)]


def text_of(grams: list[dict]) -> str:
    """Its ARPA file."""
    lines = ["\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(grams, 1))]
    for n, table in enumerate(grams, 1):
        lines += ["", f"\\{n}-grams:"]
        for gram, (p, backoff) in table.items():
            tail = f"\t{math.log10(backoff):.9f}" if n < len(grams) else ""
            lines.append(f"{math.log10(p):.9f}\t{' '.join(gram)}{tail}")
    return "\n".join([*lines, "", "\\end\\", ""])


def write(path: Path, sentences: Iterable[str], order: int) -> list[dict]:
    """Writes the ARPA file of some sentences; what it holds."""
    grams = discounted(sentences, order)
    path.write_text(text_of(grams), encoding="utf-8")
    return grams


def log10_p(grams: list[dict], word: str, history: list[str]) -> float:
    """log10 p(word | history), by the recursion that defines a back-off model."""
    if (word,) not in grams[0]:
        word = "<unk>"
    context = tuple(w if (w,) in grams[0] else "<unk>" for w in history)[-(len(grams) - 1) :]
    if len(grams) == 1:
        context = ()
    total = 0.0
    while True:
        table = grams[len(context)]
        if (*context, word) in table:
            return total + math.log10(table[(*context, word)][0])
        total += math.log10(grams[len(context) - 1].get(context, (0, 1.0))[1])
        context = context[1:]


def score(grams: list[dict], sentence: str) -> float:
    """log10 p of a sentence and its end."""
    words = [*sentence.split(), "</s>"]
    return sum(log10_p(grams, w, ["<s>", *words[:i]]) for i, w in enumerate(words))
