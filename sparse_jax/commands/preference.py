#!/usr/bin/env python3
"""Fine-tune the language model on preferences: a reward model, DPO, a policy gradient.

    python scripts/finetune_preference.py PAIRS.jsonl --json out.json

A line of PAIRS (.gz too) is {"prompt", "chosen", "rejected"}, or an answer on a topic, {"question",
"title", "qtype", "text"}: then each question's answer is preferred to the answer to another type of
question on the same topic. A tenth of the topics or prompts, by a hash, is held out and judges.
Without --checkpoint a language model is trained first, on the answers of the other topics alone.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from sparse_jax.commands import tuning_run
from sparse_jax.commands.report import tell
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt

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
    add("--base-seconds", type=float, default=300, metavar="S", help="train the base so long (300)")
    add("--max-seconds", type=float, default=300, metavar="S", help="tune so long a method (300)")
    add("--rows", type=int, default=1 << 20, help="memory rows of the base (1048576)")
    add("--epochs", type=int, default=2, help="passes over the pairs at most (2)")
    add("--length", type=int, default=32, help="tokens of an answer that count (32)")
    add("--beta", type=float, default=0.1, help="price of leaving the reference (0.1)")
    add("--lr", type=float, default=1e-3, help="of DPO and policy gradient (1e-3)")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    for name in ("base_seconds", "max_seconds", "rows", "epochs", "length", "beta", "lr"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    if args.checkpoint and args.files:
        parser.error("FILE trains a base model, --checkpoint names a trained one: give one of them")
    if args.checkpoint and args.save_base:
        parser.error("--save-base saves the base trained here, --checkpoint names one: give one")
    if args.save and args.method == "reward":
        parser.error("--save saves a tuned language model: give --method dpo, rloo or all")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All methods asked for, one after the other, each from the same base."""
    with Interrupt() as stop:
        tuner = tuning_run.start(args, stop)
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
            tuner.save(args.save)
    return results


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        results = run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return 130
    for name in METHODS:
        for key, value in results.get(name, {}).items():
            print(f"  {name:<7} {key:<24} {value:.4f}")
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
