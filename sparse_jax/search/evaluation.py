"""How good an index is: data sets of queries with known answers, nDCG@10, P@1 and recall@10.

Protocol. Two kinds of JSONL are read:

* rows ``{"id", "title", "text"}``: the title is a query whose one answer is the row's document.
  Titles are **not** indexed and not trained on; the index sees the texts alone.
* rows with a ``kind``: ``"doc"`` rows are indexed, by ``text`` and ``title``, and nothing else of
  them; rows whose kind ends in ``query`` are queries, with ``rel`` (a list of ids) or graded
  ``qrels`` (``{id: grade}``). A ``question`` of a doc row is a query as well, answered by that doc,
  in a group of its own.

An id may be called ``_id``, as in BEIR's files, and be a whole number: it is then its digits. An
answer that is no document's id is left out, and a query without another one with it; both are
counted, as is said wherever figures are.

No query is ever trained on. Where feedback is measured (`associations`, `upvotes`), it is a stated
part of the queries, and what was learned from is reported apart from what wasn't.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np

from sparse_jax.data import read_jsonl
from sparse_jax.search.documents import Document
from sparse_jax.text.features import normalize, tokenize
from sparse_jax.text.postings import best

__all__ = [
    "Dataset",
    "Judgement",
    "bm25_baseline",
    "gains_to_scores",
    "measure",
    "query_milliseconds",
    "read_dataset",
    "row_id",
]


class Judgement(NamedTuple):
    """A query and its answers: grades by id, all above 0."""

    text: str
    grades: Mapping[str, float]
    group: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Documents and judged queries; `rows` are the doc rows as read, with `id` a string."""

    documents: list[Document]
    queries: list[Judgement]
    rows: list[dict[str, Any]]
    missing_answers: int = 0  # judgements left out, of documents that aren't there
    skipped_queries: int = 0  # queries left out, which had no other answer

    def of(self, group: str) -> list[Judgement]:
        return [q for q in self.queries if q.group == group]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(q.group for q in self.queries))


def read_dataset(path: str | Path) -> Dataset:
    """Reads a JSONL file of either kind; see the module's protocol.

    Raises:
      ValueError: at a row that doesn't fit, naming file, line and field; or if there is no query
        with an answer among the documents, or no document.
    """
    documents: list[Document] = []
    queries: list[Judgement] = []
    rows: list[dict[str, Any]] = []
    for line, row in read_jsonl(path):
        try:
            kind = row.get("kind")
            if kind is None:
                row = {**row, "id": row_id(row)}
                documents.append(Document(row["id"], _text(row, "text")))
                queries.append(Judgement(_text(row, "title"), {row["id"]: 1.0}, "title"))
                rows.append(row)
            elif kind == "doc":
                row = {**row, "id": row_id(row)}
                title = _text(row, "title") if "title" in row else ""
                documents.append(Document(row["id"], _text(row, "text"), title))
                rows.append(row)
                if "question" in row:
                    question = Judgement(_text(row, "question"), {row["id"]: 1.0}, "question")
                    queries.append(question)
            elif isinstance(kind, str) and kind.endswith("query"):
                queries.append(Judgement(_text(row, "text"), _grades(row), kind))
            else:
                raise ValueError(f'kind = {kind!r}: must be "doc" or end in "query"')
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    known: set[str] = set()
    for document in documents:
        if document.id in known:
            raise ValueError(f"{path}: two documents have the id {document.id!r}")
        known.add(document.id)
    kept, missing = _answered(queries, known)
    if not documents or not kept:
        gone = f" ({missing:,} answers are no document's id)" if missing else ""
        raise ValueError(
            f"{path}: {len(documents)} documents, {len(kept)} queries with an answer among them"
            f"{gone}: needs both"
        )
    return Dataset(documents, kept, rows, missing, len(queries) - len(kept))


def _answered(queries: Sequence[Judgement], known: set[str]) -> tuple[list[Judgement], int]:
    """The queries that have answers among the documents, with these; and how many answers went."""
    kept, missing = [], 0
    for query in queries:
        grades = {id: grade for id, grade in query.grades.items() if id in known}
        missing += len(query.grades) - len(grades)
        if grades:
            kept.append(query._replace(grades=grades))
    return kept, missing


def row_id(row: Mapping[str, Any]) -> str:
    """The id of a row, from `id` or `_id`.

    Raises:
      ValueError: if it has neither, or both, or one that is no string and no whole number.

    Example:
      >>> row_id({"_id": 12, "text": "red apples"})
      '12'
    """
    if "id" in row and "_id" in row:
        raise ValueError(
            f"id = {row['id']!r} and _id = {row['_id']!r}: must be one; drop the other"
        )
    return _as_id("_id" if "_id" in row else "id", row.get("_id", row.get("id")))


def _as_id(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}: must be a string or a whole number")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}: must be a string")
    return value


def _grades(row: Mapping[str, Any]) -> dict[str, float]:
    """Answers with a grade above 0."""
    if "qrels" in row:
        given = row["qrels"]
        if not isinstance(given, Mapping) or not all(map(_is_grade, given.values())):
            raise ValueError(f"qrels = {given!r}: must map ids to finite numbers")
        grades = {k: float(g) for k, g in given.items() if g > 0}
    else:
        given = row.get("rel")
        if not isinstance(given, list):
            raise ValueError(f"rel = {given!r}: must be a list of ids")
        grades = dict.fromkeys((_as_id("rel", one) for one in given), 1.0)
    if not grades:
        raise ValueError("the query has no answer with a grade above 0")
    return grades


def _is_grade(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        ideal = sorted(query.grades.values(), reverse=True)[:k]
        best_gain = float(np.dot(ideal, discount[: len(ideal)]))
        out[0, i] = np.dot(gains, discount[: len(gains)]) / best_gain
        out[1, i] = bool(gains) and gains[0] > 0
        out[2, i] = sum(g > 0 for g in gains) / len(query.grades)
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
        found = best(engine.get_scores_from_ids(words), 10)
        return [ids[n] for n in found]

    return lambda queries: [one(query) for query in queries]
