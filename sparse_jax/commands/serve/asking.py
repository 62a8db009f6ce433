"""Questions in JSON to answers out of an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparse_jax import search
from sparse_jax.commands.search.ask import record
from sparse_jax.commands.serve.reading import (
    Refusal,
    check_fields,
    check_strings,
    several,
    whole_number,
)
from sparse_jax.search.answers import answer_from
from sparse_jax.search.documents import check_query

if TYPE_CHECKING:
    from sparse_jax.commands.serve.writer import Writer

MAX_QUESTIONS = 64
"""Questions of one request: writing an answer takes some tenths of a second."""
MAX_PASSAGES = 20
"""Passages that are read for each."""
MAX_WORDS = 1000
"""Of an answer."""


class Questions(NamedTuple):
    """A request for answers."""

    questions: list[str]
    top_k: int
    max_words: int

    @property
    def size(self) -> int:
        """Questions in it."""
        return len(self.questions)


class Ask:
    """`POST /ask` of a `search.Index`.

    Args:
      index: that is asked.
      writer: a model that writes answers, too; None for those extracted alone.
    """

    door = "/ask"

    def __init__(self, index: search.Index, writer: Writer | None) -> None:
        self.index, self.writer = index, writer

    def read(self, body: dict[str, Any]) -> Questions:
        check_fields(body, ("questions", "top_k", "max_words"))
        if "questions" not in body:
            raise Refusal("questions", None, "be a list of strings", "send what is asked")
        questions = read_queries("questions", several(body, "questions", MAX_QUESTIONS))
        top_k = whole_number(body, "top_k", 5, 1, MAX_PASSAGES)
        return Questions(questions, top_k, whole_number(body, "max_words", 60, 1, MAX_WORDS))

    def answer(self, requests: Sequence[Questions]) -> list[dict[str, Any]]:
        questions = [question for request in requests for question in request.questions]
        found = iter(self.index.search_batch(questions, k=max(r.top_k for r in requests)))
        return [
            {
                "answers": [
                    self._answer(question, next(found)[: request.top_k], request.max_words)
                    for question in request.questions
                ]
            }
            for request in requests
        ]

    def _answer(
        self, question: str, passages: Sequence[search.Result], max_words: int
    ) -> dict[str, Any]:
        found = answer_from(self.index, question, passages, max_words=max_words)
        written = None if self.writer is None else self.writer.write(found, max_words=max_words)
        return {**record(found, written), "passages": result(passages)}


def read_queries(name: str, values: list[Any]) -> list[str]:
    """Refuses entries that can't be searched for."""
    queries = check_strings(name, values)
    for i, query in enumerate(queries):
        try:
            check_query(query)
        except ValueError:
            must = f"have a letter or digit, and at most {search.MAX_QUERY:,} characters"
            raise Refusal(f"{name}[{i}]", query, must, "send some words") from None
    return queries


def result(hits: Sequence[search.Result]) -> dict[str, Any]:
    """Documents found, as they are answered."""
    words = [hit.words for hit in hits]
    return {
        "ids": [hit.id for hit in hits],
        "titles": [hit.document.title for hit in hits],
        # Metadata and texts may be large: a client that has the ids has the documents.
        "scores": [hit.score for hit in hits],
        # As `search query` says it: words of the query that each holds; where none holds one, parts
        # of words, or what was learned, speak for all of them.
        "matched": words,
        "is_matched": any(words),
    }
