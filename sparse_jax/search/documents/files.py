"""A folder of documents, or one: each section of each file is a document of the index."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sparse_jax.search.documents import formats
from sparse_jax.search.documents.document import MAX_TEXT, Document
from sparse_jax.search.documents.result import Broken, Reading
from sparse_jax.text.features import normalize

__all__ = ["may_be_documents", "read", "walk"]

# They come with data sets, and don't make a folder of documents of one.
_ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|citation)\b", re.IGNORECASE)
_MAX_BYTES = 1 << 30


def read(path: Path, progress: Callable[[int], object] | None = None) -> Reading:
    """Documents of all files below a folder, in order of their paths, or of one file.

    A document's id is the file's path in the folder; of a section, with ``#heading`` or ``#page=3``
    behind it. Its metadata has the `path`, and the `heading` or `page`.
    """
    documents: list[Document] = []
    broken: list[Broken] = []
    others: collections.Counter[str] = collections.Counter()
    empty = 0
    damaged: list[str] = []
    for done, file in enumerate(walk(path)):
        if progress is not None:
            progress(done)
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            found = _documents(file, name, "text" if file == path else None)
        except (OSError, ValueError, ImportError, MemoryError) as error:
            broken.append(Broken(name, _reason(error, file)))
            continue
        if found is None:
            others[file.suffix.lower() or "no suffix"] += 1
        elif not found:
            empty += 1
        else:
            documents += found
            if any("\ufffd" in document.text for document in found):
                damaged.append(name)
    notes = []
    if damaged:
        notes.append(
            f"{len(damaged):,} files have characters that can't be read and won't be found, as "
            f"{damaged[0]}: convert them if they are no UTF-8 (iconv -f LATIN1 -t UTF-8 FILE > NEW)"
        )
    if empty:
        notes.append(f"{empty:,} files without a word were left out")
    if others:
        kinds = ", ".join(f"{suffix} {count:,}" for suffix, count in others.most_common(5))
        notes.append(f"{others.total():,} files of other kinds were left out: {kinds}")
    return Reading(documents, "files", broken, notes)


def may_be_documents(path: Path) -> Iterator[Path]:
    """Files of a folder that are read, beside those that say what a data set is."""
    for file in walk(path):
        if file.suffix.lower() in formats.SUFFIXES and not _ABOUT.match(file.name):
            yield file


def walk(path: Path) -> Iterator[Path]:
    """Files below a folder, in order; hidden ones and what links lead to elsewhere are left out."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith((".", "~$")):  # ~$ is Word's mark of a file that is open
                yield Path(folder, name)


def _documents(file: Path, name: str, default: str | None) -> list[Document] | None:
    """Those of a file; None if it is of no kind that is read, and there is no default."""
    if not file.is_file():
        raise ValueError("is no file")
    size = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        wanted = file.suffix.lower() in formats.SUFFIXES or start.startswith((b"%PDF-", b"PK\3\4"))
        if not wanted and default is None:
            return None
        if size > _MAX_BYTES:
            raise ValueError(f"has {size:,} bytes: must be at most {_MAX_BYTES:,}; split it")
        content = start + opened.read()
    format = formats.format_of(content, file.suffix) or default
    if format is None:
        return None
    parsed = formats.parse(content, name, format)
    sections = [s for s in parsed.sections if normalize(s.text).split()]
    return _sections(parsed.title or file.stem, sections, name)


def _sections(title: str, sections: list[formats.Section], name: str) -> list[Document]:
    taken: set[str] = set()
    documents = []
    for section in sections:
        if len(section.text) > MAX_TEXT:
            raise ValueError(
                f"a section has {len(section.text):,} characters: must be at most {MAX_TEXT:,}; "
                "split it by headings"
            )
        headings = section.headings
        below = headings[1:] if headings[:1] == (title,) else headings
        metadata: dict[str, str | int] = {"path": name}
        place = ""
        if headings:
            metadata["heading"] = " > ".join(headings)
        if section.page is not None:
            metadata["page"] = section.page
            place = f"page={section.page}" if len(sections) > 1 else ""
        elif below:
            place = "-".join(normalize(below[-1]).split()) or "section"
        place = _distinct(place, taken)
        documents.append(
            Document(
                f"{name}#{place}" if place else name,
                section.text,
                ": ".join((title, " > ".join(below))) if below else title,
                metadata,
            )
        )
    return documents


def _distinct(place: str, taken: set[str]) -> str:
    """A place that no section before has: as in GitHub's anchors, with -1, -2 behind it."""
    found, number = place, 0
    while found in taken:
        number += 1
        found = f"{place or 'section'}-{number}"
    taken.add(found)
    return found


def _reason(error: BaseException, file: Path) -> str:
    """What is wrong with it, without its name, which stands before."""
    text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    return text.removeprefix(f"{file}, ").removeprefix(f"{file.name}, ") or type(error).__name__
