#!/usr/bin/env python3
"""Fine-tune the language model on preferences: a reward model, DPO, a policy gradient.

    python scripts/finetune_preference.py PAIRS.jsonl --json out.json

A line of PAIRS (.gz too) is {"prompt", "chosen", "rejected"}, each a text or a list of messages
{"role", "content"}; without a prompt it is what both answers begin with. Or it is an answer on a
topic, {"question", "title", "qtype", "text"}: then each question's answer is preferred to the
answer to another type of question on the same topic. A tenth of the topics or prompts, by a hash,
is held out and judges; of pairs with one and the same prompt a tenth of the pairs.
Without --checkpoint a language model is trained first, on the answers of the other topics alone.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_jax import lm
from sparse_jax.commands import checks, spending, tuning_base
from sparse_jax.commands.lm.report import unknown
from sparse_jax.commands.report import tell
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked

METHODS = ("reward", "dpo", "rloo")
PROTOCOL = """\
what the figures are, all on held-out topics or prompts:
  win_rate_before     pairs of which the model before tuning gives the chosen answer the higher log
                      probability a token
  win_rate_after      reward: pairs of which it gives the chosen answer the higher reward
                      dpo, rloo: pairs whose chosen answer has the higher implicit reward,
                      log p - log p_reference over the whole answer
  log_prob_win_rate_after  as win_rate_before, of the tuned model
  kl, kl_per_token    mean of log p - log p_reference over answers that the tuned model draws
  perplexity_*        of held-out answers without their questions (at most 50,000 tokens)
  reward_before, reward_after  rloo: mean reward of answers drawn to held-out prompts
log probabilities are exact: the whole vocabulary is normalized. Ties count one half.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=PROTOCOL, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pairs", metavar="PAIRS", help="JSONL file of judgements")
    add("files", nargs="*", metavar="FILE", help="more text to train the language model on")
    add("--method", choices=(*METHODS, "all"), default="all", help="(all)")
    add("--checkpoint", metavar="DIR", help="of train_lm.py: tune this model")
    add("--save-base", metavar="DIR", help="save the base here, for another --checkpoint")
    add("--save", metavar="DIR", help="save the tuned model here, for generate.py and eval_lm.py")
    add("--base-seconds", type=float, metavar="S", help="train the base so long (300)")
    add("--max-seconds", type=float, default=300, metavar="S", help="tune so long a method (300)")
    add("--rows", type=int, help="memory rows of the base (1048576)")
    add("--epochs", type=int, default=2, help="passes over the pairs at most (2)")
    add("--length", type=int, default=32, help="tokens of an answer that count (32)")
    add("--beta", type=float, help="price of leaving the reference (0.1)")
    add("--lr", type=float, help="of DPO and policy gradient (1e-3)")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", metavar="FILE", help="write the results here")
    spending.add_price(parser)
    args = parser.parse_args(argv)
    names = ("base_seconds", "max_seconds", "rows", "epochs", "length", "beta", "lr")
    checks.positive(parser, args, names)
    checks.seeds(parser, args)
    if args.rows is not None:
        checks.rows(parser, args.rows)
    if args.checkpoint and args.files:
        parser.error("FILE trains a base model, --checkpoint names a trained one: give one of them")
    if args.checkpoint and args.save_base:
        parser.error("--save-base saves the base trained here, --checkpoint names one: give one")
    if args.checkpoint:
        reason = "with --checkpoint, which names a trained base"
        checks.no_effect(parser, args, ("rows", "base_seconds"), reason)
    if args.save and args.method == "reward":
        parser.error("--save saves a tuned language model: give --method dpo, rloo or all")
    if args.method == "reward":
        reason = "with --method reward, which tunes no language model"
        checks.no_effect(parser, args, ("beta", "lr"), reason)
    if args.save and args.save_base and Path(args.save).resolve() == Path(args.save_base).resolve():
        parser.error("--save and --save-base name one directory: the base would be lost; give two")
    checks.fill(args, {"base_seconds": 300.0, "rows": 1 << 20, "beta": 0.1, "lr": 1e-3})
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All methods asked for, one after the other, each from the same base."""
    with Interrupt() as stop:
        tuner = tuning_base.start(args, stop)
        wanted = METHODS if args.method == "all" else (args.method,)
        methods: dict[str, Callable[[], dict[str, Any]]] = {
            "reward": tuner.fit_reward,
            "dpo": tuner.fit_dpo,
            "rloo": tuner.fit_rloo,
        }
        if "rloo" in wanted and "reward" not in wanted:
            wanted = ("reward", *wanted)  # it needs a judge
        results = tuner.about()
        for name in wanted:
            if stop.asked:
                print("\ninterrupted: what is missing was not run", flush=True)
                break
            results[name] = methods[name]()
        if args.save:
            lm.save(tuner.tuned(), args.save)
    return results


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        for directory in (args.save, args.save_base):
            checks.check_target(directory, kind="lm")
        with locked(args.save), locked(args.save_base):
            results = run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return 130
    share = unknown(results["unknown_share"])
    for name in METHODS:
        for key, value in results.get(name, {}).items():
            shown = share if key in ("perplexity_before", "perplexity_after") else ""
            print(f"  {name:<7} {key:<24} {value:.4f}{shown}")
    tell(results | spending.spent(args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
