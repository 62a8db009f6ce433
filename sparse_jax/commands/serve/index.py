"""A search index as it is served: queries in JSON to documents, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.routing import BaseRoute

from sparse_jax import search
from sparse_jax.commands.serve import page
from sparse_jax.commands.serve.reading import (
    MAX_POINTS,
    MAX_TOP_K,
    Refusal,
    check_fields,
    check_strings,
    several,
    whole_number,
)
from sparse_jax.commands.serve.uploads import Uploads
from sparse_jax.search.documents import check_query


class Queries(NamedTuple):
    """A request to an index."""

    queries: list[str]
    top_k: int

    @property
    def size(self) -> int:
        """Queries in it."""
        return len(self.queries)


class SearchIndex:
    """`POST /search` of a `search.Index`, and its page at `/`."""

    kind, door = "search", "/search"

    def __init__(self, index: search.Index) -> None:
        self.index = index
        self.uploads = Uploads(index)

    def sizes(self) -> dict[str, Any]:
        return {"documents": len(self.index)}

    def read(self, body: dict[str, Any]) -> Queries:
        check_fields(body, ("queries", "top_k"))
        if "queries" not in body:
            raise Refusal("queries", None, "be a list of strings", "send what to search for")
        queries = check_strings("queries", several(body, "queries", MAX_POINTS))
        for i, query in enumerate(queries):
            try:
                check_query(query)
            except ValueError:
                must = f"have a letter or digit, and at most {search.MAX_QUERY:,} characters"
                raise Refusal(f"queries[{i}]", query, must, "send some words") from None
        return Queries(queries, whole_number(body, "top_k", 10, 1, MAX_TOP_K))

    def answer(self, requests: Sequence[Queries]) -> list[dict[str, Any]]:
        queries = [query for request in requests for query in request.queries]
        k = max(request.top_k for request in requests)
        found = iter(self.index.search_batch(queries, k=k))
        return [{"results": [_result(next(found)[: r.top_k]) for _ in r.queries]} for r in requests]

    def routes(self) -> list[BaseRoute]:
        return page.routes(self.index, self.uploads)

    def close(self) -> None:
        self.uploads.close()
        self.index.close()


def _result(hits: Sequence[search.Result]) -> dict[str, Any]:
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
