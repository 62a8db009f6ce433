"""Collections as TREC has them: documents and topics in tags, judgements in four columns.

    <DOC> <DOCNO> FT911-3 </DOCNO> <HEADLINE> ... <TEXT> ... </DOC>
    <top> <num> Number: 301 <title> ... <desc> Description: ... </top>
    301 0 FT911-3 1

Newer topics, ``<topic number="1"><query>...</query>``, are read as well. Files of a folder are told
apart by what is in them.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from sparse_jax.data.encoding import read_bytes
from sparse_jax.search.documents import formats
from sparse_jax.search.documents.document import Document
from sparse_jax.search.documents.files import walk
from sparse_jax.search.documents.lines import Qrels, head, one_split, rows_of
from sparse_jax.search.documents.result import Broken, Reading

__all__ = ["fits", "layout", "qrels", "queries", "read"]

_MOST_LOOKED_AT = 1000  # files of a folder, to see whether it is such a collection
_FLAGS = re.DOTALL | re.IGNORECASE
_DOC = re.compile(r"<DOC>(.*?)</DOC>", _FLAGS)
_DOCNO = re.compile(r"<DOCNO>(.*?)</DOCNO>", _FLAGS)
_TITLE = re.compile(r"<(TITLE|HEADLINE|HEAD|HL|TI|TTL)>(.*?)</\1>", _FLAGS)
_TEXT = re.compile(r"<(TEXT|BODY|LP|LEADPARA|GRAPHIC)>(.*?)</\1>", _FLAGS)
_TAG = re.compile(r"<[^<>]*>|<!--.*?-->", re.DOTALL)
_TOP = re.compile(r"<top>(.*?)</top>", _FLAGS)
_TOPIC = re.compile(r"<topic\s[^>]*number\s*=\s*[\"']?([^\s\"'>]+)[^>]*>(.*?)</topic>", _FLAGS)


def fits(path: Path) -> bool:
    """Whether a folder has such documents, or a file is of them."""
    found = (file for file in walk(path) if file.is_file() and not _is_other(file))
    return any(layout(file) == "documents" for file in itertools.islice(found, _MOST_LOOKED_AT))


def layout(file: Path) -> str | None:
    """documents, topics, qrels or none of these."""
    lines = [line.strip() for line in head(file, 1 << 12)[:40] if line.strip()]
    start = re.sub(r"^(<[?!][^>]*>\s*)+", "", "\n".join(lines))
    if re.match(r"<DOC>\s", start, re.IGNORECASE) or re.match(r"<DOC><DOCNO>", start, re.I):
        return "documents"
    if re.match(r"(<\w+[^>]*>\s*)?(<top>|<topic\s[^>]*number)", start, re.IGNORECASE):
        return "topics"
    rows = [line.split() for line in lines]
    if rows and all(len(row) == 4 and re.fullmatch(r"-?\d+", row[3]) for row in rows):
        return "qrels"
    return None


def _files(path: Path, kind: str) -> Iterator[Path]:
    found = (file for file in walk(path) if file.is_file() and not _is_other(file))
    return (file for file in found if layout(file) == kind)


def _is_other(file: Path) -> bool:
    """Whether a name says that a file is of another kind: it need not be opened."""
    return formats.SUFFIXES.get(file.suffix.lower(), "text") != "text"


def _content(file: Path) -> str:
    """The text of a file: TREC's older ones are in Latin-1."""
    content = read_bytes(file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read(path: Path) -> Reading:
    """The documents of all files of documents below a folder, or of one file.

    Raises:
      ValueError: if there are none, or one has no DOCNO.
    """
    documents: list[Document] = []
    broken: list[Broken] = []
    empty = 0
    for file in _files(path, "documents"):
        try:
            found = _documents(file)
        except (OSError, ValueError) as error:
            if file == path:
                raise ValueError(f"{path}: {error}") from None
            broken.append(Broken(file.relative_to(path).as_posix(), str(error)))
            continue
        empty += sum(not (d.text or d.title) for d in found)
        documents += found
    notes = [f"{empty:,} documents have no text: only filters find them"] if empty else []
    return Reading(documents, "trec", broken, notes)


def _documents(file: Path) -> list[Document]:
    content = _content(file)
    opened = len(re.findall("<DOC>", content, re.IGNORECASE))
    out = []
    for number, found in enumerate(_DOC.finditer(content), 1):
        body = found[1]
        docno = _DOCNO.search(body)
        if docno is None or not docno[1].strip():
            line = 1 + content.count("\n", 0, found.start())
            raise ValueError(f"line {line}: document {number} has no DOCNO")
        title = _TITLE.search(body)
        texts = [match[2] for match in _TEXT.finditer(body)]
        rest = body.replace(docno[0], " ")
        if title:
            rest = rest.replace(title[0], " ")
        text = "\n".join(texts) if any(_plain(t) for t in texts) else rest
        out.append(Document(docno[1].strip(), _plain(text), _plain(title[2]) if title else ""))
    if len(out) < opened:
        raise ValueError(f"{opened - len(out)} of its documents have no end: </DOC> is missing")
    return out


def _plain(text: str) -> str:
    """Text without tags."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def queries(path: Path) -> dict[str, str]:
    """Titles of topics by number; a topic without one has its description.

    Raises:
      ValueError: if there are none.
    """
    found = {}
    for file in _files(path, "topics") if path.is_dir() else ():
        content = _content(file)
        for match in _TOP.finditer(content):
            fields = _fields(match[1])
            number = re.sub(r"^number:\s*", "", fields.get("num", ""), flags=re.IGNORECASE)
            title = re.sub(r"^topic:\s*", "", fields.get("title", ""), flags=re.IGNORECASE)
            about = re.sub(r"^description:\s*", "", fields.get("desc", ""), flags=re.IGNORECASE)
            found[number] = title or about
        for match in _TOPIC.finditer(content):
            fields = _fields(match[2])
            texts = (fields.get(name, "") for name in ("title", "query", "question", "description"))
            found[match[1]] = next(filter(None, texts), "")
    found.pop("", None)
    if not found:
        raise ValueError(f"{path}: holds no topics: evaluate needs queries with answers")
    return found


def _fields(body: str) -> dict[str, str]:
    """Texts by tag; a tag need not be closed."""
    parts = re.split(r"<(\w+)[^<>]*>", re.sub(r"</\w+>", " ", body))
    return {
        name.lower(): " ".join(html.unescape(text).split())
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def qrels(path: Path, split: str | None) -> Qrels:
    """Judgements, of the file whose name is the split's, or the only one.

    Raises:
      ValueError: if there is no such file, or a row doesn't fit.
    """
    files = {file.name: file for file in _files(path, "qrels")}
    chosen, found = one_split(path, files, split), Qrels()
    for line, cells in rows_of(chosen, None):
        if len(cells) != 4:
            raise ValueError(f"{chosen}, line {line}: has {len(cells)} cells: must have 4")
        found.add(chosen, line, cells[0], cells[2], cells[3])
    return found
