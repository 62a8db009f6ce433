"""The language model that writes answers out of what the indexes of a server find."""

from __future__ import annotations

import threading

from sparse_jax.commands.search.written import Written, open_author, write
from sparse_jax.search.answers import Answer


class Writer:
    """Writes one answer at a time: a model takes all cores anyway.

    Args:
      path: of a model of `lm train` or `search tune`.
      drafts: answers that a page shows beside the written one, drawn from the model.

    Raises:
      ValueError: if there is no such model.
    """

    def __init__(self, path: str, drafts: int) -> None:
        self.path, self._drafts = path, drafts
        self._author, self._lock = open_author(path), threading.Lock()

    def write(self, found: Answer, *, max_words: int = 60) -> Written | None:
        """The written answer; None where it isn't known."""
        if not found.is_known:
            return None
        with self._lock:
            return write(self._author, found, max_words=max_words)[0]

    def several(self, found: Answer) -> list[Written]:
        """The written answer and the drafts; the same ones each time."""
        if not found.is_known:
            return []
        with self._lock:
            return write(self._author, found, drafts=self._drafts)
