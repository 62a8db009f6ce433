"""Search your own documents, and teach the index what you meant.

    sparse-jax search index DIR PATH          make an index of documents, or add to it
    sparse-jax search query DIR "red apples"  the ten best documents
    sparse-jax search ask DIR "QUESTION"      an answer out of them, and where it stands
    sparse-jax search related DIR ID          documents like this one, or like several
    sparse-jax search upvote DIR QUERY ID     this document answers that query
    sparse-jax search associate DIR A B       A means B
    sparse-jax search delete DIR ID           take a document out
    sparse-jax search undo DIR [EVENT]        take feedback back
    sparse-jax search tune DIR                tune a language model by thumbs on its answers
    sparse-jax search feedback DIR            print what was taught, or teach it another index
    sparse-jax search save DIR                fold the log into a new snapshot
    sparse-jax search evaluate PATH           train and score on queries with answers

PATH is a folder of .txt, .md, .html, .pdf and .docx, a CSV, TSV or JSON line file, or a collection
as BEIR, TREC or MS MARCO have them: see `search index --help`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from sparse_jax.runtime.allocator import keep_freed_memory

# Each is a module here, imported when it is used: a query needs little of the library.
COMMANDS = {
    "index": "make an index of documents, or add to it",
    "query": "search",
    "ask": "answer a question from the documents, with sources",
    "related": "documents like one of the index, or like several",
    "upvote": "learn that a document answers a query",
    "associate": "learn that one text means another",
    "delete": "take a document out",
    "undo": "take feedback back",
    "feedback": "print what was taught, or teach it another index",
    "tune": "tune a language model by thumbs on its answers",
    "save": "fold the log into a new snapshot",
    "evaluate": "train and score on queries with answers",
}
_TEXTS = ("query", "question", "source", "target", "id", "ids")  # what of the arguments is text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, formatter_class=raw, allow_abbrev=False)
        if given[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser.parse_args(given)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    args = parse_args(argv)
    keep_freed_memory()
    try:
        check_texts(args)
        args.run(args)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def check_texts(args: argparse.Namespace) -> None:
    """Refuses what the shell couldn't decode: it arrives as halves of surrogate pairs."""
    from sparse_jax.search.documents import MAX_QUERY, check_text

    for name in _TEXTS:
        given = getattr(args, name, None)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, str):
                check_text(name, value, MAX_QUERY)
