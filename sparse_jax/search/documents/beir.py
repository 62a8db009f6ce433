"""Collections as BEIR has them: corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv with a header."""

from __future__ import annotations

from pathlib import Path

from sparse_jax.data.jsonl import read_jsonl
from sparse_jax.search.documents.document import Document
from sparse_jax.search.documents.lines import Qrels, one_split, rows_of
from sparse_jax.search.documents.result import Reading
from sparse_jax.search.documents.tables import row_id, scalars

__all__ = ["fits", "qrels", "queries", "read"]


def fits(path: Path) -> bool:
    """Whether a folder is such a collection."""
    return path.is_dir() and _file(path, "corpus") is not None


def _file(path: Path, name: str) -> Path | None:
    found = (path / f"{name}.jsonl", path / f"{name}.jsonl.gz")
    return next((file for file in found if file.is_file()), None)


def read(path: Path) -> Reading:
    """The documents of corpus.jsonl.

    Raises:
      ValueError: at a row that doesn't fit, naming file and line.
    """
    file = _file(path, "corpus")
    if file is None:
        raise ValueError(f"{path}: holds no corpus.jsonl: must be a folder as BEIR has them")
    documents, empty = [], 0
    for line, row in read_jsonl(file):
        try:
            metadata = row.get("metadata")
            document = Document(
                row_id(row),
                row.get("text") or "",
                row.get("title") or "",
                scalars(metadata if isinstance(metadata, dict) else {}),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {line}: {error}") from None
        empty += not (document.text.strip() or document.title.strip())
        documents.append(document)
    notes = [f"{empty:,} documents have no text: only filters find them"] if empty else []
    return Reading(documents, "beir", [], notes)


def queries(path: Path) -> dict[str, str]:
    """Texts of queries by id.

    Raises:
      ValueError: if there are none, or one is no text.
    """
    file = _file(path, "queries")
    if file is None:
        raise ValueError(f"{path}: holds no queries.jsonl: evaluate needs queries with answers")
    found = {}
    for line, row in read_jsonl(file):
        try:
            identifier, text = row_id(row), row.get("text") or ""
            if not isinstance(text, str):
                raise ValueError(f"text = {text!r}: must be a string")
        except ValueError as error:
            raise ValueError(f"{file}, line {line}: {error}") from None
        found[identifier] = text
    return found


def qrels(path: Path, split: str | None) -> Qrels:
    """Judgements of qrels/SPLIT.tsv; `test` if there are several and none is named.

    Raises:
      ValueError: if there is no such split, or a row has no grade.
    """
    files = {file.stem: file for file in sorted(path.glob("qrels/*.tsv"))}
    file = one_split(path, files, split)
    found = Qrels()
    for line, cells in rows_of(file, "\t"):
        if line == 1 and cells[-1].strip().casefold() == "score":
            continue
        if len(cells) != 3:
            raise ValueError(
                f"{file}, line {line}: has {len(cells)} cells: must have 3, query-id, corpus-id "
                "and score"
            )
        found.add(file, line, cells[0].strip(), cells[1].strip(), cells[2])
    return found
