"""Texts of packages to one corpus: without near-duplicates, in three parts, with a manifest."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from sparse_jax.retrieval.duplicates import Finder
from sparse_jax.runtime.files import write_json, write_stream

SIDES = ("train", "valid", "test")
THRESHOLD = 0.8
_HELD_OUT = 2  # of 100 sources, for each of valid and test
_LEAST_WORDS = 50  # of a document
_SHORT = 10  # words: what is shorter isn't compared, but stays with a longer one
_AT_ONCE = 2048  # documents
_TOKEN = re.compile(r"\w+|[^\w\s]")  # as the language model counts them


class Document(NamedTuple):
    """A file of a package."""

    package: int  # its number
    path: str
    paragraphs: list[str]


class Counted(NamedTuple):
    """What is left of a package, or of a part of the corpus."""

    documents: int = 0
    words: int = 0  # runs of letters and digits
    tokens: int = 0  # these and each mark between

    def plus(self, other: Counted) -> Counted:
        """The sum."""
        return Counted(*(a + b for a, b in zip(self, other, strict=True)))


def assemble(files: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes train.txt.gz, valid.txt.gz, test.txt.gz and manifest.json.

    Args:
      files: of the text of each package, in the order of the list; those that aren't there are left
        out. The first of texts alike is kept.
      out: the folder.

    Returns:
      The manifest without its packages.

    Raises:
      OSError: a file can't be read or written.
    """
    files = [path for path in files if path.exists()]
    abouts = [about_of(path) for path in files]
    sides = [side_of(about["source"]) for about in abouts]
    counted = [Counted()] * len(files)
    read = [0, 0]  # documents, words

    def write(sinks: list[BinaryIO]) -> None:
        packed = [gzip.GzipFile("", "wb", 6, sink, mtime=0) for sink in sinks]
        first = [True] * len(SIDES)
        for document in without_duplicates(documents(files, read)):
            side = SIDES.index(sides[document.package])
            text = "\n\n".join(document.paragraphs)
            packed[side].write((("" if first[side] else "\f") + text + "\n").encode())
            first[side] = False
            counted[document.package] = counted[document.package].plus(count(text))
        for file in packed:
            file.close()

    paths = [out / f"{side}.txt.gz" for side in SIDES]
    _write_all(paths, write)
    totals: dict[str, Any] = {"read": {"documents": read[0], "words": read[1]}}
    for side, path in zip(SIDES, paths, strict=True):
        total = Counted()
        for one, of in zip(counted, sides, strict=True):
            total = total.plus(one) if of == side else total
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        totals[side] = total._asdict() | {"file": path.name, "sha256": digest}
    packages = [
        about | {"side": side} | one._asdict()
        for about, side, one in zip(abouts, sides, counted, strict=True)
    ]
    write_json(out / "manifest.json", {"threshold": THRESHOLD, **totals, "packages": packages})
    return totals


def _write_all(paths: Sequence[Path], write: Any, opened: tuple[BinaryIO, ...] = ()) -> None:
    """Several files at once, each replaced when all are whole."""
    if len(opened) == len(paths):
        write(list(opened))
    else:
        write_stream(paths[len(opened)], lambda file: _write_all(paths, write, (*opened, file)))


def side_of(source: str) -> str:
    """The part of the corpus that all packages of a source are in.

    Example:
      >>> side_of("linux"), side_of("glibc")
      ('train', 'train')
    """
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 100
    return SIDES[1] if place < _HELD_OUT else SIDES[2] if place < 2 * _HELD_OUT else SIDES[0]


def about_of(path: Path) -> dict[str, Any]:
    """What the first line of a package's text says."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found: dict[str, Any] = json.loads(file.readline())
    return found


def documents(files: Sequence[Path], read: list[int]) -> Iterator[Document]:
    """All documents of packages; adds up (documents, words) in `read`."""
    for number, path in enumerate(tqdm(files, desc="texts", disable=None)):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            next(file)
            for line in file:
                row = json.loads(line)
                read[0] += 1
                read[1] += sum(paragraph.count(" ") + 1 for paragraph in row["paragraphs"])
                yield Document(number, row["path"], row["paragraphs"])


def without_duplicates(given: Iterable[Document]) -> Iterator[Document]:
    """Documents like none before them, without the paragraphs that one before them has."""
    whole, parts = Finder(threshold=THRESHOLD), Finder(threshold=THRESHOLD)
    for some in _portions(given):
        found = whole.add(["\n".join(document.paragraphs) for document in some])
        some = [document for document, kept in zip(some, found.kept, strict=True) if kept]
        long = [p for document in some for p in document.paragraphs if not is_short(p)]
        kept_parts = iter(parts.add(long).kept.tolist())
        for document in some:
            left = _left(document.paragraphs, kept_parts)
            if sum(paragraph.count(" ") + 1 for paragraph in left) >= _LEAST_WORDS:
                yield document._replace(paragraphs=left)


def is_short(paragraph: str) -> bool:
    """Whether it isn't compared, but stays with a longer one."""
    return paragraph.count(" ") + 1 < _SHORT


def _left(paragraphs: Sequence[str], kept: Iterator[bool]) -> list[str]:
    """Paragraphs that are kept, headings before them, and short sentences behind them."""
    left: list[str] = []
    waiting: list[str] = []
    was_kept = False
    for paragraph in paragraphs:
        if not is_short(paragraph):
            was_kept = next(kept)
            if was_kept:
                left += [*waiting, paragraph]
            waiting = []
        elif waiting or paragraph[-1] not in ".!?:;":
            waiting.append(paragraph)
        elif was_kept:
            left.append(paragraph)
    return left


def _portions(given: Iterable[Document]) -> Iterator[list[Document]]:
    some: list[Document] = []
    for document in given:
        some.append(document)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def count(text: str) -> Counted:
    """One document's words and tokens.

    Example:
      >>> count("It's red.")
      Counted(documents=1, words=3, tokens=5)
    """
    tokens = _TOKEN.findall(text)
    words = sum(token[0].isalnum() or token[0] == "_" for token in tokens)
    return Counted(1, words, len(tokens))
