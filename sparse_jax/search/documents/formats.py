"""Documents of people: plain text, Markdown, HTML, PDF and Word, cut into sections.

Each parser takes the bytes of a file and returns its title and its sections. Markdown, HTML, PDF
and Word need libraries: ``pip install 'sparse_jax[documents]'``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sparse_jax.data.plain import decode_text

__all__ = ["SUFFIXES", "Parsed", "Section", "format_of", "parse"]

EXTRA = "documents"
_MAX_TITLE = 100  # characters of a first line that may be a title


class Section(NamedTuple):
    """A part of a document."""

    text: str
    headings: tuple[str, ...] = ()  # above it, outermost first
    page: int | None = None


class Parsed(NamedTuple):
    """A document."""

    title: str  # "" where it has none
    sections: list[Section]  # those with a word


class Outline:
    """Text under headings, as it is read."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self._stack: list[tuple[int, str]] = []
        self._lines: list[str] = []

    def heading(self, level: int, text: str) -> None:
        """Begins a section."""
        self._close()
        text = " ".join(text.split())
        self._stack = [(n, t) for n, t in self._stack if n < level]
        if text:
            self._stack.append((level, text))

    def add(self, text: str) -> None:
        """Adds a paragraph to the section."""
        if text.strip():
            self._lines.append(text.strip())

    def parsed(self, title: str) -> Parsed:
        """The document; without a title, its first heading of the highest level is the title."""
        self._close()
        title = " ".join(title.split())
        return Parsed(title or self._first, self.sections)

    def _close(self) -> None:
        if self._lines:
            headings = tuple(text for _, text in self._stack)
            self.sections.append(Section("\n".join(self._lines), headings))
            self._lines = []

    @property
    def _first(self) -> str:
        outermost = [section.headings[0] for section in self.sections if section.headings]
        return outermost[0] if outermost else ""


def library(name: str, package: str) -> Any:
    """A module of an optional library.

    Raises:
      ModuleNotFoundError: if it is missing; it names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package} is missing, which reads such files: pip install 'sparse_jax[{EXTRA}]'",
            name=error.name,
        ) from None


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without warnings and log lines of a library: of what it could mend, no one needs to hear."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _text(content: bytes, name: str) -> Parsed:
    """Plain text, whose title is a short first line with an empty or underlining one below it."""
    text = decode_text(content, name).text
    lines = text.strip().splitlines()
    title = ""
    if len(lines) > 2 and len(lines[0]) <= _MAX_TITLE and re.fullmatch(r"\W*|_*", lines[1]):
        title = " ".join(lines[0].split())
    return Parsed(title, [Section(text.strip())] if text.strip() else [])


def _markdown(content: bytes, name: str) -> Parsed:
    markdown_it = library("markdown_it", "markdown-it-py")
    text, title = _front_matter(decode_text(content, name).text)
    outline, level = Outline(), 0
    for token in markdown_it.MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "inline" and level:
            outline.heading(level, _inline(token))
            level = 0
        elif token.type == "inline":
            outline.add(_inline(token))
        elif token.type in ("fence", "code_block"):
            outline.add(token.content)
        elif token.type == "html_block":
            outline.add(re.sub(r"<!--.*?-->|<[^>]*>", " ", token.content, flags=re.DOTALL))
    return outline.parsed(title)


def _front_matter(text: str) -> tuple[str, str]:
    """The text behind YAML's block at its beginning, and the title in that."""
    found = re.match(r"---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", text, re.DOTALL)
    if not found:
        return text, ""
    title = re.search(r"^title:[ \t]*(.+?)[ \t]*$", found[1], re.MULTILINE | re.IGNORECASE)
    return text[found.end() :], title[1].strip("'\"") if title else ""


def _inline(token: Any) -> str:
    """The words of a paragraph; of a picture, what stands for it."""
    parts = []
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
    return "".join(parts)


_SILENT = {"script", "style", "template", "noscript", "head", "svg"}
_INLINE = set(
    "a abbr b bdi bdo big cite code data del dfn em font i ins kbd mark q s samp small span strong "
    "sub sup time tt u var wbr".split()
)


def _html(content: bytes, name: str) -> Parsed:
    bs4 = library("bs4", "beautifulsoup4")
    with _quiet("bs4.dammit"):
        soup = bs4.BeautifulSoup(content, "html.parser")
    outline, parts = Outline(), [""]

    def flush() -> None:
        outline.add(" ".join("".join(parts).split()))
        parts.clear()

    def walk(element: Any) -> None:
        for child in element.children:
            if type(child) is bs4.NavigableString or type(child) is bs4.CData:
                parts.append(str(child))
            elif not isinstance(child, bs4.Tag) or child.name in _SILENT:
                continue
            elif re.fullmatch("h[1-6]", child.name):
                flush()
                outline.heading(int(child.name[1]), child.get_text(" "))
            elif child.name in _INLINE:
                walk(child)
            else:
                flush()
                walk(child)
                flush()

    walk(soup)
    flush()
    title = soup.find("title")
    return outline.parsed(title.get_text() if title else "")


def _pdf(content: bytes, name: str) -> Parsed:
    pypdf = library("pypdf", "pypdf")
    if b"%PDF-" not in content[:1024]:
        raise ValueError("is no PDF: it lacks the mark %PDF-")
    with _quiet("pypdf"):
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("is locked by a password: store it without one")
        pages = [page.extract_text() for page in reader.pages]
    sections = [Section(t.strip(), page=n) for n, t in enumerate(pages, 1) if t.strip()]
    if pages and not sections:
        raise ValueError(f"has no text on its {len(pages)} pages, as scans: recognise it (OCR)")
    title = reader.metadata.title if reader.metadata else None
    return Parsed(" ".join(str(title or "").split()), sections)


def _docx(content: bytes, name: str) -> Parsed:
    docx = library("docx", "python-docx")
    document = docx.Document(io.BytesIO(content))
    outline, title = Outline(), document.core_properties.title or ""
    if title == "Word Document":  # what the library says of a file that names none
        title = ""
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):  # a table: a line for each of its rows
            for row in block.rows:
                outline.add(" ".join(cell.text for cell in row.cells))
            continue
        style = block.style.name if block.style is not None else ""
        level = re.fullmatch(r"Heading (\d)", style or "")
        if style == "Title" and not title:
            title = block.text
        elif level:
            outline.heading(int(level[1]), block.text)
        else:
            outline.add(block.text)
    return outline.parsed(title)


_PARSERS: dict[str, Callable[[bytes, str], Parsed]] = {
    "text": _text,
    "markdown": _markdown,
    "html": _html,
    "pdf": _pdf,
    "docx": _docx,
}
SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}


def format_of(content: bytes, suffix: str) -> str | None:
    """How a file is written: by its marks, else by its suffix; None if it is no document.

    Example:
      >>> format_of(b"%PDF-1.7", ".txt"), format_of(b"# Red", ".md"), format_of(b"GIF8", ".gif")
      ('pdf', 'markdown', None)
    """
    if content.startswith(b"%PDF-"):
        return "pdf"
    if content.startswith(b"PK\x03\x04") and "word/document.xml" in _names(content):
        return "docx"
    return SUFFIXES.get(suffix.lower())


def _names(content: bytes) -> Iterator[str]:
    """Names of the files in a zip archive; none if it is damaged."""
    try:
        return iter(zipfile.ZipFile(io.BytesIO(content)).namelist())
    except Exception:  # of many kinds
        return iter(())


def parse(content: bytes, name: str, format: str) -> Parsed:
    """The title and the sections of a document.

    Args:
      content: the file.
      name: of it, for messages.
      format: of `format_of`.

    Returns:
      `Parsed`; a part without a word is no section.

    Raises:
      ValueError: if it is damaged, or locked. ModuleNotFoundError: if the library for it is
        missing.

    Example:
      >>> parse(b"Red apples\\n\\nThey grow on trees.", "a.txt", "text").title
      'Red apples'
    """
    try:
        return _PARSERS[format](content, name)
    except (ValueError, ImportError, MemoryError):
        raise
    except Exception as error:  # parsers of damaged files raise whatever they come across
        raise ValueError(f"is damaged, or no {format}: {type(error).__name__}: {error}") from None
