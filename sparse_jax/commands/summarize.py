#!/usr/bin/env python3
"""Summaries of texts: sentences of the text itself, or one line by a model trained on your pairs.

    sparse-jax summarize notes.txt                  its most telling sentences; - is stdin
    sparse-jax summarize train FILE --out DIR       learn from pairs of text and summary
    sparse-jax summarize notes.txt --model DIR      one line
    sparse-jax summarize evaluate FILE --json OUT   train on most pairs, score on the rest

A line of FILE is {"text": …, "title": …}, the title being the summary, or {"source": [sentences],
"target": [summaries]}, of which the first summary counts; "id" if you like. FILE may be gzipped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from sparse_jax import summarize
from sparse_jax.commands import checks
from sparse_jax.commands.report import tell
from sparse_jax.data import plain, read_jsonl
from sparse_jax.runtime import loop
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.runtime.machine import peak_rss_bytes, sha256
from sparse_jax.summarize import ways
from sparse_jax.summarize.rouge import rouge as rouge

EVALUATION = """\
protocol of `evaluate`:
  About 5 % of the pairs are the test set: those whose group has a SHA-256 below 5 % of its range.
  --split package: a pair's group is its id. --split family: packages whose texts begin with the
  same eight words, or whose summaries are equal, are one group, and so is what they link; its name
  is its first id. The model never sees a test pair, nor looks anything up in one.
  ROUGE is rouge-score's F1, without stemming: small letters, runs of letters and digits of any
  script with their accents and vowel signs (of plain English the words are those of rouge-score),
  and where words have no spaces between them, as in Chinese or Thai, each character. "lead" is
  the text's first sentence, "nearest" the summary of the most similar training text, unchanged,
  "extract" sentences of the text, "written" the model's own line. Which of them a model gives is
  chosen in training, on training pairs held out for that; →, and the figures without a name, are
  of the chosen way.
"""
GROUP_WORDS = 8
SHOWN = 20


class Pair(NamedTuple):
    """A text and its summary."""

    id: str
    text: str
    summary: str


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: a file to sum up, unless its first word is a command."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = given[0] if given[:1] and given[0] in ("train", "evaluate") else "show"
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EVALUATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    if command == "show":
        add("file", help="a text, - for standard input; or a command: train, evaluate")
        add("--model", metavar="DIR", help="write one line with this trained model")
        add("--max-words", type=int, help="of an extractive summary (50)")
        args = parser.parse_args(given)
        args.command = command
        checks.at_least(parser, args, 1, ("max_words",))
        if args.model:
            reason = "with --model, which writes one line"
            checks.no_effect(parser, args, ("max_words",), reason)
        checks.fill(args, {"max_words": 50})
        return args
    add("command", choices=(command,))
    add("file", help="JSONL of pairs")
    if command == "train":
        add("--out", required=True, metavar="DIR", help="where the model goes")
    else:
        add("--json", metavar="OUT", help="write the results here")
        add("--split", choices=("package", "family"), default="package", help="(package)")
    add(
        "--neighbours",
        type=int,
        default=3,
        metavar="K",
        help="summaries of similar training texts that are read beside a text; 0 = none (3)",
    )
    add("--epochs", type=int, default=3, help="passes over the pairs (3)")
    add("--seed", type=int, default=0, help="(0)")
    add("--max-seconds", type=float, metavar="S", help="train no longer; the rate ends on time")
    args = parser.parse_args(given)
    checks.at_least(parser, args, 0, ("neighbours",))
    checks.at_least(parser, args, 1, ("epochs",))
    checks.positive(parser, args, ("max_seconds",))
    checks.seeds(parser, args)
    return args


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a JSONL file, all checked."""
    found = []
    for line, row in read_jsonl(path):
        text, summary = row.get("text"), row.get("title")
        if "source" in row and isinstance(row.get("target"), list) and row["target"]:
            text, summary = " ".join(map(str, row["source"])), row["target"][0]
        for name, value in (("text", text), ("title", summary)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(
                    f'{path}, line {line}: no "{name}": must be {{"text": …, "title": …}} or '
                    '{"source": […], "target": […]}, all with words'
                )
        found.append(Pair(str(row.get("id", line)), str(text), str(summary)))
    if not found:
        raise ValueError(f"{path}: no pair in it")
    return found


def groups(pairs: Sequence[Pair], by: str) -> list[str]:
    """The group of each pair, as `EVALUATION` says."""
    if by == "package":
        return [pair.id for pair in pairs]
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    seen: dict[tuple[str, str], int] = {}
    for i, pair in enumerate(pairs):
        start = " ".join(pair.text.lower().split()[:GROUP_WORDS])
        for mark in (("text", start), ("summary", pair.summary.lower())):
            one, other = sorted((root(i), root(seen.setdefault(mark, i))))
            parent[other] = one
    return [pairs[root(i)].id for i in range(len(pairs))]


def divide(pairs: Sequence[Pair], by: str) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, test pairs)."""
    train: list[Pair] = []
    test: list[Pair] = []
    for pair, group in zip(pairs, groups(pairs, by), strict=True):
        digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        (test if place < 0.05 else train).append(pair)
    if not test:
        raise ValueError(f"none of {len(pairs)} pairs falls into the test set: give more")
    return train, test


def learn(pairs: Sequence[Pair], args: argparse.Namespace) -> tuple[summarize.Summarizer, bool]:
    """Trains with a bar: (model, whether Ctrl-C ended it)."""
    stop = Interrupt()
    bar = tqdm(unit="step", disable=None, dynamic_ncols=True, desc="training")

    def look(seen: loop.Look) -> None:
        bar.total = seen.total
        bar.set_postfix_str(f"loss {seen.metrics['loss']:.3f} a word")
        bar.update(seen.steps)

    with bar, stop:
        model = summarize.fit(
            [(p.text, p.summary) for p in pairs],
            seed=args.seed,
            neighbours=args.neighbours,
            epochs=args.epochs,
            max_seconds=args.max_seconds,
            look=look,
            interrupt=stop,
        )
    if stop.asked:
        print("interrupted: going on with what was learned so far", file=sys.stderr)
    return model, stop.asked


def chosen(model: summarize.Summarizer) -> str:
    """Which way the model takes, and why."""
    if not model.scores:
        return f"summaries come {ways.WAYS[model.way][0]}: too few pairs to compare the ways"
    scores = ", ".join(f"{name} {score:.1f}" for name, score in model.scores.items())
    return f"way: {model.way}, the best on held-out pairs (mean ROUGE {scores})"


def train(args: argparse.Namespace) -> None:
    """train FILE --out DIR."""
    checks.check_target(args.out, kind="summarize")
    pairs = read_pairs(args.file)
    started = time.perf_counter()
    with locked(args.out):
        model, _ = learn(pairs, args)
        summarize.save(model, args.out)
    seconds = time.perf_counter() - started
    print(f"{len(pairs):,} pairs in {seconds:.1f} s; the model is in {args.out}")
    print(chosen(model))


def evaluate(args: argparse.Namespace) -> None:
    """evaluate FILE."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f"--json {args.json}: its folder does not exist")  # before, not after
    train_pairs, test_pairs = divide(read_pairs(args.file), args.split)
    print(
        f"{len(train_pairs):,} training pairs, {len(test_pairs):,} test pairs by {args.split}",
        flush=True,
    )
    references = [p.summary for p in test_pairs]
    texts = [p.text for p in test_pairs]
    started = time.perf_counter()
    model, interrupted = learn(train_pairs, args)
    train_seconds = time.perf_counter() - started
    started = time.perf_counter()
    size = 64
    lines: list[str] = []
    for at in tqdm(range(0, len(texts), size), desc="summing up", disable=None):
        lines += model.summarize(texts[at : at + size])
    seconds = time.perf_counter() - started
    results = rouge(references, lines)
    for name, (_, way) in ways.WAYS.items():
        results |= rouge(references, lines if name == model.way else way(model, texts), f"{name}_")
    leaves = {str(i): x for i, x in enumerate(jax.tree.leaves(model.params))}
    shown = list(zip(test_pairs, lines, strict=True))[:: max(1, len(test_pairs) // SHOWN)][:SHOWN]
    samples = [{"id": p.id, "reference": p.summary, "summary": line} for p, line in shown]
    print_table(model, results, samples, train_seconds, 1e3 * seconds / len(test_pairs))
    out = results | {
        "train_seconds": train_seconds,
        "ms_per_summary": 1e3 * seconds / len(test_pairs),
        "train_pairs": len(train_pairs),
        "test_pairs": len(test_pairs),
        "split": args.split,
        "neighbours": args.neighbours,
        "epochs": args.epochs,
        "seed": args.seed,
        "interrupted": interrupted,
        "parameters": sum(x.size for x in leaves.values()),
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_sha256": sha256(leaves),
        "way": model.way,
        "samples": samples,
    }
    tell(out, args.json)


def print_table(
    model: summarize.Summarizer,
    results: dict[str, float],
    samples: list[dict[str, str]],
    seconds: float,
    each: float,
) -> None:
    """The figures and samples, for people."""
    print("\n                                 ROUGE-1  ROUGE-2  ROUGE-L")
    for name, (about, _) in ways.WAYS.items():
        scores = [results[f"{name}_{kind}"] for kind in ("rouge1", "rouge2", "rougeL")]
        print(
            f"{'→' if name == model.way else ' '} {about:<30}"
            + "".join(f"{x:9.2f}" for x in scores)
        )
    print(chosen(model))
    print(f"  training {seconds:.1f} s, {each:.1f} ms a summary\n")
    for sample in samples:
        print("  {id}\n    theirs  {reference}\n    ours    {summary}".format(**sample))
    print()


def show(args: argparse.Namespace) -> None:
    """Sums up one text."""
    if args.file == "-":
        text, replaced = plain.decode_text(sys.stdin.buffer.read(), "standard input")
    else:
        text, replaced = plain.read(args.file)
    if replaced:
        print(f"note: {replaced:,} bytes are no UTF-8 and became U+FFFD", file=sys.stderr)
    if not text.strip():
        raise ValueError(f"{args.file}: nothing in it to sum up")
    if args.model:
        print(summarize.load(args.model).summarize([text])[0])
    else:
        print(summarize.extractive(text, max_words=args.max_words))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    args = parse_args(argv)
    keep_freed_memory()
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "train": train,
        "evaluate": evaluate,
        "show": show,
    }
    try:
        commands[args.command](args)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
