"""Make an index of documents, or add to the one in DIR.

PATH is one of these, recognised by what is in it; where two fit, --kind says which.

  files     a folder of .txt, .md, .html, .pdf and .docx, or one file of them; each section (of a
            PDF, each page) is a document, found by the words below its heading
  csv, tsv  a table with a header, parted by commas or semicolons, or by tabs
  jsonl     a JSON object a line
  beir      a folder with corpus.jsonl
  trec      a file or a folder of <DOC> <DOCNO> ...
  msmarco   collection.tsv: id and passage, without a header; or id, url, title, body

Tables may have columns of any name: --id, --title and --text say which is what, where their names
don't. All other columns are metadata, for --where of `search query`. PDF, Word, HTML and Markdown
need: pip install 'sparse_jax[documents]'.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sparse_jax import search
from sparse_jax.commands import checks
from sparse_jax.search import documents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    add = parser.add_argument
    add("dir", metavar="DIR")
    add("file", metavar="PATH")
    add("--kind", choices=documents.KINDS, help="how PATH is laid out (by what is in it)")
    add("--id", metavar="COLUMN", help="of a table: the document's id (id, docid, ...)")
    add("--title", metavar="COLUMN", help="of a table: its title (title, headline, ...)")
    add("--text", metavar="COLUMN", help="of a table: its text (text, body, ...)")
    add(
        "--replace",
        action="store_true",
        help="documents take the place of those that have their ids, instead of being refused; "
        "sections that a file read has no more are deleted",
    )
    add("--seed", type=int, default=0, help="of weights and samples (0)")


def run(args: argparse.Namespace) -> None:
    """Reads, adds, and says what was left out.

    Raises:
      ValueError: if there is no document, or an id is taken.
    """
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be at least 0")
    found = documents.read(args.file, args.kind, id=args.id, title=args.title, text=args.text)
    started = time.perf_counter()
    if (Path(args.dir) / "manifest.json").exists():
        with search.load(args.dir) as index:
            if args.replace:
                index.upsert(found.documents)
                delete_gone(index, found)
            else:
                index.insert(found.documents)
            # Else each command that opens the index would do it again.
            if index.refresh() or not search.can_undo(index):
                index.save()
            count = len(index)
    else:
        checks.check_index_target(args.dir)
        with search.fit(found.documents, config=search.Config(seed=args.seed)) as index:
            index.save(args.dir)
            count = len(index)
    seconds = time.perf_counter() - started
    print(f"{len(found.documents):,} documents added in {seconds:.1f} s; {count:,} in {args.dir}")
    for line in found.report():
        print(line, file=sys.stderr)


def delete_gone(index: search.Index, found: documents.Reading) -> None:
    """Deletes sections, or pages, that the files just read have no more."""
    if found.kind != "files":
        return
    paths = {document.metadata["path"] for document in found.documents}
    now = {document.id for document in found.documents}
    for identifier in search.list_ids(index, where={"path": paths}):
        if identifier not in now:
            index.delete(identifier)
