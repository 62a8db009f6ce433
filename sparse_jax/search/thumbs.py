"""What people think of written answers: a log of thumbs beside an index, in its directory.

The log is a `Journal`: a thumb that was acknowledged is on the disk, and a line torn by a crash is
dropped. The newest thumb on an answer to a question is the one that counts. Questions are the same
if they differ in case and white space alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sparse_jax.search.documents import check_query, check_text
from sparse_jax.search.journal import Journal, read_journal

__all__ = ["FILE", "MAX_ANSWER", "Thumb", "Thumbs", "in_force", "read_thumbs", "same_question"]

FILE = "thumbs.log"
"""Of a directory with an index."""
MAX_ANSWER = 50_000
"""Characters of an answer."""


class Thumb(NamedTuple):
    """Up or down, for one answer."""

    question: str
    answer: str
    sources: tuple[str, ...]  # ids of the documents that the answer's sentences are of, in turn
    is_up: bool


class Thumbs:
    """The log of an index, open for writing; the index must be, too, for its lock keeps this one.

    Args:
      directory: of the index. The log is made with the first thumb.

    Raises:
      ValueError: if the log is damaged before its last line. OSError: if it can't be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     thumbs = Thumbs(Path(folder))
      ...     thumbs.add(Thumb("Is it wet?", "It is.", ("a",), True))
      ...     thumbs.close()
      ...     thumbs.of("is it  WET?"), len(read_thumbs(Path(folder)))
      ({'It is.': True}, 1)
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._journal: Journal | None = None
        self._lock = threading.Lock()
        self._by_question: dict[str, dict[str, bool]] = {}
        self._read()

    def add(self, thumb: Thumb) -> None:
        """Keeps a thumb; returns when it is on the disk.

        Args:
          thumb: of an answer to a question.

        Raises:
          ValueError: if it is none that can be kept, or another log was put there that is damaged.
            OSError: if the disk refuses; the log is then as it was.
        """
        check_query(thumb.question, "question")
        check_text("answer", thumb.answer, MAX_ANSWER)
        for source in thumb.sources:
            check_text("sources", source, MAX_ANSWER)
        if not thumb.answer.strip():
            raise ValueError(f"answer = {thumb.answer!r}: must be a text; there is nothing to like")
        with self._lock:
            if self._journal is not None and not self._is_there(self._journal):
                self._journal.close()
                self._journal = None
                self._read()
            if self._journal is None:
                self._journal = Journal(self._path)
            self._journal.append(thumb._asdict())
            self._remember(thumb)

    def _is_there(self, journal: Journal) -> bool:
        """Whether the log is still in the directory: it may be moved away to begin anew."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(journal.file.fileno()))
        return False

    def of(self, question: str) -> dict[str, bool]:
        """Answers to a question that have a thumb, and whether it is up.

        Args:
          question: as it was asked, or the same in other case.
        """
        with self._lock:
            return dict(self._by_question.get(same_question(question), {}))

    def close(self) -> None:
        """Closes the log."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _read(self) -> None:
        self._by_question.clear()
        for thumb in read_thumbs(self._path.parent):
            self._remember(thumb)

    def _remember(self, thumb: Thumb) -> None:
        self._by_question.setdefault(same_question(thumb.question), {})[thumb.answer] = thumb.is_up


def same_question(question: str) -> str:
    """What questions have in common that are the same.

    Example:
      >>> same_question(" Is it\\tWET? ")
      'is it wet?'
    """
    return " ".join(question.casefold().split())


def in_force(thumbs: Iterable[Thumb]) -> dict[str, list[Thumb]]:
    """By question, the newest thumb on each answer, in order of the answers' first ones.

    Args:
      thumbs: oldest first.

    Example:
      >>> first = Thumb("A?", "b", ("d",), True)
      >>> log = [first, Thumb("a?", "c", ("d",), True), first._replace(is_up=False)]
      >>> [(thumb.answer, thumb.is_up) for thumb in in_force(log)["a?"]]
      [('b', False), ('c', True)]
    """
    found: dict[str, dict[str, Thumb]] = {}
    for thumb in thumbs:
        found.setdefault(same_question(thumb.question), {})[thumb.answer] = thumb
    return {question: list(answers.values()) for question, answers in found.items()}


def read_thumbs(directory: Path) -> list[Thumb]:
    """All thumbs that were kept for an index, oldest first; none if there is no log.

    Args:
      directory: of the index, which may be open elsewhere.

    Raises:
      ValueError: if the log is damaged before its last line, or holds what is no thumb. OSError: if
        it can't be read.
    """
    path = directory / FILE
    records: Sequence[object] = ()
    with contextlib.suppress(FileNotFoundError):
        records = read_journal(path)[0]
    return [_thumb(path, line, record) for line, record in enumerate(records, 1)]


def _thumb(path: Path, line: int, record: object) -> Thumb:
    match record:
        case {
            "question": str(question),
            "answer": str(answer),
            "sources": [*sources],
            "is_up": bool(is_up),
        } if all(isinstance(source, str) for source in sources):
            return Thumb(question, answer, tuple(map(str, sources)), is_up)
    raise ValueError(
        f"{path}, line {line}: must have question, answer, sources and is_up; another version "
        "wrote it: use that one, or move the file away"
    )
