"""From text files to token ids: documents, words, vocabulary.

A corpus is one int32 array of tokens in which every document ends with the token `DOCUMENT`. That
token is predicted like any other, and nothing before it is ever context for what follows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import regex

from sparse_jax.data import plain
from sparse_jax.text.segments import ATTACHED, BLANK, SPACELESS, clean, is_glued

UNKNOWN, DOCUMENT, PARAGRAPH, INDENTED = 0, 1, 2, 3
"""Ids that every vocabulary has: unknown word, end of document, two kinds of blank line."""

SPECIAL = ("<unk>", "</s>", "\n\n", "\n\n  ")
# A blank line with the indent of what follows; a word; any other visible character.
_TOKEN = re.compile(r"\n\s*\n[ \t]*|\w+|[^\w\s]")
# The same for all scripts: marks stay with their letters, and where no spaces part words, each
# character is one. Last: marks without a letter, and any other character with what belongs to it.
_LETTER = rf"[[\p{{L}}\p{{N}}_]--{SPACELESS}--{ATTACHED}]"
_WIDE_TOKEN = regex.compile(
    rf"\n{BLANK}*\n[ \t]*|{SPACELESS}{ATTACHED}*|{_LETTER}(?:{_LETTER}|{ATTACHED})*"
    rf"|{ATTACHED}+|(?!{BLANK})\X{ATTACHED}*",
    regex.VERSION1,
)
_CUT = regex.compile(rf"(?<!{BLANK}){BLANK}", regex.VERSION1)
_MARK = regex.compile(ATTACHED, regex.VERSION1)
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

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are the unknown word."""
        return float(np.mean(self.tokens == UNKNOWN)) if self.tokens.size else 0.0

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
    line differ, since that is how plain text tells a paragraph from a section. Accents, vowel signs
    and joiners belong to the letter before them, composed or not; where words have no spaces
    between them, as in Chinese, Japanese, Thai, Lao, Khmer and Burmese, each character is one.

    Example:
      >>> list(split_words("Hello, world!\\n\\n   An indent"))
      ['Hello', ',', 'world', '!', '\\n\\n  ', 'An', 'indent']
    """
    for chunk in _chunks(clean(text)):
        for word in (_TOKEN if chunk.isascii() else _WIDE_TOKEN).findall(chunk):
            if word[0] == "\n":
                word = SPECIAL[PARAGRAPH] if word[-1] == "\n" else SPECIAL[INDENTED]
            yield word


def _chunks(text: str) -> Iterator[str]:
    """Pieces of a text, cut where no token is cut: at a space or newline behind a visible one."""
    at = 0
    while len(text) - at > _CHUNK:
        found = _CUT.search(text, at + _CHUNK)
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
_CLOSING = regex.compile(
    r"[\p{Sentence_Terminal}\p{Pe}\p{Pf}\u060c\u061b\u0f0b-\u0f12\u2026\u2030]"
)
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}\u00a1\u00bf\u0f0b]")


def _is_glued(before: str, word: str) -> bool:
    """Whether no space stands between two tokens."""
    if before[-1] in "\n ":
        return True
    if before in _NO_SPACE_BEHIND or word in _NO_SPACE_BEFORE:
        return word.isascii() or not _MARK.match(word)  # a mark would go to the character before
    if before.isascii() and word.isascii():
        return False
    if _MARK.match(word):
        return False
    closes = _CLOSING.match(word) or _OPENING.match(before)
    return bool(closes) or is_glued(before, word)


def join_words(words: Iterable[str]) -> str:
    """Words with the usual spaces between them.

    Reading the result gives the same words; what it may change of a text is its white space.

    Example:
      >>> join_words(["Yes", ",", "(", "no", ")", ".", "\\n\\n", "It"])
      'Yes, (no).\\n\\nIt'
      >>> join_words(split_words("हिन्दी है। क 日本語、Python"))
      'हिन्दी है। क日本語、Python'
    """
    out: list[str] = []
    before = "\n"
    for word in words:
        if word == SPECIAL[DOCUMENT]:
            word = "\n\n"
        glued = word[0] == "\n" or _is_glued(before, word)
        out.append(word if glued else " " + word)
        before = word
    return "".join(out)


_SUFFIXES = frozenset((".txt", ".md", ".rst", ".gz"))


class Source(NamedTuple):
    """A file that was read, or another text, and what tells it from others."""

    name: str
    sha256: str  # of its text, whatever its encoding or compression
    num_bytes: int  # of its text, as UTF-8


class Texts(NamedTuple):
    """Documents and where they come from."""

    documents: list[str]
    sources: list[Source]
    notes: list[str]  # what a reader should know of the files


def digest(texts: Iterable[str]) -> str:
    """A digest of documents, in order.

    Example:
      >>> digest(["a", "b"]) == digest(["ab"]), len(digest([]))
      (False, 64)
    """
    found = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        found.update(b"%d\n" % len(content))
        found.update(content)
    return found.hexdigest()


def make_source(name: str, texts: Sequence[str]) -> Source:
    """What documents of one source are known by."""
    return Source(name, digest(texts), sum(len(t.encode("utf-8", "surrogatepass")) for t in texts))


def read_texts(paths: Sequence[str | Path]) -> Texts:
    """Texts of files (.gz too) and of the .txt, .md, .rst and .gz files in folders, in order.

    A file is a document; a form feed in it begins another. Text is UTF-8, or what a byte order mark
    says; bytes that are no UTF-8 become U+FFFD, and a note says how many. Letters are composed with
    their accents (Unicode's NFC).

    Raises:
      FileNotFoundError: if a path is missing, or a folder has no such file.
      ValueError: if a file is no text; it names the file.
    """
    found = Texts([], [], [])
    for given in map(Path, paths):
        files = [given]
        if given.is_dir():
            files = sorted(p for p in given.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
            if not files:
                raise FileNotFoundError(f"{given}: no .txt, .md, .rst or .gz file in this folder")
        for path in files:
            content, replaced = plain.read(path)
            if replaced:
                found.notes.append(f"{path}: {replaced:,} bytes are no UTF-8 and became U+FFFD")
            parts = [part for part in clean(content).split("\f") if part.strip()]
            found.documents.extend(parts)
            found.sources.append(make_source(str(path.resolve()), parts))
    return found


def read_documents(paths: Sequence[str | Path]) -> list[str]:
    """The documents of `read_texts` alone."""
    return read_texts(paths).documents


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
        num_bytes += len(text.encode("utf-8", "surrogatepass"))
    if not parts:
        raise ValueError("no text: give at least one document that isn't empty")
    return Corpus(np.concatenate(parts), num_documents, num_bytes)
