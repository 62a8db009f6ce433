"""Tune the language model LM by the thumbs that written answers of the index DIR were given.

    sparse-jax serve DIR --model LM                       thumbs on its page are kept in DIR
    sparse-jax search tune DIR --model LM --save TUNED    learns of them
    sparse-jax serve DIR --model TUNED                    and answers as was liked

Of each question, an answer with a thumb up was liked more than one with a thumb down. A quarter of
the questions is held out and judges, by one pair each. Of the other pairs a reward model and, by
direct preference optimization, the language model learn; ordinary text beside them are documents of
the index. The reward model is kept beside the language model, as its judge: of the answer that the
model completes and some that it draws, the one that the judge likes best is shown. It isn't kept
where its interval holds .5, a guess.
`sparse-jax lm preference` takes pairs of other kinds, in a file.

Figures are those of `sparse-jax lm preference --help`, of the held-out questions, with exact 95 %
intervals: the share whose liked answer has

  reward        the higher reward
  before        the higher log probability a token by the model as it was
  after         the higher implicit reward: the log probability that it gained by the tuning
  after, log p  the higher log probability a token by the tuned model

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax import lm, search
from sparse_jax.commands import checks
from sparse_jax.commands.lm.models import load
from sparse_jax.commands.report import tell
from sparse_jax.commands.search.thumb_pairs import ThumbPairs, interval, pair_up
from sparse_jax.commands.tuning_run import PAIRS, Tuner
from sparse_jax.lm import text
from sparse_jax.lm.preference.judge import FOLDER, Judge
from sparse_jax.lm.preference.judge import save as save_judge
from sparse_jax.lm.preference.pairs import Preferences
from sparse_jax.runtime import saved
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.search import thumbs

STEPS = 200  # at least, if that takes no more than eight passes
TEXTS, HELD_OUT_TEXTS = 2000, 300  # documents that stand beside the pairs, and that judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    add = parser.add_argument
    add("dir", metavar="DIR")
    add("--model", required=True, metavar="LM", help="the language model to begin with")
    add("--save", required=True, metavar="TUNED", help="directory for the tuned model")
    add("--epochs", type=int, help=f"passes over the pairs at most (for {STEPS} steps, up to 8)")
    add("--length", type=int, default=80, help="tokens of an answer that count (80)")
    add("--beta", type=float, default=0.1, help="price of leaving the first model (0.1)")
    add("--lr", type=float, default=1e-3, help="(1e-3)")
    add("--max-seconds", type=float, default=300, metavar="S", help="for each model (300)")
    add("--seed", type=int, default=0, help="of which questions are held out, too (0)")
    add("--json", metavar="FILE", help="write the results here")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> None:
    """Tunes, and prints how well held-out thumbs are foreseen."""
    checks.positive(args.parser, args, ("epochs", "length", "beta", "lr", "max_seconds"))
    checks.seeds(args.parser, args)
    checks.check_target(args.save, kind="lm")
    with search.load(args.dir, read_only=True) as index:
        found = pair_up(thumbs.read_thumbs(Path(args.dir)), seed=args.seed)
        texts, held_out = _documents(index, args.seed)
    passes = -(-STEPS * PAIRS // len(found.train))
    checks.fill(args, {"epochs": min(passes, 8)})
    base = load(args.model, mapped=False)
    log = text.read_texts([str(Path(args.dir) / thumbs.FILE)]).sources[0]
    record = dataclasses.replace(base.record, pairs=(*base.record.pairs, log))
    with locked(args.save), Interrupt() as stop:
        data = Preferences(found.train, found.test, texts, held_out, [])
        # Answers are made of the documents' sentences, which the model has mostly learned from.
        tuner = Tuner(args, stop, data, dataclasses.replace(base, record=record), counted=True)
        reward = tuner.fit_reward()
        embed = np.array(tuner.policy.params["embed"])  # which the next method moves
        judge = Judge(tuner.judge, embed, tuner.config.history, args.length)
        dpo = tuner.fit_dpo()
        if stop.asked:
            raise KeyboardInterrupt
        results = _figures(found, reward, dpo)
        lm.save(tuner.tuned(), args.save)
        _keep_judge(judge, Path(args.save), results["reward_win_rate_interval"][0])
    if min(results[f"{name}_interval"][0] for name in ("reward_win_rate", "win_rate_after")) <= 0.5:
        told = "note: an interval after training holds .5, a guess: more thumbs may help"
        print(told, file=sys.stderr)
    tell(results, args.json)


def _keep_judge(judge: Judge, model: Path, low: float) -> None:
    """Keeps a judge beside its model if it is better than a guess, by the end of its interval."""
    place = model / FOLDER
    if low > 0.5:
        of = saved.read_manifest(model)["file"]
        save_judge(dataclasses.replace(judge, of=of), place)
    elif place.exists():  # of the model that was here before
        shutil.rmtree(place)


def _documents(index: search.Index, seed: int) -> tuple[list[str], list[str]]:
    """Texts of documents: to read beside the pairs, and to judge perplexity by."""
    ids = search.list_ids(index)
    order = np.random.default_rng(seed).permutation(len(ids))
    judges = min(HELD_OUT_TEXTS, len(ids) // 2)
    texts = [index.get(ids[i]).text for i in order[: judges + TEXTS]]
    return texts[judges:], texts[:judges]


def _figures(found: ThumbPairs, reward: dict[str, float], dpo: dict[str, float]) -> dict[str, Any]:
    """What is printed and told."""
    count = len(found.test)
    print(
        f"{found.thumbs:,} thumbs on answers to {found.questions:,} questions: "
        f"{len(found.train):,} pairs of {found.train_questions:,} questions to learn from, "
        f"{count:,} questions held out"
    )
    results: dict[str, Any] = {
        "thumbs": found.thumbs,
        "questions": found.questions,
        "train_questions": found.train_questions,
        "train_pairs": len(found.train),
        "test_questions": count,
    }
    rates = {
        "reward": ("reward_win_rate", reward["win_rate_after"]),
        "before": ("win_rate_before", dpo["win_rate_before"]),
        "after": ("win_rate_after", dpo["win_rate_after"]),
        "after, log p": ("log_prob_win_rate_after", dpo["log_prob_win_rate_after"]),
    }
    for shown, (name, rate) in rates.items():
        low, high = interval(rate, count)
        results |= {name: rate, f"{name}_interval": [low, high]}
        print(f"  {shown:<13} win rate {rate:.3f} ({low:.3f} to {high:.3f})")
    kept = ("perplexity_before", "perplexity_after", "kl_per_token", "steps", "seconds")
    results |= {name: dpo[name] for name in kept}
    change = results["perplexity_after"] / results["perplexity_before"] - 1
    print(f"  perplexity of documents {change:+.1%}, {dpo['steps']:.0f} steps")
    return results
