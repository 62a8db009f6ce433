"""What a language model learns from thumbs on its answers: the table of docs/preference.md.

    python scripts/studies/thumbs.py medquad.jsonl.gz --model LM --answers ANSWERS.jsonl --dir DIR

A user with a taste that the models never see judges answers to MedQuAD's test questions: the
completed one and five drawn ones each, of an index of its documents without those on a fifth of the
topics. Both tastes like sentences that name the topic, by the share that hold a word of it; less

  short         words / 60, or
  plain         the share of the sentences with a digit or a bracket

and the user gives a thumb up to answers above the median of their question, a thumb down to the
others, and with a chance of .1 the wrong one. The thumbs go into the index's log as the page's do,
and `search tune` learns of them, once a seed; the seed also decides what the user errs at.

Figures of `search tune`, and, on the held-out questions, how often the taste likes the answer that

  judge         the kept reward model chooses among the six
  drawn         is drawn, any of the five
  shortest      is the shortest of the six
  tuned         the tuned model completes, without the judge

better than the one that the model completes before tuning, a draw counting one half. "taste" is the
share of the held-out pairs of thumbs that the taste itself foresees: more can't be learned;
"length" the share whose liked answer is the shorter one. Answers take most of the time, and are
kept in a file for the next run. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from answers import fit, is_taken_out
from tqdm import tqdm

from sparse_jax import search
from sparse_jax.commands import search as command
from sparse_jax.commands.checks import positive
from sparse_jax.commands.report import tell
from sparse_jax.commands.search.thumb_pairs import interval, pair_up
from sparse_jax.commands.search.written import Author, complete, draw, open_author
from sparse_jax.data import read_jsonl
from sparse_jax.search.answers import answer
from sparse_jax.search.thumbs import FILE, Thumb, Thumbs, read_thumbs, same_question

Row = dict[str, Any]
DRAWN, LEAST = 5, 4  # answers drawn to a question; answers that one has at least
ERROR = 0.1  # of the user
TASTES = ("short", "plain")
NOT_PLAIN = re.compile(r"[\d()]")
SHARES = ("taste", "length", "judge", "drawn", "shortest", "tuned")
NO_TOPIC = frozenset("of the and a in to with syndrome disease type".split())


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("medquad", metavar="FILE", help="JSON lines of MedQuAD's documents, with questions")
    add("--model", required=True, metavar="LM", help="of `sparse-jax lm train`")
    add("--answers", required=True, metavar="FILE", help="answers to judge; made if missing")
    add("--dir", required=True, help="for the index, and the tuned models")
    add("--taste", choices=TASTES, default="short", help="of the user (short)")
    add("--questions", type=int, default=480, help="at most (480)")
    add("--seeds", type=int, default=3, help="runs (3)")
    add("--completed", type=int, default=40, help="questions a run that are completed anew (40)")
    add("--json", metavar="OUT", help="write the results here")
    args = parser.parse_args(argv)
    positive(parser, args, ("questions", "seeds", "completed"))
    return args


def make_index(path: Path, rows: Sequence[Row]) -> None:
    """An index of all documents but those on some topics, where there is none."""
    if not path.exists():
        with fit([row for row in rows if not is_taken_out(row)]) as index:
            index.save(path)


def make_answers(path: Path, rows: Sequence[Row], index: Path, model: str, most: int) -> None:
    """Writes answers to questions that are known, where there are none yet."""
    if path.exists():
        return
    author, out = open_author(model), list[Row]()
    asked = {row["question"].lower(): row for row in rows if row["split"] == "test"}
    with search.load(index, read_only=True) as opened:
        for row in tqdm(list(asked.values())[::3][: 2 * most], disable=None):
            found = answer(opened, row["question"])
            if not found.is_known or len(out) == most:
                continue
            first = complete(author.model, found)
            several = [first, *draw(author.model, found, DRAWN, others=[first])]
            told = [
                {"s": one.sentences, "src": [found.passages[n].id for n in one.sources]}
                | {"text": one.text}
                for one in several
            ]
            if len(told) >= LEAST:
                out.append({"question": row["question"], "title": row["title"], "answers": told})
    path.parent.mkdir(parents=True, exist_ok=True)  # answers took hours
    path.write_text("".join(f"{json.dumps(row)}\n" for row in out), encoding="utf-8")


def words(text: str) -> list[str]:
    """In lower case."""
    return re.findall(r"\w+", text.lower())


def taste(title: str, sentences: Sequence[str], which: str = "short") -> float:
    """How much the user likes an answer on a topic.

    Example:
      >>> round(taste("Flu", ["The flu is short.", "It ends."]), 3)
      0.4
      >>> taste("Flu", ["The flu is short.", "It ends (2 days)."], "plain")
      0.0
    """
    topic = [word for word in words(title) if word not in NO_TOPIC] or words(title)
    names = [any(word in topic for word in words(one)) for one in sentences]
    if which == "plain":
        return float(np.mean(names) - np.mean([bool(NOT_PLAIN.search(one)) for one in sentences]))
    return float(np.mean(names)) - len(words(" ".join(sentences))) / 60


def give_thumbs(index: Path, asked: Sequence[Row], which: str, seed: int) -> None:
    """The user's, as the page keeps them."""
    (index / FILE).unlink(missing_ok=True)
    rng, log = np.random.default_rng(seed), Thumbs(index)
    for row in asked:
        likes = np.array([taste(row["title"], one["s"], which) for one in row["answers"]])
        for one, is_up in zip(row["answers"], likes > np.median(likes), strict=True):
            is_up = bool(is_up != (rng.random() < ERROR))
            log.add(Thumb(row["question"], one["text"], tuple(one["src"]), is_up))
    log.close()


def share(differences: Sequence[float]) -> float:
    """Of those above 0; draws are halves."""
    return float(np.mean((np.sign(differences) + 1) / 2))


def judge_run(
    asked: Sequence[Row], index: Path, tuned: Author, which: str, seed: int, most: int
) -> dict[str, Any]:
    """What the taste says of the answers of a tuned model."""
    by_question = {same_question(row["question"]): row for row in asked}
    test = pair_up(read_thumbs(index), seed=seed).test
    known, shorter = list[float](), list[float]()
    gained: dict[str, list[float]] = {"judge": [], "drawn": [], "shortest": []}
    for pair in test:
        row = by_question[same_question(pair.prompt)]
        likes = {one["text"]: taste(row["title"], one["s"], which) for one in row["answers"]}
        known.append(likes[pair.chosen] - likes[pair.rejected])
        shorter.append(len(words(pair.rejected)) - len(words(pair.chosen)))
        texts = [one["text"] for one in row["answers"]]
        rewards = np.zeros(len(texts))  # as the page does without a judge
        if tuned.judge is not None:
            rewards = tuned.judge.score(tuned.model.vocabulary, row["question"], texts)
        short = min(texts, key=lambda text: len(words(text)))
        for name, chosen in (
            ("judge", [texts[int(np.argmax(rewards))]]),
            ("drawn", texts[1:]),
            ("shortest", [short]),
        ):
            gained[name].append(share([likes[text] - likes[texts[0]] for text in chosen]))
    gained["tuned"] = []
    with search.load(index, read_only=True) as opened:
        for pair in test[:most]:
            row = by_question[same_question(pair.prompt)]
            one = complete(tuned.model, answer(opened, row["question"]))
            both = [taste(row["title"], x, which) for x in (one.sentences, row["answers"][0]["s"])]
            gained["tuned"].append(share([both[0] - both[1]]))
    out: dict[str, Any] = {"taste": share(known), "length": share(shorter)}
    for name, found in gained.items():
        out |= {name: float(np.mean(found))}
        if name != "drawn":  # of several a question
            out[f"{name}_interval"] = interval(out[name], len(found))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study."""
    args = parse_args(argv)
    rows = [row for _, row in read_jsonl(args.medquad) if row.get("kind", "doc") == "doc"]
    place = Path(args.dir)
    index = place / "index"
    make_index(index, rows)
    make_answers(Path(args.answers), rows, index, args.model, args.questions)
    asked = [row for _, row in read_jsonl(args.answers)][: args.questions]
    runs = []
    for seed in range(args.seeds):
        give_thumbs(index, asked, args.taste, seed)
        saved, told = place / f"tuned-{seed}", place / f"tuned-{seed}.json"
        options = ["--model", args.model, "--save", str(saved), "--seed", str(seed)]
        if command.main(["tune", str(index), *options, "--json", str(told)]):
            return 2
        found = json.loads(told.read_text())
        tuned = open_author(str(saved))
        found |= judge_run(asked, index, tuned, args.taste, seed, args.completed)
        print(
            f"  taste {found['taste']:.3f}, judge {found['judge']:.3f}, tuned {found['tuned']:.3f}"
        )
        shutil.rmtree(saved)
        runs.append(found)
    means = {name: float(np.mean([r[name] for r in runs])) for name in runs[0] if _is_share(name)}
    tell({"runs": runs, "means": means}, args.json)
    return 0


def _is_share(name: str) -> bool:
    return name in SHARES or ("win_rate" in name and "interval" not in name)


if __name__ == "__main__":
    raise SystemExit(main())
