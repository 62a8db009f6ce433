"""How good answers of `sparse-jax search ask` are, on MedQuAD: the table of docs/search.md.

    python scripts/studies/answers.py medquad.jsonl.gz --others cranfield.jsonl debian.jsonl.gz
    python scripts/studies/answers.py medquad.jsonl.gz --split train      # which chose the bound
    python scripts/studies/answers.py medquad.jsonl.gz --model LM --written 300

A question of the split is asked of an index of all documents, whose titles are the topics; neither
questions nor splits are indexed. An answer is compared with three texts:

  own      the document that answers the question in MedQuAD, which the index holds;
  another  the same for questions that two sources answer, with the own document left out of the
           passages: the answer has to come from the other source;
  long     the own document, where those of a topic are joined to one: the place in it is to find.

"lead" are the first words of the first document found, as many as the answer has; "sentence" its
first sentence. Both are judged on the questions that are answered.

Not known should be: questions about topics that an index lacks (a fifth of them, drawn by a hash of
the topic; others of the same name or nearly may be there), and those of other collections (rows of
kind "query" by their text; of others the titles), of which each split has a half. Known should be
the titles of collections without queries, asked of their texts. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sparse_jax import search
from sparse_jax.commands.report import tell
from sparse_jax.data import read_jsonl
from sparse_jax.search import answers
from sparse_jax.search.answers import Answer, answer, answer_from, split
from sparse_jax.summarize.rouge import rouge
from sparse_jax.text.features import normalize
from sparse_jax.text.segments import count_words, cut_words, join_sentences

Row = dict[str, Any]
PASSAGES = 5
BOUNDS = (0.4, 0.5, 0.6, 0.7, 0.8)
OTHERS = 400  # questions of another collection
UNTITLED = 3000  # documents of one, whose titles are asked


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("medquad", metavar="FILE", help="JSON lines of MedQuAD's documents, with questions")
    add("--others", nargs="+", default=[], metavar="FILE", help="JSON lines of other collections")
    add("--split", choices=("train", "test"), default="test", help="(test)")
    add("--sample", type=int, default=2000, help="questions at most (2000)")
    add("--model", metavar="DIR", help="a language model; its written answers are judged, too")
    add("--written", type=int, default=300, help="questions that it writes answers to (300)")
    add("--json", metavar="OUT", help="write the results here")
    return parser.parse_args(argv)


def spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
    """At most so many, evenly spaced."""
    return rows[:: -(-len(rows) // count)] if rows else rows


def fit(documents: Iterable[Row]) -> search.Index:
    """An index of texts by their topics."""
    return search.fit([search.Document(d["id"], d["text"], d["title"]) for d in documents])


def topic(row: Row) -> str:
    """What it is about."""
    return str(row["title"]).lower()


def is_taken_out(row: Row) -> bool:
    """Of a fifth of the topics."""
    return hashlib.sha256(topic(row).encode()).digest()[0] < 51


def joined(documents: Sequence[Row]) -> list[Row]:
    """One document a topic."""
    found = defaultdict(list)
    for row in documents:
        found[topic(row)].append(row["text"])
    return [
        {"id": f"topic {t}", "title": t, "text": "\n\n".join(texts)} for t, texts in found.items()
    ]


def ask(index: search.Index, rows: Sequence[Row], *, without_own: bool = False) -> list[Answer]:
    """Answers to the questions of rows."""
    found = []
    for row in tqdm(rows, disable=None):
        passages = index.search(row["question"], k=PASSAGES + without_own)
        passages = [p for p in passages if not (without_own and p.id == row["id"])][:PASSAGES]
        found.append(answer_from(index, row["question"], passages))
    return found


def judge(rows: Sequence[Row], given: Sequence[Answer]) -> dict[str, Any]:
    """ROUGE of answers and of what begins the first document found; topics."""
    pairs = [(row, one) for row, one in zip(rows, given, strict=True) if one.source is not None]
    texts = [str(row["text"]) for row, _ in pairs]
    firsts = [one.passages[0].document for _, one in pairs]
    told = [one.text for _, one in pairs]
    leads = [cut_words(d.text, count_words(t)) for d, t in zip(firsts, told, strict=True)]
    sentence = [(split(d.text) or [""])[0] for d in firsts]
    sources = [one.passages[one.source or 0].document for _, one in pairs]
    out: dict[str, Any] = {
        "questions": len(rows),
        "answered": len(pairs),
        "words": float(np.mean(list(map(count_words, told)))),
    }
    for name, found in (("source", sources), ("first", firsts)):
        both = [(row, d) for (row, _), d in zip(pairs, found, strict=True)]
        out[f"{name}_is_of_topic"] = share(topic(row) == d.title.lower() for row, d in both)
        out[f"{name}_is_own"] = share(d.id in (row["id"], f"topic {topic(row)}") for row, d in both)
    for name, shown in (("answer", told), ("lead", leads), ("sentence", sentence)):
        out |= rouge(texts, shown, f"{name}_")
    return out | {"error_rouge1": error(texts, told, leads)}


def error(texts: Sequence[str], one: Sequence[str], other: Sequence[str]) -> float:
    """Standard error of the mean difference of ROUGE-1."""
    differences = [
        rouge([t], [a])["rouge1"] - rouge([t], [b])["rouge1"]
        for t, a, b in zip(texts, one, other, strict=True)
    ]
    return float(np.std(differences) / max(len(differences), 1) ** 0.5)


def share(values: Iterable[bool]) -> float:
    """Of those that are true."""
    return float(np.mean(list(values)))


def refused(given: Sequence[float]) -> dict[str, float]:
    """Share that is not known at each bound."""
    return {f"{bound:g}": share(x < bound for x in given) for bound in BOUNDS}


def halved(rows: Sequence[Any], part: str) -> Sequence[Any]:
    """Every second one for each split, and at most `OTHERS`."""
    return spread(rows[part == "test" :: 2], OTHERS)


def has_words(text: Any) -> bool:
    """Whether it can be searched for."""
    return bool(normalize(str(text)).split())


def other_questions(rows: Sequence[Row], part: str) -> Sequence[str]:
    """Of a collection that the index has nothing of."""
    texts = [row["text"] for row in rows if row.get("kind") == "query"]
    texts = texts or [row.get("title", "") for row in rows]
    return halved(list(filter(has_words, texts)), part)


def untitled(rows: Sequence[Row], part: str) -> list[float] | None:
    """Evidence for a collection's titles, asked of its texts alone; None if it has queries."""
    whole = [row for row in rows if has_words(row.get("title", "")) and has_words(row["text"])]
    if not whole or any(row.get("kind") == "query" for row in rows):
        return None
    some = spread(whole, UNTITLED)
    index = fit([row | {"title": ""} for row in some])
    return [answer(index, row["title"], k=PASSAGES).evidence for row in halved(some, part)]


def study_unknown(
    documents: Sequence[Row], rows: Sequence[Row], known: Sequence[Answer], args: argparse.Namespace
) -> dict[str, Any]:
    """What is refused of questions that have an answer, and of questions that have none."""
    index = fit([row for row in documents if not is_taken_out(row)])
    evidence = {"answerable": [one.evidence for one in known]}
    asked: dict[str, Sequence[str]] = {
        "topics taken out": [row["question"] for row in rows if is_taken_out(row)]
    }
    for other in args.others:
        name, found = Path(other).name, [row for _, row in read_jsonl(other)]
        asked[name] = other_questions(found, args.split)
        if (own := untitled(found, args.split)) is not None:
            evidence[f"answerable, titles of {name}"] = own
    for name, questions in asked.items():
        evidence[name] = [answer(index, one, k=PASSAGES).evidence for one in questions]
    out = {name: refused(values) for name, values in evidence.items()}
    for name, shares in out.items():
        print(f"refused of {len(evidence[name])}, {name}: {shares}", flush=True)
    return out


def study_written(
    index: search.Index, rows: Sequence[Row], directory: str, *, without_own: bool
) -> dict[str, Any]:
    """ROUGE of what a model writes; of the answer and of the lead cut to as many words."""
    from sparse_jax.commands.lm.models import load
    from sparse_jax.commands.search.written import complete

    model = load(directory)
    given = ask(index, rows, without_own=without_own)
    pairs = [(row, one) for row, one in zip(rows, given, strict=True) if one.is_known]
    texts = [row["text"] for row, _ in pairs]
    found = [complete(model, one) for _, one in tqdm(pairs, disable=None)]
    written = [join_sentences(one.sentences) for one in found]
    sizes = list(map(count_words, written))
    told = [cut_words(one.text, n) for (_, one), n in zip(pairs, sizes, strict=True)]
    leads = [
        cut_words(one.passages[0].document.text, n)
        for (_, one), n in zip(pairs, sizes, strict=True)
    ]
    out: dict[str, Any] = {"questions": len(pairs), "words": float(np.mean(sizes))}
    out["sources"] = float(np.mean([len(set(one.sources)) for one in found]))
    for name, shown in (("written", written), ("answer", told), ("lead", leads)):
        out |= rouge(texts, shown, f"{name}_")
    return out | {"error_rouge1": error(texts, written, told)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all of it, and prints figures as they come."""
    args = parse_args(argv)
    documents = [row for _, row in read_jsonl(args.medquad) if row["kind"] == "doc"]
    rows = spread([row for row in documents if row["split"] == args.split], args.sample)
    sources = Counter((topic(row), row["qtype"]) for row in documents)
    several = [row for row in rows if sources[topic(row), row["qtype"]] > 1]
    sizes = Counter(map(topic, documents))
    out: dict[str, Any] = {"split": args.split, "bound": answers.MIN_EVIDENCE}

    index = fit(documents)
    known = ask(index, rows)
    parts = {"own": (rows, known), "another": (several, ask(index, several, without_own=True))}
    long = [row for row in rows if sizes[topic(row)] > 1]
    parts["long"] = long, ask(fit(joined(documents)), long)
    for name, (asked, given) in parts.items():
        out[name] = judge(asked, given)
        print(name, *(f"{key} {value:.4g}" for key, value in out[name].items()), sep="\n  ")
    out["refused"] = study_unknown(documents, rows, known, args)
    if args.model:
        for name, asked in (("own", rows), ("another", several)):
            some = spread(asked, args.written)
            found = study_written(index, some, args.model, without_own=name == "another")
            out[f"written_{name}"] = found
    tell(out, args.json)


if __name__ == "__main__":
    main()
