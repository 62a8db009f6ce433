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
from sparse_jax.lm import generate
from sparse_jax.runtime.allocator import keep_freed_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="--checkpoint of train_lm.py")
    add("prompts", nargs="*", default=[""], metavar="PROMPT", help="each is written on")
    add("--tokens", type=int, default=80, help="tokens to write (80)")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest (0.8)")
    add("--top-k", type=int, default=0, metavar="K", help="choose from the likeliest K (0: all)")
    add(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="choose from the likeliest that make up P (0.95)",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="multiply log p of recent tokens by R (1.0: none)",
    )
    add("--unknown", action="store_true", help="let the unknown word be written")
    add("--beams", type=int, default=0, metavar="N", help="search the likeliest text with N beams")
    add("--seed", type=int, default=0, help="(0)")
    add("--sparse", action="store_true", help="score only what hash tables name, and popular words")
    add("--copies", type=int, default=1, metavar="N", help="write N texts for each prompt")
    args = parser.parse_args(argv)
    for name in ("tokens", "copies"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.beams < 0:
        parser.error(f"--beams {args.beams}: must be at least 0")
    return args


def write(args: argparse.Namespace, language_model: lm.LanguageModel) -> None:
    """Prints the texts: one as it is written, several when they are done."""
    how = generate.Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        unknown=args.unknown,
    )
    model = language_model.params, language_model.memory
    prompts = [
        language_model.vocabulary.encode(p) for p in args.prompts for _ in range(args.copies)
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
        write(args, lm.load(args.directory))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
