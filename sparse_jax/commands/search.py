"""Search your own documents, and teach the index what you meant.

    python scripts/search.py index DIR FILE          make an index of a JSONL file, or add to it
    python scripts/search.py query DIR "red apples"  the ten best documents
    python scripts/search.py upvote DIR QUERY ID     this document answers that query
    python scripts/search.py associate DIR A B       A means B
    python scripts/search.py delete DIR ID           take a document out
    python scripts/search.py undo DIR [EVENT]        take feedback back
    python scripts/search.py save DIR                fold the log into a new snapshot
    python scripts/search.py evaluate FILE --json OUT

A line of FILE is {"id": …, "text": …}, with "title" (a strong field) and "metadata" (strings,
numbers, booleans and null to filter by) if you like. The id may be called "_id", and be a whole
number. FILE may be gzipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse_jax import search
from sparse_jax.commands.report import tell
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.search import evaluation, protocols
from sparse_jax.search.documents import check_text
from sparse_jax.search.evaluation import Judgement

PROTOCOL = """\
protocol of `evaluate`:
  Rows {"id", "title", "text"}: each title is a query with one right answer, its own document, among
  all of the file. Titles are neither indexed nor trained on: index and network see the texts alone.
  Rows with a "kind": "doc" rows are indexed by text and title (the topic), nothing else of them;
  rows whose kind ends in "query" are queries, with "rel" or graded "qrels"; a doc's "question" is
  a query of its own group, neither indexed nor trained on. All queries are scored, unless --sample
  is given.
  "_id" stands for "id", and whole numbers for their digits. A judged document that isn't in the
  file is left out, and a query that has no other with it: "missing_answers" and "skipped_queries"
  count them. No ranking holds a document twice.
  The cold start trains on runs of 4 to 12 words of what is indexed, words dropped at random,
  towards the document they come from. BM25 (k1 1.2, b 0.75, by bm25s) sees the same fields, and
  ranks the same documents. Equal scores are ranked in order of the file, for both.
  --feedback associate: a random half of the distinct (alias, title) pairs is given to
  associate(alias, title), one by one; "told" are the alias queries with these, "held_back" the
  others, "plain" the questions by title. --feedback upvote: half of the topics with several types
  of question; of each, one question is upvoted with its answer; "told" are these questions,
  "same_topic" the other types of question about these topics, "untouched" all other topics'
  questions. Each starts from the index as it was before any feedback.
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="search.py",
        description=__doc__,
        epilog=PROTOCOL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, *arguments: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            epilog=PROTOCOL if name == "evaluate" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for argument in arguments:
            command.add_argument(argument)
        return command

    index = add("index", "dir", "file", help="make an index of a JSONL file, or add to it")
    index.add_argument(
        "--replace",
        action="store_true",
        help="documents take the place of those that have their ids, instead of being refused",
    )
    query = add("query", "dir", "query", help="search")
    query.add_argument("-k", type=int, default=10, help="how many documents (10)")
    query.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only documents with this metadata: 1, true and null mean what they mean in JSON, and "
        "the same letters as a string; true is not 1. Repeat a key for one of several values",
    )
    query.add_argument("--explain", action="store_true", help="say what each word added")
    query.add_argument("--json", action="store_true", help="one JSON object a document")
    add("upvote", "dir", "query", "id", help="learn that a document answers a query")
    add("associate", "dir", "source", "target", help="learn that one text means another")
    add("delete", "dir", "id", help="take a document out")
    undo = add("undo", "dir", help="take feedback back")
    undo.add_argument("event", nargs="?", type=int, help="its number; the last one if left out")
    add("save", "dir", help="fold the log into a new snapshot")
    judge = add("evaluate", "file", help="train and score on a file of queries with answers")
    judge.add_argument("--json", metavar="OUT", help="write the results here")
    judge.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="score about N queries of each group, evenly spaced, instead of all",
    )
    judge.add_argument(
        "--feedback",
        action="append",
        default=[],
        choices=("associate", "upvote"),
        help="measure what feedback does as well; repeat for both",
    )
    for command in (index, judge):
        command.add_argument("--seed", type=int, default=0, help="of weights and samples (0)")
    args = parser.parse_args(argv)
    if getattr(args, "seed", 0) < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    if getattr(args, "sample", None) is not None and args.sample < 1:
        parser.error(f"--sample {args.sample}: must be at least 1")
    return args


def documents_of(path: str) -> list[search.Document]:
    """The documents of a JSONL file, all checked."""
    found = []
    for line, row in search.read_jsonl(path):
        unknown = row.keys() - {"id", "_id", "text", "title", "metadata"}
        try:
            if unknown:
                raise ValueError(
                    f"unknown field(s) {sorted(unknown)}: known are id, text, title, metadata"
                )
            fields = {name: value for name, value in row.items() if name != "_id"}
            found.append(search.Document(**{**fields, "id": evaluation.row_id(row)}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not found:
        raise ValueError(f"{path}: no document in it")
    return found


def make_index(args: argparse.Namespace) -> None:
    """index DIR FILE."""
    documents = documents_of(args.file)
    started = time.perf_counter()
    if (Path(args.dir) / "manifest.json").exists():
        with search.load(args.dir) as index:
            (index.upsert if args.replace else index.insert)(documents)
            # Else each command that opens the index would do it again.
            if index.refresh():
                index.save()
            count = len(index)
    else:
        with search.fit(documents, config=search.Config(seed=args.seed)) as index:
            index.save(args.dir)
            count = len(index)
    seconds = time.perf_counter() - started
    print(f"{len(documents):,} documents added in {seconds:.1f} s; {count:,} in {args.dir}")


def ask(args: argparse.Namespace) -> None:
    """query DIR QUERY."""
    where: dict[str, list[Any]] = {}
    for item in args.where:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--where {item}: must be KEY=VALUE")
        where.setdefault(key, []).append(value)
        # Metadata may be numbers, booleans and null: their text means them, too.
        with contextlib.suppress(ValueError):
            parsed = json.loads(value)
            if isinstance(parsed, int | float | bool | None):
                where[key].append(parsed)
    with search.load(args.dir, read_only=True) as index:
        results = index.search(args.query, k=args.k, where=where)
        if results and not any(found.is_matched for found in results):
            print(
                "no document found holds a word of the query: parts of words, and what was "
                "learned, speak for these",
                file=sys.stderr,
            )
        for place, found in enumerate(results, 1):
            words = index.explain(args.query, found.id) if args.explain else []
            if args.json:
                record = {
                    "score": found.score,
                    "matched": found.words,
                    **found.document.record(),
                }
                print(json.dumps(record | ({"words": words} if words else {}), ensure_ascii=False))
                continue
            title = found.document.title or found.document.text[:70]
            print(f"{place:3}  {found.score:6.3f}  {found.id}  {title}")
            if words:
                print("             " + "  ".join(f"{word} {value:+.3f}" for word, value in words))


def change(args: argparse.Namespace) -> None:
    """upvote, associate, delete, undo and save."""
    with search.load(args.dir) as index:
        match args.command:
            case "upvote":
                print(f"learned; undo with: undo {args.dir} {index.upvote(args.query, args.id)}")
            case "associate":
                event = index.associate(args.source, args.target)
                print(f"learned; undo with: undo {args.dir} {event}")
            case "delete":
                index.delete(args.id)
                print(f"deleted {args.id}; {len(index):,} left")
            case "undo":
                print(f"undone: event {index.undo(args.event)}")
            case "save":
                index.save()
                print(f"saved {len(index):,} documents")


def evaluate(args: argparse.Namespace) -> None:
    """evaluate FILE."""
    dataset = evaluation.read_dataset(args.file)
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f"--json {args.json}: its folder does not exist")  # before, not after
    groups = dataset.groups
    judged = {g: spread(dataset.of(g), args.sample) for g in groups}
    main_group = next((g for g in groups if g != "question"), groups[0])
    print(
        f"{len(dataset.documents):,} documents, {len(dataset.queries):,} queries: "
        + ", ".join(f"{g} {len(dataset.of(g)):,}" for g in groups)
    )
    if dataset.missing_answers:
        print(
            f"left out: {dataset.missing_answers:,} judgements of documents that aren't there, "
            f"{dataset.skipped_queries:,} queries without another answer"
        )
    baseline = evaluation.bm25_baseline(dataset.documents)
    bm25 = {g: run(baseline, q, f"BM25, {g}") for g, q in judged.items()}
    started = time.perf_counter()
    index = search.fit(dataset.documents, config=search.Config(seed=args.seed))
    train_seconds = time.perf_counter() - started
    hybrid = {g: run(finder(index), q, f"hybrid, {g}") for g, q in judged.items()}
    evaluation.query_milliseconds(index.search, dataset.of(main_group)[:50])  # compiles first
    times = evaluation.query_milliseconds(index.search, dataset.of(main_group))
    results: dict[str, Any] = {
        **hybrid[main_group],
        **{f"bm25_{name}": value for name, value in bm25[main_group].items()},
        "train_seconds": train_seconds,
        "query_ms": statistics.mean(times),
        "query_ms_median": statistics.median(times),
        "query_ms_p95": statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0],
        "documents": len(dataset.documents),
        "queries": len(judged[main_group]),
        "missing_answers": dataset.missing_answers,
        "skipped_queries": dataset.skipped_queries,
        "group": main_group,
        "groups": {g: hybrid[g] | {f"bm25_{k}": v for k, v in bm25[g].items()} for g in groups},
        "seed": args.seed,
    }
    if args.feedback:
        with tempfile.TemporaryDirectory() as place:
            index.save(place)
            index.close()
            for kind in args.feedback:
                results[kind] = measure_feedback(kind, place, dataset, args)
    print_table(results)
    tell(results, args.json)


def measure_feedback(
    kind: str, place: str, dataset: evaluation.Dataset, args: argparse.Namespace
) -> dict[str, Any]:
    """Scores before and after feedback, on the index saved at `place`; it is left as it was."""
    plan: protocols.Associations | protocols.Upvotes
    plan = (protocols.associations if kind == "associate" else protocols.upvotes)(
        dataset, seed=args.seed
    )
    groups = {n: spread(q, args.sample) for n, q in plan._asdict().items() if n != "pairs"}
    results: dict[str, Any] = {"events": len(plan.pairs)}
    with tempfile.TemporaryDirectory() as copy, search.load(place, read_only=True) as index:
        before = {g: run(finder(index), q, f"before, {g}") for g, q in groups.items()}
        index.save(copy)
        seconds = []
        learn = index.associate if kind == "associate" else index.upvote
        for first, second in tqdm(plan.pairs, desc=kind, disable=None):
            started = time.perf_counter()
            learn(first, second)
            seconds.append(time.perf_counter() - started)
        after = {g: run(finder(index), q, f"after, {g}") for g, q in groups.items()}
    results["event_ms"] = 1e3 * sum(seconds) / len(seconds)
    results["event_ms_max"] = 1e3 * max(seconds)
    for group in groups:
        for name in ("ndcg@10", "p@1"):
            results[f"{group}_{name}"] = [before[group][name], after[group][name]]
        results[f"{group}_queries"] = len(groups[group])
    return results


def spread(queries: Sequence[Judgement], count: int | None) -> Sequence[Judgement]:
    """About `count` of the queries, evenly spaced; all of them for None."""
    return queries if count is None else queries[:: max(len(queries) // count, 1)]


def finder(index: search.Index) -> Any:
    """queries -> ids of the ten best of each."""
    return lambda queries: [[r.id for r in found] for found in index.search_batch(queries, k=10)]


def run(find: Any, queries: Sequence[Judgement], label: str) -> dict[str, Any]:
    """Scores with a progress bar."""
    return evaluation.measure(find, queries, progress=lambda x: tqdm(x, desc=label, disable=None))


def print_table(results: dict[str, Any]) -> None:
    """The figures, for people."""
    for group, scores in results["groups"].items():
        print(f"  {group}")
        for name in ("ndcg@10", "p@1", "recall@10"):
            print(f"    {name:<18}  {scores[name]:.4f}   BM25 {scores['bm25_' + name]:.4f}")
    times = [results[name] for name in ("query_ms", "query_ms_median", "query_ms_p95")]
    print("  ms a query            {:.2f}, half below {:.2f}, 95 % below {:.2f}".format(*times))
    print(f"  indexing, training    {results['train_seconds']:.1f} s")
    for kind in ("associate", "upvote"):
        if kind not in results:
            continue
        print(
            f"  {kind}: {results[kind]['events']:,} events, {results[kind]['event_ms']:.0f} ms each"
        )
        for name, value in results[kind].items():
            if isinstance(value, list):
                print(f"    {name:<24}  {value[0]:.4f} -> {value[1]:.4f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    args = parse_args(argv)
    keep_freed_memory()
    try:
        # What the shell couldn't decode arrives as halves of surrogate pairs.
        for name, value in vars(args).items():
            if isinstance(value, str) and name not in ("dir", "file", "json"):
                check_text(name, value, search.MAX_QUERY)
        commands = {"index": make_index, "query": ask, "evaluate": evaluate}
        commands.get(args.command, change)(args)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
