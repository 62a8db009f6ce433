"""A search index as it is served: queries in JSON to documents, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.routing import BaseRoute

from sparse_jax import search
from sparse_jax.commands.serve import page
from sparse_jax.commands.serve.asking import Ask, read_queries, result
from sparse_jax.commands.serve.page import Desk
from sparse_jax.commands.serve.protocols import Service
from sparse_jax.commands.serve.reading import (
    MAX_POINTS,
    MAX_TOP_K,
    Refusal,
    check_fields,
    several,
    whole_number,
)
from sparse_jax.commands.serve.uploads import Uploads


class Queries(NamedTuple):
    """A request to an index."""

    queries: list[str]
    top_k: int

    @property
    def size(self) -> int:
        """Queries in it."""
        return len(self.queries)


class SearchIndex:
    """`POST /search` and `/ask` of a `search.Index`, and its page at `/`.

    Args:
      index: that is on disk.
      desk: where a language model writes answers and thumbs on them are kept.
    """

    kind, door = "search", "/search"

    def __init__(self, index: search.Index, desk: Desk | None = None) -> None:
        self.index, self.desk = index, desk
        self.uploads = Uploads(index)
        self._ask = Ask(index, None if desk is None else desk.writer)

    def sizes(self) -> dict[str, Any]:
        return {"documents": len(self.index)}

    def read(self, body: dict[str, Any]) -> Queries:
        check_fields(body, ("queries", "top_k"))
        if "queries" not in body:
            raise Refusal("queries", None, "be a list of strings", "send what to search for")
        queries = read_queries("queries", several(body, "queries", MAX_POINTS))
        return Queries(queries, whole_number(body, "top_k", 10, 1, MAX_TOP_K))

    def answer(self, requests: Sequence[Queries]) -> list[dict[str, Any]]:
        queries = [query for request in requests for query in request.queries]
        k = max(request.top_k for request in requests)
        found = iter(self.index.search_batch(queries, k=k))
        return [{"results": [result(next(found)[: r.top_k]) for _ in r.queries]} for r in requests]

    def beside(self) -> list[Service]:
        return [self._ask]

    def routes(self) -> list[BaseRoute]:
        return page.routes(self.index, self.uploads, self.desk)

    def close(self) -> None:
        self.uploads.close()
        if self.desk is not None:
            self.desk.thumbs.close()
        self.index.close()
