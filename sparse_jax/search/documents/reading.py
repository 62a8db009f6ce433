"""Reading documents: a folder of files, a table, or a collection, recognised by what is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from sparse_jax.search.documents import beir, files, formats, msmarco, tables, trec
from sparse_jax.search.documents.lines import head
from sparse_jax.search.documents.result import Reading

__all__ = ["KINDS", "Reading", "kind_of", "read"]

_LINES = 50


def _is_json(path: Path) -> bool:
    lines = [line.strip() for line in head(path)[:2] if line.strip()]
    if path.name.endswith((".jsonl", ".jsonl.gz", ".ndjson")) and not lines:
        return True
    as_list = path.suffix.lower() == ".json" and bool(lines) and lines[0].startswith("[")
    return as_list or (bool(lines) and bool(re.match(r'\{\s*("|\}|$)', lines[0])))


def _is_table(path: Path, kind: str) -> bool:
    """Whether lines are cut into equally many cells, and the first can be a header."""
    suffixes = {"csv": (".csv",), "tsv": (".tsv", ".tab")}
    lines = [line for line in head(path)[:_LINES] if line.strip()]
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(suffixes[kind]):
        return bool(lines) and not msmarco.fits(path)
    if name.endswith((*suffixes["csv"], *suffixes["tsv"])) or len(lines) < 3 or _is_json(path):
        return False
    if name.endswith(".md") or lines[0].lstrip().startswith("<"):
        return False
    try:
        sign = tables.delimiter_of(lines, tables.DELIMITERS[kind])
    except ValueError:
        return True
    cells = lines[0].split(sign) if sign else []
    return bool(cells) and not any(re.fullmatch(r"\s*[\d.]*\s*", cell) for cell in cells)


def _is_document(path: Path) -> bool:
    """Whether a file is a document by its marks or its name, or a text of no other kind."""
    if path.is_dir():
        return any(trec.layout(file) is None for file in files.may_be_documents(path))
    with open(path, "rb") as opened:
        start = opened.read(8)
    if start.startswith((b"%PDF-", b"PK\3\4")):
        return True
    if trec.fits(path) or msmarco.fits(path) or _is_json(path):
        return False
    known = path.suffix.lower() in formats.SUFFIXES
    return known or (bool(head(path)) and not (_is_table(path, "csv") or _is_table(path, "tsv")))


_FITS: dict[str, Callable[[Path], bool]] = {
    "files": _is_document,
    "csv": lambda path: path.is_file() and _is_table(path, "csv"),
    "tsv": lambda path: path.is_file() and _is_table(path, "tsv"),
    "jsonl": lambda path: path.is_file() and _is_json(path),
    "beir": beir.fits,
    "trec": trec.fits,
    "msmarco": msmarco.fits,
}
KINDS = tuple(_FITS)
"""How documents may be laid out."""
_TABLES = ("csv", "tsv", "jsonl")


def kind_of(path: str | os.PathLike[str]) -> str:
    """How documents are laid out, by what is in the folder or file.

    Args:
      path: of a folder, or a file.

    Returns:
      One of `KINDS`.

    Raises:
      FileNotFoundError: if there is nothing. ValueError: if it is of no kind, or of several.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{place}: is no file and no folder")
    found = [kind for kind, fits in _FITS.items() if fits(place)]
    if len(found) > 1:
        options = ", ".join(f'kind="{kind}" (--kind {kind})' for kind in found)
        raise ValueError(f"{place}: may be {' or '.join(found)}: say which with {options}")
    if not found:
        what = "a folder without documents" if place.is_dir() else "of no kind that is known"
        raise ValueError(
            f"{place}: is {what}: must be one of {', '.join(KINDS)} (see "
            "`sparse_jax.search.documents.read`); say which with kind=NAME (--kind NAME)"
        )
    return found[0]


def read(
    path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    id: str | None = None,
    title: str | None = None,
    text: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Reading:
    """Reads documents.

    ========= =====================================================================================
    kind
    ========= =====================================================================================
    files     a folder of .txt, .md, .html, .pdf and .docx, or one such file; each section (page of
              a PDF) is a document, with its `path` and `heading` (`page`) as metadata
    csv, tsv  a table with a header, cells parted by commas or semicolons, or by tabs
    jsonl     a JSON object a line; a .json file may be a list of them
    beir      a folder with corpus.jsonl
    trec      a file, or a folder of files, of <DOC> <DOCNO> ...
    msmarco   collection.tsv: id and passage without a header; or id, url, title, body
    ========= =====================================================================================

    Args:
      path: of a folder, or a file; text may be gzipped.
      kind: one of `KINDS`; None recognises it by content.
      id: column of a table that is the document's id; None takes one of the usual names, and the
        number of the line where there is none.
      title: column that is its title.
      text: column that is its text. All other columns are metadata.
      progress: called before each file of a folder of documents, with how many were read; what it
        raises ends the reading.

    Returns:
      A `Reading`: the documents, and what was left out. Files of a folder that can't be read are
      named in it.

    Raises:
      FileNotFoundError: if there is nothing. ValueError: if the kind is unknown, none, or one of
        several, an option has no effect, a row of a table doesn't fit, or there is no document.

    Example:
      >>> import pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> _ = (folder / "apples.txt").write_text("Red apples grow on trees.")
      >>> [d.id for d in read(folder).documents]
      ['apples.txt']
    """
    place = Path(path)
    if kind is None:
        kind = kind_of(place)
    elif kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    elif not place.exists():
        raise FileNotFoundError(f"{place}: is no file and no folder")
    columns = tables.Columns(id, title, text)
    given = [name for name, value in columns._asdict().items() if value is not None]
    if given and kind not in _TABLES:
        raise ValueError(
            f"{given[0]} = {getattr(columns, given[0])!r}: has an effect on {', '.join(_TABLES)} "
            f"alone, and {place} is {kind}: leave it out"
        )
    if kind in _TABLES:
        found = tables.read(place, kind, columns)
    elif kind == "files":
        found = files.read(place, progress)
    else:
        readers = {"beir": beir.read, "trec": trec.read, "msmarco": msmarco.read}
        found = readers[kind](place)
    if not found.documents:
        told = "".join(f"; {line.strip()}" for line in found.report()[:5])
        raise ValueError(f"{place}: no document in it{told}")
    return found
