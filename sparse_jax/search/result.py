"""What a search finds."""

from __future__ import annotations

from typing import NamedTuple

from sparse_jax.search.documents import Document
from sparse_jax.text.features import normalize
from sparse_jax.text.stem import stem

__all__ = ["Result"]


class Result(NamedTuple):
    """A document found.

    Example:
      >>> found = Result("a", 0.5, Document("a", "red apples"), "green apples")
      >>> found.words, found.is_matched
      (['apples'], True)
    """

    id: str
    score: float
    document: Document
    query: str = ""

    @property
    def words(self) -> list[str]:
        """Words of the query, as `normalize` of `text.features` has them, whose stems it holds.

        If there is none, parts of words speak for the document, or what the network learned: the
        score is not comparable with that of a document that holds one.
        """
        document = self.document
        have = {stem(w) for w in set(normalize(f"{document.title} {document.text}").split())}
        return [w for w in dict.fromkeys(normalize(self.query).split()) if stem(w) in have]

    @property
    def is_matched(self) -> bool:
        """Whether the document holds a word of the query."""
        return bool(self.words)
