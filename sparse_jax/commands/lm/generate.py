#!/usr/bin/env python3
"""Write on from a prompt with a trained language model.

python scripts/generate.py DIR "An anarchist is" --tokens 60 --temperature 0.8 --top-p 0.95
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import numpy as np

from sparse_jax import lm
from sparse_jax.commands import checks
from sparse_jax.commands.lm.models import load
from sparse_jax.lm import generate
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.text.segments import clean

# They are None until given, so that one without effect can be told from one that was left alone.
DEFAULTS = {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "seed": 0, "copies": 1}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="--checkpoint of train_lm.py")
    add("prompts", nargs="*", default=[""], metavar="PROMPT", help="each is written on")
    add("--tokens", type=int, default=80, help="tokens to write (80)")
    add("--temperature", type=float, help="0 takes the likeliest (0.8)")
    add("--top-k", type=int, metavar="K", help="choose from the likeliest K (0: all)")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="choose from the likeliest that make up P (0.95)",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="divide the probability of a token by R for each time that it is among the last 66, "
        "and once more for each token before it that was the same there: loops end at 1.1 to 2 "
        "(1.0: none)",
    )
    add("--unknown", action="store_true", help="let the unknown word be written")
    add("--beams", type=int, default=0, metavar="N", help="search the likeliest text with N beams")
    add("--seed", type=int, help="(0)")
    add("--sparse", action="store_true", help="score only what hash tables name, and popular words")
    add("--copies", type=int, metavar="N", help="write N texts for each prompt")
    args = parser.parse_args(argv)
    checks.at_least(parser, args, 1, ("tokens", "copies"))
    checks.at_least(parser, args, 0, ("beams",))
    drawing = ("temperature", "seed", "copies", "sparse")
    if args.beams:
        checks.no_effect(parser, args, drawing, "with --beams, which searches and doesn't draw")
    elif args.temperature == 0:
        names = ("top_k", "top_p", "seed", "copies")
        reason = "with --temperature 0, which takes the likeliest"
        checks.no_effect(parser, args, names, reason, neutral=DEFAULTS | {"top_p": 1.0})
    elif args.top_k == 1:
        names = ("temperature", "top_p", "seed", "copies")
        reason = "with --top-k 1, which takes the likeliest"
        checks.no_effect(parser, args, names, reason, neutral=DEFAULTS | {"top_p": 1.0})
    checks.fill(args, DEFAULTS)
    checks.seeds(parser, args)
    try:
        args.how = generate.Sampling(
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            repetition_penalty=args.repetition_penalty,
            unknown=args.unknown,
        )
    except ValueError as error:
        name, _, rest = str(error).partition(" = ")
        parser.error(f"{checks.flag(name)} {rest}")
    return args


def write(args: argparse.Namespace, language_model: lm.LanguageModel) -> None:
    """Prints the texts: one as it is written, several when they are done."""
    how = args.how
    model = language_model.params, language_model.memory
    prompts = [
        language_model.vocabulary.encode(clean(p)) for p in args.prompts for _ in range(args.copies)
    ]
    if args.beams:
        for prompt in prompts:
            found = generate.beam_search(
                *model,
                prompt,
                config=language_model.config,
                tokens=args.tokens,
                beams=args.beams,
                how=how,
                lsh=language_model.lsh,
            )
            score, tokens = found[0]
            text = language_model.vocabulary.decode([*prompt, *tokens])
            print(f"{text}\n  (log p {score:.2f}, best of {len(found)} beams)\n")
        return
    stream = generate.stream(
        *model,
        prompts,
        config=language_model.config,
        how=how,
        seed=args.seed,
        head=generate.make_head(language_model) if args.sparse else None,
        lsh=language_model.lsh,
    )
    written: list[np.ndarray] = []
    shown = ""
    started = time.perf_counter()
    for chosen in itertools.islice(stream, args.tokens):
        if not written:
            first = time.perf_counter()  # compiling is over
        written.append(chosen)
        if len(prompts) == 1:
            shown = _show(language_model.vocabulary, prompts[0], written, shown)
    ended = time.perf_counter()
    if len(prompts) > 1:
        for i, prompt in enumerate(prompts):
            print(
                language_model.vocabulary.decode([*prompt, *(w[i] for w in written)]),
                end="\n\n---\n\n",
            )
    speed = len(prompts) * (len(written) - 1) / max(ended - first, 1e-9)
    print(f"\n  ({speed:,.0f} tokens/s, {first - started:.1f} s for the first)", file=sys.stderr)


def _show(vocabulary: Any, prompt: Any, written: list[np.ndarray], shown: str) -> str:
    """Prints what is new in the text so far; returns all of it."""
    text = vocabulary.decode([*prompt, *(w[0] for w in written)])
    # A character whose bytes are not all there yet isn't final.
    if not text.endswith("\ufffd") and text.startswith(shown):
        print(text[len(shown) :], end="", flush=True)
        return text
    return shown


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        write(args, load(args.directory))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
