"""Answer a question from the documents of the index in DIR.

The search finds passages; the answer is a piece of the one that answers best, word for word, with
the number of its source. Where the passages hold too little of the question, it says that it
doesn't know, and which words they lack.

    sparse-jax search ask DIR "how is SANDO inherited?"
    sparse-jax search ask DIR "how is SANDO inherited?" --where 'year>2005' -k 3
    sparse-jax search ask DIR "how is SANDO inherited?" --model LM

With --model a language model of `sparse-jax lm train` writes a second answer: behind the first
sentence it chooses which sentence of the passages comes next. Each has the number of its source,
and none is the model's own; whether they belong together, the sources say. It reads passages that
hold enough of the question, and these are named first.

--json prints one JSON object for the answers, and behind it one for each passage, as `search query`
has them. Sources are ids; an answer that isn't known is null.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparse_jax import search
from sparse_jax.commands.search.query import add_output_arguments, conditions, show
from sparse_jax.search.answers import Answer, answer

if TYPE_CHECKING:
    from sparse_jax.commands.search.written import Written

NO_MODEL = (
    "no written answer: no language model was given; --model DIR takes one, made by "
    "`sparse-jax lm train TEXTS --checkpoint DIR`"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("question", metavar="QUESTION")
    add_output_arguments(parser, k=5)
    parser.add_argument("--max-words", type=int, default=60, help="of an answer at most (60)")
    parser.add_argument("--model", metavar="DIR", help="let this language model write an answer")


def run(args: argparse.Namespace) -> None:
    """Answers, and prints the answers and their sources."""
    author = None
    if args.model:  # before the search: a wrong one is said at once
        from sparse_jax.commands.search.written import open_author, write

        author = open_author(args.model)
    with search.load(args.dir, read_only=True) as index:
        where = conditions(args.where)
        found = answer(index, args.question, k=args.k, max_words=args.max_words, where=where)
        written = None
        if author is not None and found.is_known:
            (written,) = write(author, found, max_words=args.max_words)
        if args.json:
            print(json.dumps(record(found, written), ensure_ascii=False))
        else:
            told = paragraphs(found, written, args.model)
            print("\n\n".join([*told, *["Passages:"] * bool(found.passages)]))
        show(index, found.passages, as_json=args.json)
    if author is None and found.is_known:
        print(NO_MODEL, file=sys.stderr)


def paragraphs(found: Answer, written: Written | None, model: str | None) -> list[str]:
    """The answers, for people."""
    if found.source is None:
        return [unknown(found)]
    told = [f"{found.text} [{found.source + 1}]"]
    if written is not None:
        read = "".join(f"[{number + 1}]" for number in written.read)
        marked = [f"{one} [{n + 1}]" for one, n in _sentences(written)]
        told.append(f"Written by the model in {model}, out of {read}: {' '.join(marked)}")
    return told


def _sentences(written: Written) -> Iterator[tuple[str, int]]:
    """Each with the place of its passage."""
    return zip(written.sentences, written.sources, strict=True)


def unknown(found: Answer) -> str:
    """What is said where there is no answer.

    Example:
      >>> unknown(Answer("Is it wet?", (), (), None, (), (), 0.0, ()))
      'Not known: no passage was found.'
    """
    if not found.passages:
        return "Not known: no passage was found."
    lacking = f"; it lacks: {', '.join(found.missing)}" if found.missing else ""
    share = f"{found.evidence:.0%}".replace("%", " %")
    return f"Not known: the best passage holds {share} of what the question asks for{lacking}."


def record(found: Answer, written: Written | None) -> dict[str, object]:
    """The answers, for programs."""
    source = None if found.source is None else found.passages[found.source].id
    return {
        "question": found.question,
        "answer": found.text or None,
        "source": source,
        "evidence": round(found.evidence, 4),
        "missing": list(found.missing),
        "written": written
        and {
            "sentences": [
                {"text": text, "source": found.passages[number].id}
                for text, number in _sentences(written)
            ],
            "read": [found.passages[number].id for number in written.read],
        },
    }
