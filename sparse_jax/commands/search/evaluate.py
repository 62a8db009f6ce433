"""Train and score on queries with answers: nDCG@10, P@1 and recall@10, as trec_eval has them.

PATH is a file of JSON lines with answers (see below), or a folder of a collection with queries and
judgements: BEIR's corpus.jsonl, queries.jsonl and qrels/; TREC's documents, topics and qrels; MS
MARCO's collection.tsv, queries.tsv and qrels.tsv.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse_jax import search
from sparse_jax.commands.report import tell
from sparse_jax.search import evaluation, protocols
from sparse_jax.search.evaluation import Judgement

PROTOCOL = """\
protocol:
  Rows {"id", "title", "text"}: each title is a query with one right answer, its own document, among
  all of the file. Titles are neither indexed nor trained on: index and network see the texts alone.
  Rows with a "kind": "doc" rows are indexed by text and title (the topic), nothing else of them;
  rows whose kind ends in "query" are queries, with "rel" or graded "qrels"; a doc's "question" is
  a query of its own group, neither indexed nor trained on. All queries are scored, unless --sample
  is given.
  "_id" stands for "id", and whole numbers for their digits. No ranking holds a document twice.
  Figures are trec_eval's on the run that --run writes: linear gain, log2 discount, judgements above
  0 are answers; of equal scores the largest id comes first, as strings. A judged document that
  isn't there counts as an answer not found. Queries without a word, or without an answer that is
  there, are in neither run nor means; all of this is counted.
  The cold start trains on runs of 4 to 12 words of what is indexed, words dropped at random,
  towards the document they come from. BM25 (k1 1.2, b 0.75, by bm25s) sees the same fields, and
  ranks the same documents.
  --feedback associate: a random half of the distinct (alias, title) pairs is given to
  associate(alias, title), one by one; "told" are the alias queries with these, "held_back" the
  others, "plain" the questions by title. --feedback upvote: half of the topics with several types
  of question; of each, one question is upvoted with its answer; "told" are these questions,
  "same_topic" the other types of question about these topics, "untouched" all other topics'
  questions. Each starts from the index as it was before any feedback.
"""
KINDS = ("jsonl", "beir", "trec", "msmarco")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.epilog = PROTOCOL
    add = parser.add_argument
    add("file", metavar="PATH")
    add("--kind", choices=KINDS, help="how PATH is laid out (by what is in it)")
    add("--split", metavar="NAME", help="which judgements of a collection (test, if several)")
    add("--json", metavar="OUT", help="write the results here")
    add("--run", dest="run_file", metavar="FILE", help="write what was found, as TREC has runs")
    add(
        "--sample",
        type=int,
        metavar="N",
        help="score about N queries of each group, evenly spaced, instead of all",
    )
    add(
        "--feedback",
        action="append",
        default=[],
        choices=("associate", "upvote"),
        help="measure what feedback does as well; repeat for both",
    )
    add("--seed", type=int, default=0, help="of weights and samples (0)")


def check_args(args: argparse.Namespace) -> None:
    """Refuses values before any work.

    Raises:
      ValueError: naming the option.
    """
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be at least 0")
    if args.sample is not None and args.sample < 1:
        raise ValueError(f"--sample {args.sample}: must be at least 1")
    for name, file in (("--json", args.json), ("--run", args.run_file)):
        if file and not Path(file).absolute().parent.is_dir():
            raise ValueError(f"{name} {file}: its folder does not exist")


def run(args: argparse.Namespace) -> None:
    """Trains, scores, and prints figures."""
    check_args(args)
    dataset = evaluation.read_dataset(args.file, kind=args.kind, split=args.split)
    groups = dataset.groups
    judged = {g: spread(dataset.of(g), args.sample) for g in groups}
    asked = [query for queries in judged.values() for query in queries]
    if args.run_file:
        evaluation.check_queries(asked)  # before the work, not after it
    main_group = next((g for g in groups if g != "question"), groups[0])
    print(
        f"{len(dataset.documents):,} documents, {len(dataset.queries):,} queries: "
        + ", ".join(f"{g} {len(dataset.of(g)):,}" for g in groups)
    )
    for line in dataset.counts.lines():
        print(line)
    baseline = evaluation.bm25_baseline(dataset.documents)
    bm25 = {g: score(baseline, q, f"BM25, {g}") for g, q in judged.items()}
    started = time.perf_counter()
    index = search.fit(dataset.documents, config=search.Config(seed=args.seed))
    train_seconds = time.perf_counter() - started
    find = Finder(index)
    hybrid = {g: score(find, q, f"hybrid, {g}") for g, q in judged.items()}
    if args.run_file:
        evaluation.write_run(args.run_file, asked, find.rankings)
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
        **dataclasses.asdict(dataset.counts),
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


class Finder:
    """queries -> ids of the best of each, in trec_eval's order; keeps what it found, for a run."""

    def __init__(self, index: search.Index) -> None:
        self.index = index
        self.rankings: list[list[tuple[str, float]]] = []

    def __call__(self, queries: Sequence[str]) -> list[list[str]]:
        new = []
        for found in self.index.search_batch(queries, k=evaluation.DEPTH):
            order = evaluation.rank([r.id for r in found], [r.score for r in found])
            new.append([(found[place].id, found[place].score) for place in order])
        self.rankings += new
        return [[id for id, _ in ranking] for ranking in new]


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
        before = {g: score(Finder(index), q, f"before, {g}") for g, q in groups.items()}
        index.save(copy)
        seconds = []
        learn = index.associate if kind == "associate" else index.upvote
        for first, second in tqdm(plan.pairs, desc=kind, disable=None):
            started = time.perf_counter()
            learn(first, second)
            seconds.append(time.perf_counter() - started)
        after = {g: score(Finder(index), q, f"after, {g}") for g, q in groups.items()}
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


def score(find: Any, queries: Sequence[Judgement], label: str) -> dict[str, Any]:
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
