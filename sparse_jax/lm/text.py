"""From text files to token ids: documents, words, vocabulary.

A corpus is one int32 array of tokens in which every document ends with the token `DOCUMENT`. That
token is predicted like any other, and nothing before it is ever context for what follows.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

UNKNOWN, DOCUMENT, PARAGRAPH, INDENTED = 0, 1, 2, 3
"""Ids that every vocabulary has: unknown word, end of document, two kinds of blank line."""

SPECIAL = ("<unk>", "</s>", "\n\n", "\n\n  ")
# A blank line with the indent of what follows; a word; any other visible character.
_TOKEN = re.compile(r"\n\s*\n[ \t]*|\w+|[^\w\s]")
_CHUNK = 1 << 20  # characters tokenized at a time, to bound the list of words in memory


class Vocabulary(Protocol):
    """What training, evaluation and generation need of a vocabulary."""

    size: int
    lossless: bool  # whether decode(encode(text)) == text

    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def state(self) -> dict[str, object]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of some documents."""

    tokens: np.ndarray  # int32 [n]; each document ends with DOCUMENT
    num_documents: int
    num_bytes: int  # of the text, as UTF-8

    def since_start(self, max_tokens: int) -> np.ndarray:
        """How many tokens of its own document precede each token, at most `max_tokens`; int32 [n].

        Example:
          >>> Corpus(np.array([7, 8, 1, 9, 1], np.int32), 2, 0).since_start(5).tolist()
          [0, 1, 2, 0, 1]
        """
        index = np.arange(self.tokens.size)
        starts = np.zeros(self.tokens.size, np.int64)
        starts[1:][self.tokens[:-1] == DOCUMENT] = index[1:][self.tokens[:-1] == DOCUMENT]
        return np.minimum(index - np.maximum.accumulate(starts), max_tokens).astype(np.int32)


def split_words(text: str) -> Iterator[str]:
    """Words, punctuation marks one by one, and blank lines as one of two tokens.

    Other white space is dropped. A blank line before an indented line and one before an unindented
    line differ, since that is how plain text tells a paragraph from a section.

    Example:
      >>> list(split_words("Hello, world!\\n\\n   An indent"))
      ['Hello', ',', 'world', '!', '\\n\\n  ', 'An', 'indent']
    """
    for chunk in _chunks(text):
        for word in _TOKEN.findall(chunk):
            if word[0] == "\n":
                word = SPECIAL[PARAGRAPH] if word[-1] == "\n" else SPECIAL[INDENTED]
            yield word


def _chunks(text: str) -> Iterator[str]:
    """Pieces of a text, cut where no token is cut: at a space or newline behind a visible one."""
    at = 0
    cut = re.compile(r"(?<=\S)\s")
    while len(text) - at > _CHUNK:
        found = cut.search(text, at + _CHUNK)
        if found is None:
            break
        yield text[at : found.start()]
        at = found.start()
    yield text[at:]


@dataclasses.dataclass(frozen=True, eq=False)
class WordVocabulary:
    """Words seen often enough in training; all others are one unknown word.

    Example:
      >>> vocabulary = WordVocabulary.fit(["a b a . c a b"], min_count=2)
      >>> vocabulary.size, vocabulary.encode("b a c").tolist(), vocabulary.decode([5, 4])
      (6, [5, 4, 0], 'b a')
    """

    words: tuple[str, ...]

    lossless = False

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL)] != SPECIAL or len(set(self.words)) != len(self.words):
            raise ValueError(f"words must be distinct and begin with {SPECIAL}")
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(self.words)})

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, min_count: int = 5, max_ids: int | None = None
    ) -> WordVocabulary:
        """The words seen at least `min_count` times, most frequent first, at most `max_ids` ids.

        Raises:
          ValueError: if min_count is below 1, or no word is frequent enough.
        """
        if min_count < 1:
            raise ValueError(f"min_count = {min_count}: must be at least 1")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        for word in SPECIAL:
            counts.pop(word, None)
        kept = [(-n, word) for word, n in counts.items() if n >= min_count]
        if not kept:
            raise ValueError(
                f"no word occurs min_count = {min_count} times: give more text or a lower count"
            )
        words = [word for _, word in sorted(kept)]
        room = None if max_ids is None else max(0, max_ids - len(SPECIAL))
        return cls((*SPECIAL, *words[:room]))

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of ids."""
        return len(self.words)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int32, without an end of document."""
        find = self._ids.get  # type: ignore[attr-defined]
        return np.fromiter((find(word, UNKNOWN) for word in split_words(text)), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text: no space before a closing mark or behind an opening one."""
        return join_words(self.words[int(i)] for i in ids)

    def state(self) -> dict[str, object]:
        """What `load_vocabulary` makes it from again, as JSON knows it."""
        return {"kind": "word", "words": list(self.words)}


_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'\u2019\"\u201d")
_NO_SPACE_BEHIND = frozenset("([{'\u2019\"\u201c$#\\")


def join_words(words: Iterable[str]) -> str:
    """Words with the usual spaces between them.

    Example:
      >>> join_words(["Yes", ",", "(", "no", ")", ".", "\\n\\n", "It"])
      'Yes, (no).\\n\\nIt'
    """
    out: list[str] = []
    before = "\n"
    for word in words:
        if word == SPECIAL[DOCUMENT]:
            word = "\n\n"
        glued = before[-1] in "\n " or before in _NO_SPACE_BEHIND or word in _NO_SPACE_BEFORE
        out.append(word if glued or word[0] == "\n" else " " + word)
        before = word
    return "".join(out)


_SUFFIXES = frozenset((".txt", ".md", ".rst", ".gz"))


def read_documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """Texts of files (.gz too) and of the .txt, .md, .rst and .gz files in folders, in order.

    A file is a document; a form feed in it begins another. Bytes that are no UTF-8 become U+FFFD.

    Raises:
      FileNotFoundError: if a path is missing, or a folder has no such file.
    """
    for given in map(Path, paths):
        files = [given]
        if given.is_dir():
            files = sorted(p for p in given.rglob("*") if p.suffix in _SUFFIXES)
            if not files:
                raise FileNotFoundError(f"{given}: no .txt, .md, .rst or .gz file in this folder")
        for path in files:
            opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
            with opened as file:
                text = file.read().decode("utf-8", errors="replace")
            yield from (part for part in text.split("\f") if part.strip())


def python_topics() -> list[str]:
    """The reference text on the language that every Python carries, a document a topic."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def encode_corpus(vocabulary: Vocabulary, texts: Iterable[str]) -> Corpus:
    """Tokens of documents.

    Raises:
      ValueError: if there is no document.

    Example:
      >>> vocabulary = WordVocabulary.fit(["a b a b"], min_count=2)
      >>> encode_corpus(vocabulary, ["a b", "b"]).tokens.tolist()
      [4, 5, 1, 5, 1]
    """
    parts, num_documents, num_bytes = [], 0, 0
    end = np.array([DOCUMENT], np.int32)
    for text in texts:
        parts += [vocabulary.encode(text), end]
        num_documents += 1
        num_bytes += len(text.encode("utf-8"))
    if not parts:
        raise ValueError("no text: give at least one document that isn't empty")
    return Corpus(np.concatenate(parts), num_documents, num_bytes)
