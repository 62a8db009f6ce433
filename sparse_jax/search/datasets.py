"""Data sets of queries with known answers, as `evaluate` takes them.

A JSON line file of one of two kinds:

* rows ``{"id", "title", "text"}``: the title is a query whose one answer is the row's document.
  Titles are **not** indexed and not trained on; the index sees the texts alone.
* rows with a ``kind``: ``"doc"`` rows are indexed, by ``text`` and ``title``, and nothing else of
  them; rows whose kind ends in ``query`` are queries, with ``rel`` (a list of ids) or graded
  ``qrels`` (``{id: grade}``). A ``question`` of a doc row is a query as well, answered by that doc,
  in a group of its own.

An id may be called ``_id``, as in BEIR's files, and be a whole number: it is then its digits.

Or a collection of BEIR, TREC or MS MARCO (see `documents.read`), with its queries and judgements.

What doesn't fit together is counted, not fatal: judgements below 0 are no answers, as those of 0;
a judged document that isn't there can't be found, and counts as an answer that wasn't, as in
trec_eval; a query without a word, or without an answer among the documents, is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sparse_jax.data import read_jsonl
from sparse_jax.search.documents import Document, beir, msmarco, reading, trec
from sparse_jax.search.documents.tables import as_id, row_id
from sparse_jax.text.features import normalize

__all__ = ["Counts", "Dataset", "Judgement", "read_dataset"]


class Judgement(NamedTuple):
    """A query and its answers: grades by id, all above 0."""

    text: str
    grades: Mapping[str, float]
    group: str
    id: str = ""  # of the query
    absent: Mapping[str, float] = MappingProxyType({})  # of documents that aren't there


@dataclasses.dataclass
class Counts:
    """What of a data set doesn't fit together."""

    missing_answers: int = 0  # judgements above 0 of documents that aren't there
    negative_grades: int = 0
    unanswered_queries: int = 0  # left out: nothing is judged an answer
    skipped_queries: int = 0  # left out: no answer is there, the ones before among them
    empty_queries: int = 0  # left out: not a word
    unknown_queries: int = 0  # judged, but without a text
    empty_documents: int = 0  # not a word

    def lines(self) -> list[str]:
        """What a person should hear of it."""
        told = {
            "missing_answers": "judgements of documents that aren't there: answers not found",
            "negative_grades": "judgements below 0: no answers",
            "unanswered_queries": "queries without an answer, left out",
            "skipped_queries": "queries without an answer that is there, left out",
            "empty_queries": "queries without a word, left out",
            "unknown_queries": "judged queries that aren't there, left out",
            "empty_documents": "documents without a word, never found by words",
        }
        counts = dataclasses.asdict(self)
        counts["skipped_queries"] -= counts["unanswered_queries"]
        return [f"{counts[name]:,} {text}" for name, text in told.items() if counts[name]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Documents and judged queries; `rows` are the doc rows as read, with `id` a string."""

    documents: list[Document]
    queries: list[Judgement]
    rows: list[dict[str, Any]]
    counts: Counts

    def of(self, group: str) -> list[Judgement]:
        return [q for q in self.queries if q.group == group]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(q.group for q in self.queries))


def read_dataset(path: str | Path, *, kind: str | None = None, split: str | None = None) -> Dataset:
    """Reads a data set; see the module's protocol.

    Args:
      path: a file of JSON lines, or a folder of a collection.
      kind: jsonl, beir, trec or msmarco; None recognises it by content.
      split: which judgements of a collection; None for the only ones, or `test`.

    Raises:
      ValueError: at a row that doesn't fit, naming file, line and field; or if there is no query
        with an answer among the documents, or no document.
    """
    collections = {"beir": beir, "trec": trec, "msmarco": msmarco}
    kinds = ("jsonl", *collections)
    place = Path(path)
    if kind is None:
        kind = reading.kind_of(place) if place.is_dir() else "jsonl"
    if kind not in kinds:
        raise ValueError(
            f"{place}: kind = {kind!r}: must be one of {', '.join(kinds)}, which hold queries with "
            "answers; `search index` takes other kinds"
        )
    counts = Counts()
    if kind == "jsonl":
        if split is not None:
            raise ValueError(f"split = {split!r}: must be left out: {place} has none")
        return _checked(place, *_read_rows(place, counts), counts)
    module = collections[kind]
    texts, qrels = module.queries(place), module.qrels(place, split)
    counts.unknown_queries = len(qrels.keys() - texts.keys())
    judged = [
        Judgement(texts[query], _above_zero(grades, counts), "query", query)
        for query, grades in qrels.items()
        if query in texts
    ]
    return _checked(place, module.read(place).documents, judged, [], counts)


def _read_rows(
    path: Path, counts: Counts
) -> tuple[list[Document], list[Judgement], list[dict[str, Any]]]:
    """Documents, queries and doc rows of a file of JSON lines."""
    documents: list[Document] = []
    queries: list[Judgement] = []
    rows: list[dict[str, Any]] = []
    for line, row in read_jsonl(path):
        try:
            kind = row.get("kind")
            if kind is None:
                row = {**row, "id": row_id(row)}
                documents.append(Document(row["id"], _text(row, "text")))
                title, answer = _text(row, "title"), {row["id"]: 1.0}
                queries.append(Judgement(title, answer, "title", f"title:{row['id']}"))
                rows.append(row)
            elif kind == "doc":
                row = {**row, "id": row_id(row)}
                title = _text(row, "title") if "title" in row else ""
                documents.append(Document(row["id"], _text(row, "text"), title))
                rows.append(row)
                if "question" in row:
                    question, answer = _text(row, "question"), {row["id"]: 1.0}
                    queries.append(Judgement(question, answer, "question", f"question:{row['id']}"))
            elif isinstance(kind, str) and kind.endswith("query"):
                name = row_id(row) if row.keys() & {"id", "_id"} else f"line:{line}"
                queries.append(Judgement(_text(row, "text"), _grades(row, counts), kind, name))
            else:
                raise ValueError(f'kind = {kind!r}: must be "doc" or end in "query"')
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return documents, queries, rows


def _checked(
    path: Path,
    documents: list[Document],
    queries: list[Judgement],
    rows: list[dict[str, Any]],
    counts: Counts,
) -> Dataset:
    """The data set of what can be asked and answered."""
    known: set[str] = set()
    for document in documents:
        if document.id in known:
            raise ValueError(f"{path}: two documents have the id {document.id!r}")
        known.add(document.id)
        counts.empty_documents += not _has_word(f"{document.title} {document.text}")
    kept = list(_answered(queries, known, counts))
    if not documents or not kept:
        gone = "; ".join(counts.lines())
        raise ValueError(
            f"{path}: {len(documents)} documents, {len(kept)} queries with an answer among them: "
            f"needs both{f' ({gone}; grades above 0 are answers)' if gone else ''}"
        )
    return Dataset(documents, kept, rows, counts)


def _answered(queries: Iterable[Judgement], known: set[str], counts: Counts) -> Iterable[Judgement]:
    """The queries that have words, and answers among the documents."""
    for query in queries:
        grades = {id: grade for id, grade in query.grades.items() if id in known}
        absent = {id: grade for id, grade in query.grades.items() if id not in known}
        counts.missing_answers += len(absent)
        if not grades:
            counts.skipped_queries += 1
            counts.unanswered_queries += not absent
        elif not _has_word(query.text):
            counts.empty_queries += 1
        else:
            yield query._replace(grades=grades, absent=absent)


def _has_word(text: str) -> bool:
    return bool(normalize(text).split())


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None and name in row:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}: must be a string")
    return value


def _grades(row: Mapping[str, Any], counts: Counts) -> dict[str, float]:
    """Answers with a grade above 0."""
    if "qrels" in row:
        given = row["qrels"]
        if not isinstance(given, Mapping) or not all(map(_is_grade, given.values())):
            raise ValueError(f"qrels = {given!r}: must map ids to finite numbers")
        return _above_zero(given, counts)
    given = row.get("rel")
    if not isinstance(given, list):
        raise ValueError(f"rel = {given!r}: must be a list of ids")
    return dict.fromkeys((as_id("rel", one) for one in given), 1.0)


def _above_zero(grades: Mapping[str, float], counts: Counts) -> dict[str, float]:
    counts.negative_grades += sum(grade < 0 for grade in grades.values())
    return {document: float(grade) for document, grade in grades.items() if grade > 0}


def _is_grade(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
