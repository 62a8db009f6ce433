"""Collections as MS MARCO has them: tables without a header.

    collection.tsv              pid, passage
    msmarco-docs.tsv            docid, url, title, body
    queries.SPLIT.tsv           qid, query
    qrels.SPLIT.tsv             qid, 0, pid, grade

Files are told apart by what is in them, not by their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sparse_jax.search.documents.document import Document
from sparse_jax.search.documents.lines import Qrels, head, one_split, rows_of
from sparse_jax.search.documents.result import Reading

__all__ = ["fits", "qrels", "queries", "read"]

_LINES = 20


def fits(path: Path) -> bool:
    """Whether a folder, or a file of one, is such a collection."""
    if path.is_dir():
        return bool(_files(path, "passages") or _files(path, "documents"))
    return _layout(path) in ("passages", "documents")


def _layout(file: Path) -> str | None:
    """passages, documents, queries, qrels or none of these."""
    lines = [line for line in head(file)[:_LINES] if line.strip()]
    cells = [line.split("\t") for line in lines]
    widths = {len(row) for row in cells}
    if len(widths) != 1 or not cells:
        return None
    if widths == {2} and _all(cells, 0, r"\d+"):
        return "queries" if re.match(r"(.*\W)?quer(y|ies)\b", file.name) else "passages"
    if widths == {4} and _all(cells, 3, r"-?\d+") and _all(cells, 1, r"\w+"):
        return "qrels"
    return "documents" if widths == {4} and _all(cells, 1, r"\w+://.*") else None


def _all(cells: Sequence[Sequence[str]], column: int, pattern: str) -> bool:
    return all(re.fullmatch(pattern, row[column].strip()) for row in cells)


def _files(path: Path, layout: str) -> list[Path]:
    names = (file for file in sorted(path.iterdir()) if re.search(r"\.tsv(\.gz)?$", file.name))
    return [file for file in names if file.is_file() and _layout(file) == layout]


def read(path: Path) -> Reading:
    """The passages or documents.

    Raises:
      ValueError: at a row of another width, naming file and line; or if there are none, or both.
    """
    files = [path]
    if path.is_dir():
        files = _files(path, "passages") or _files(path, "documents")
    if not files or _layout(files[0]) not in ("passages", "documents"):
        raise ValueError(f"{path}: holds no table of (id, passage) or (id, url, title, body)")
    documents, empty = [], 0
    for file in files:
        for line, cells in rows_of(file, "\t"):
            if len(cells) not in (2, 4):
                raise ValueError(
                    f"{file}, line {line}: has {len(cells)} cells: must have 2 (id, passage) or 4 "
                    "(id, url, title, body)"
                )
            try:
                identifier, text = cells[0].strip(), cells[-1].strip()
                title, more = (cells[2].strip(), {"url": cells[1]}) if len(cells) == 4 else ("", {})
                documents.append(Document(identifier, text, title, more))
            except ValueError as error:
                raise ValueError(f"{file}, line {line}: {error}") from None
            empty += not (text or title)
    notes = [f"{empty:,} documents have no text: only filters find them"] if empty else []
    return Reading(documents, "msmarco", [], notes)


def queries(path: Path) -> dict[str, str]:
    """Texts of the queries of all splits, by id.

    Raises:
      ValueError: if there are none.
    """
    files = _files(path, "queries") if path.is_dir() else []
    if not files:
        raise ValueError(f"{path}: holds no queries.tsv: evaluate needs queries with answers")
    found = {}
    for file in files:
        for line, cells in rows_of(file, "\t"):
            if len(cells) != 2:
                raise ValueError(f"{file}, line {line}: has {len(cells)} cells: must have 2")
            found[cells[0].strip()] = cells[1].strip()
    return found


def qrels(path: Path, split: str | None) -> Qrels:
    """Judgements of qrels.SPLIT.tsv; the only ones, or `test`, if none is named.

    Raises:
      ValueError: if there is no such split, or a row doesn't fit.
    """
    files = {}
    for file in _files(path, "qrels"):
        files[re.sub(r"^qrels\W?|\.tsv(\.gz)?$", "", file.name) or "all"] = file
    chosen, found = one_split(path, files, split), Qrels()
    for line, cells in rows_of(chosen, None):
        if len(cells) != 4:
            raise ValueError(f"{chosen}, line {line}: has {len(cells)} cells: must have 4")
        found.add(chosen, line, cells[0], cells[2], cells[3])
    return found
