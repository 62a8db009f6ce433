"""How good an index is: nDCG@10, P@1 and recall@10 of queries with known answers.

The figures are those of trec_eval (``ndcg_cut.10``, ``P.1``, ``recall.10``) on the run that
`write_run` writes:

* the gain of a document is its grade (linear gain), and a place counts 1 / log2(place + 1);
* equal scores are ranked by id, the largest first, as strings; that of the file plays no part;
* judged documents that aren't there count among the answers that there are to find;
* queries that can't be answered, or hold no word, are in neither the run nor the means: see
  `sparse_jax.search.datasets`, which counts them.

No query is ever trained on. Where feedback is measured (`associations`, `upvotes`), it is a stated
part of the queries, and what was learned from is reported apart from what wasn't.

Reference: https://github.com/usnistgov/trec_eval, form_res_rels.c (ties) and m_ndcg_cut.c.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from sparse_jax.runtime.files import write_atomically
from sparse_jax.search.datasets import Dataset, Judgement, read_dataset
from sparse_jax.search.documents import Document
from sparse_jax.search.documents.tables import row_id as row_id
from sparse_jax.text.features import normalize, tokenize
from sparse_jax.text.postings import best

__all__ = [
    "DEPTH",
    "Dataset",
    "Judgement",
    "bm25_baseline",
    "check_queries",
    "gains_to_scores",
    "measure",
    "query_milliseconds",
    "rank",
    "read_dataset",
    "write_run",
]

DEPTH = 100
"""Documents ranked for a query: all of them are in a run, and ties are broken among them."""


def rank(ids: Sequence[str], scores: Sequence[float]) -> list[int]:
    """Places of documents in trec_eval's order: by score, and equal ones by id, largest first.

    Args:
      ids: [n].
      scores: [n].

    Returns:
      [n] places, best first.

    Example:
      >>> rank(["a", "b", "c"], [0.5, 0.5, 1.0])
      [2, 1, 0]
    """
    order = sorted(range(len(ids)), key=lambda n: ids[n], reverse=True)
    return sorted(order, key=lambda n: -scores[n])


def write_run(
    path: str | Path,
    queries: Sequence[Judgement],
    rankings: Sequence[Sequence[tuple[str, float]]],
    *,
    name: str = "sparse_jax",
) -> None:
    """Writes a run as TREC has them: query, Q0, document, rank, score, name.

    Args:
      path: of the file, which is replaced.
      queries: [n].
      rankings: [n] lists of (id, score), best first.
      name: of the run. White space in ids, which parts columns, becomes %20 and the like.

    Raises:
      ValueError: if two queries have one id.
    """
    check_queries(queries)
    lines = []
    for query, ranking in zip(queries, rankings, strict=True):
        for place, (document, score) in enumerate(ranking, 1):
            about = _word(query.id), "Q0", _word(document), str(place), f"{score:.9g}", name
            lines.append(" ".join(about) + "\n")
    write_atomically(path, "".join(lines).encode())


def check_queries(queries: Sequence[Judgement]) -> None:
    """Refuses queries that a run couldn't tell apart.

    Raises:
      ValueError: if two have one id.
    """
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise ValueError(
                f"two queries have the id {query.id!r}: a run needs one for each; give ids of "
                "their own"
            )
        seen.add(query.id)


def _word(identifier: str) -> str:
    return re.sub(r"\s", lambda found: f"%{ord(found[0]):02X}", identifier)


def gains_to_scores(
    found: Sequence[Sequence[str]], queries: Sequence[Judgement], *, k: int = 10
) -> dict[str, np.ndarray]:
    """nDCG@k (linear gain), P@1 and recall@k of each query.

    Args:
      found: ids for each query, best first.
      queries: with their grades.
      k: how many places count.

    Returns:
      ``{"ndcg@k", "p@1", "recall@k"}``, float64 [queries] each.

    Raises:
      ValueError: if a ranking holds a document twice: it would count twice.

    Example:
      >>> scores = gains_to_scores([["x", "a"]], [Judgement("q", {"a": 1.0}, "query")])
      >>> {name: round(float(v[0]), 3) for name, v in scores.items()}
      {'ndcg@10': 0.631, 'p@1': 0.0, 'recall@10': 1.0}
    """
    out = np.zeros((3, len(queries)))
    discount = 1 / np.log2(np.arange(k) + 2)
    for i, (ids, query) in enumerate(zip(found, queries, strict=True)):
        if len(set(ids)) < len(ids):
            twice = next(id for place, id in enumerate(ids) if id in ids[:place])
            raise ValueError(
                f"found[{i}] holds {twice!r} twice: must rank each document once; drop repeats"
            )
        gains = [query.grades.get(id, 0.0) for id in ids[:k]]
        answers = [*query.grades.values(), *query.absent.values()]
        ideal = sorted(answers, reverse=True)[:k]
        best_gain = float(np.dot(ideal, discount[: len(ideal)]))
        out[0, i] = np.dot(gains, discount[: len(gains)]) / best_gain
        out[1, i] = bool(gains) and gains[0] > 0
        out[2, i] = sum(g > 0 for g in gains) / len(answers)
    return dict(zip((f"ndcg@{k}", "p@1", f"recall@{k}"), out, strict=True))


def measure(
    search: Callable[[list[str]], Sequence[Sequence[str]]],
    queries: Sequence[Judgement],
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda x: x,
) -> dict[str, float]:
    """Mean scores of a search function.

    A query without a letter or digit counts as one that found nothing.

    Args:
      search: queries -> ids for each, best first.
      queries: with their answers.
      progress: wraps the sequence of steps, as tqdm does.

    Returns:
      The means of what `gains_to_scores` returns.
    """
    asked = [n for n, query in enumerate(queries) if normalize(query.text).split()]
    found: list[Sequence[str]] = [[]] * len(queries)
    for first in progress(range(0, len(asked), 256)):
        part = asked[first : first + 256]
        for n, ids in zip(part, search([queries[n].text for n in part]), strict=True):
            found[n] = ids
    return {name: float(v.mean()) for name, v in gains_to_scores(found, queries).items()}


def query_milliseconds(search: Callable[[str], Any], queries: Sequence[Judgement]) -> list[float]:
    """How long each of up to 500 queries takes, one at a time, spread over the list."""
    seconds = []
    for query in queries[:: -(-len(queries) // 500)]:
        if normalize(query.text).split():
            started = time.perf_counter()
            search(query.text)
            seconds.append(1e3 * (time.perf_counter() - started))
    return seconds


def bm25_baseline(
    documents: Sequence[Document], *, k1: float = 1.2, b: float = 0.75
) -> Callable[[list[str]], list[list[str]]]:
    """Plain BM25 over title and text by `bm25s`, and nothing else: queries -> 10 ids each."""
    tokens = tokenize([f"{d.title} {d.text}" for d in documents])
    numbers = {word: i for i, word in enumerate(tokens.words)}
    engine = bm25s.BM25(k1=k1, b=b, method="lucene")
    rows = np.split(tokens.types, tokens.offsets[1:-1])
    engine.index((rows, numbers), create_empty_token=False, show_progress=False)
    ids = [d.id for d in documents]

    def one(query: str) -> list[str]:
        words = [numbers[w] for w in dict.fromkeys(tokenize([query]).words) if w in numbers]
        if not words:
            return []
        scores = engine.get_scores_from_ids(words)
        found = best(scores, DEPTH)
        listed = [ids[n] for n in found]
        return [listed[place] for place in rank(listed, scores[found].tolist())[:10]]

    return lambda queries: [one(query) for query in queries]
