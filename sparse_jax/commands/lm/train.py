#!/usr/bin/env python3
"""Train a language model of a billion parameters on one CPU, from plain text.

Without arguments: on the reference text that every Python carries. On your own text:

    python scripts/train_lm.py book.txt folder/ --test other.txt --max-seconds 1800

The last line is one JSON object; the perplexity in it is exact, over the whole vocabulary and the
whole test text.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparse_jax import lm, optim
from sparse_jax.commands.lm.report import cost, count_parameters, print_table
from sparse_jax.commands.report import tell
from sparse_jax.commands.resuming import check_same_args, fixed_args
from sparse_jax.lm import batching, evaluate, model, training
from sparse_jax.lm import corpus as lm_data
from sparse_jax.optim import rates
from sparse_jax.runtime import checkpoint, loop
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.machine import peak_rss_bytes, sha256

LOOK_EVERY = 50  # steps between looks at the metrics


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="text files (.gz too) or folders of them")
    add("--test", action="append", default=[], metavar="FILE", help="test text; else held out")
    add("--vocabulary", choices=("word", "bpe"), default="word", help="(word)")
    add("--min-count", type=int, default=5, help="words seen less often are unknown (5)")
    add("--bpe-size", type=int, default=32_768, help="ids of the byte-level BPE (32768)")
    add(
        "--rows",
        type=int,
        default=1 << 24,
        metavar="R",
        help="rows of the memory, 64 parameters each; 0 trains the trunk alone (16777216)",
    )
    add(
        "--pairs",
        type=int,
        default=0,
        metavar="M",
        help="slots of a key-value memory in the trunk, looked up by hashing (0 = none)",
    )
    add("--hidden", type=int, default=192, help="width of the trunk (192)")
    add(
        "--no-evidence",
        action="store_true",
        help="leave out the counted followers and recent words: embeddings and trunk only",
    )
    add("--active", type=int, default=1536, metavar="A", help="sampled softmax (1536)")
    add(
        "--batch-size",
        type=int,
        help="tokens a step, in runs of 32; default: 1024, less for small texts",
    )
    add("--epochs", type=int, default=1, help="passes over the text (1)")
    add("--lr", type=float, default=2e-3, help="peak rate of Adam, for all but the memory (2e-3)")
    add("--memory-lr", type=float, default=0.15, help="of the memory's Adagrad (0.15)")
    add("--seed", type=int, default=0, help="(0)")
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help="stop training after this long; the learning rate then ends on time",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop when validation has not improved for N looks, one each tenth of an epoch",
    )
    add("--checkpoint", metavar="DIR", help="save here, every --save-every steps and at the end")
    add("--save-every", type=int, default=5000, metavar="STEPS", help="(5000)")
    add("--resume", action="store_true", help="go on from the last save in --checkpoint")
    add("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    if args.resume and not args.checkpoint:
        parser.error("--resume needs --checkpoint DIR")
    for name in ("min_count", "hidden", "active", "epochs", "save_every", "patience"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if args.batch_size is not None and (args.batch_size < 32 or args.batch_size % 32):
        parser.error(f"--batch-size {args.batch_size}: must be a multiple of 32")
    for name in ("rows", "pairs", "seed"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 0")
    for name in ("lr", "memory_lr"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    return args


def choose_batch_size(train_tokens: int) -> int:
    """The largest of 128, 256, 512 and 1024 that leaves 800 steps to a pass.

    On 99,184 tokens of Python's reference text, one pass at 128, 256 and 1024 ends at a test
    perplexity of 6.64, 6.83 and 7.30.
    """
    return max([128, *(size for size in (256, 512, 1024) if train_tokens >= 800 * size)])


def make_config(args: argparse.Namespace, vocabulary_size: int) -> model.Config:
    """The static sizes."""
    return model.Config(
        vocabulary=vocabulary_size,
        rows=args.rows,
        hidden=args.hidden,
        inner=2 * args.hidden,
        evidence=not args.no_evidence,
        pairs=args.pairs,
    )


class Run:
    """One training run: compiled step, state, and what it has seen."""

    def __init__(self, args: argparse.Namespace, data: lm_data.Data) -> None:
        self.args, self.data = args, data
        self.config = make_config(args, data.vocabulary.size)
        self.length, self.runs = 32, args.batch_size // 32
        self.per_epoch = batching.num_batches(data.train, self.runs, self.length)
        self.total_steps = self.per_epoch * args.epochs
        self.clock, self.tokens = loop.Clock(), 0
        self.history: list[dict[str, float]] = []
        self.tx = optim.rowwise(optax.scale_by_adam())
        self.counts = np.bincount(data.train.tokens, minlength=data.vocabulary.size)
        self.state: Any = None

    def _make_state(self) -> training.LMState:
        key = jax.random.key(self.args.seed)
        return training.init_state(key, self.tx, self.counts, config=self.config)

    def start(self) -> None:
        """Makes the state, or takes up the last checkpoint, and compiles the step."""
        if not (self.args.resume and self._resume()):
            self.state = self._make_state()
        started = time.perf_counter()
        step = training.make_step(
            self.tx,
            active_size=self.args.active,
            learning_rate=self.args.lr,
            memory_learning_rate=self.args.memory_lr,
            config=self.config,
        )
        compiled = jax.jit(step, donate_argnums=0).lower(self.state, next(self._batches(0)))
        self.run_step = compiled.compile()
        self.compile_seconds = time.perf_counter() - started

    def _batches(self, start: int) -> Iterator[training.TrainingBatch]:
        """Batches from a step on, pass after pass; `scale` is for the step to fill in."""
        first, start = divmod(start, self.per_epoch)
        for epoch in itertools.count(first):
            repeated = np.bool_(epoch > 0)
            for batch in batching.batches(
                self.data.train,
                self.runs,
                self.length,
                self.config.history,
                seed=self.args.seed,
                epoch=epoch,
                start=start,
            ):
                yield training.TrainingBatch(*batch, np.float32(0), repeated)
            start = 0

    def _scale(self, step: int, seconds: float) -> float:
        return rates.scale(
            step,
            steps=self.total_steps,
            seconds=seconds,
            max_seconds=self.args.max_seconds,
        )

    def _step(
        self, state: training.LMState, batch: training.TrainingBatch
    ) -> tuple[training.LMState, training.StepMetrics]:
        self.tokens += int(np.sum(batch.since >= 0))
        scale = np.float32(self._scale(self.clock.step, self.clock.now))
        return self.run_step(state, batch._replace(scale=scale))

    def _save(self, state: training.LMState) -> None:
        """Writes a checkpoint."""
        extra = {
            "args": fixed_args(self.args),
            "clock": self.clock.record(),
            "tokens": self.tokens,
            "history": self.history,
        }
        # A state of 5 GB: the one before goes as soon as the new one is whole.
        checkpoint.save(self.args.checkpoint, state, step=self.clock.step, extra=extra, keep=1)

    def _resume(self) -> bool:
        found = checkpoint.restore(self.args.checkpoint, jax.eval_shape(self._make_state))
        if found is None:
            print(f"nothing saved in {self.args.checkpoint} yet: starting from the beginning")
            return False
        self.state, extra = found
        check_same_args(self.args, extra["args"])
        self.clock = loop.Clock(**extra["clock"])
        self.tokens, self.history = extra["tokens"], extra["history"]
        print(f"resumed at step {self.clock.step} of {self.total_steps}")
        return True

    def fit(self) -> bool:
        """Trains until done, out of time, or interrupted; saves in each case.

        Returns:
          Whether Ctrl-C ended it.

        Raises:
          Divergence: if the loss is no longer finite; what was saved before stays.
        """
        bar = tqdm(
            total=self.total_steps,
            initial=self.clock.step,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )

        def look(seen: loop.Look) -> None:
            speed = seen.steps * self.args.batch_size / max(seen.interval, 1e-9)
            known = [h["validation_perplexity"] for h in self.history]
            tail = f", validation {known[-1]:.2f}" if known else ""
            perplexity = np.exp(seen.metrics["loss"])
            bar.set_postfix_str(f"perplexity {perplexity:.2f}{tail}, {speed:,.0f} tokens/s")
            bar.update(seen.steps)

        with bar:
            self.state, reason = loop.train(
                self.state,
                self._step,
                self._batches,
                steps=self.total_steps,
                clock=self.clock,
                max_seconds=self.args.max_seconds,
                interrupt=Interrupt(),
                learning_rate=lambda *at: self.args.lr * self._scale(*at),
                maintain=functools.partial(training.maintain, config=self.config),
                look=look,
                look_every=LOOK_EVERY,
                validate=functools.partial(self._validate, bar),
                validate_every=max(LOOK_EVERY, self.per_epoch // 10 // LOOK_EVERY * LOOK_EVERY),
                save=self._save if self.args.checkpoint else None,
                save_every=self.args.save_every,
            )
        if self.args.checkpoint:
            files = tuple(str(Path(f).resolve()) for f in self.args.files)
            lm.save(self.model(files), self.args.checkpoint)
        if reason == "interrupt":
            where = f", saved in {self.args.checkpoint}" if self.args.checkpoint else ""
            print(f"\ninterrupted at step {self.clock.step} of {self.total_steps}{where}")
        return reason == "interrupt"

    def model(self, files: tuple[str, ...]) -> lm.LanguageModel:
        """The model as it now is, trained on these files."""
        return lm.from_state(
            self.state, vocabulary=self.data.vocabulary, files=files, config=self.config
        )

    def _validate(self, bar: tqdm, state: training.LMState) -> bool:
        """Scores the validation stretches; whether patience has run out."""
        score = evaluate.score(
            state.params,
            state.memory,
            self.data.validation,
            max_batches=20,
            lsh=state.lsh,
            config=self.config,
        )
        self.history.append(
            {
                "step": self.clock.step,
                "seconds": self.clock.seconds,
                "validation_perplexity": score.perplexity,
            }
        )
        seen = [h["validation_perplexity"] for h in self.history]
        if self.args.patience is None or len(seen) - 1 - int(np.argmin(seen)) < self.args.patience:
            return False
        bar.write(f"stopped early: no better validation perplexity in {self.args.patience} looks")
        return True

    def results(self) -> dict[str, Any]:
        """The figures, from the exact score of the whole test text."""
        started = time.perf_counter()
        score = evaluate.score(
            self.state.params,
            self.state.memory,
            self.data.test,
            extra_bits=self.data.spelling_bits,
            lsh=self.state.lsh,
            config=self.config,
        )
        memory = self.state.memory
        return {
            "parameters": count_parameters(self.state),
            "tokens_per_second": self.tokens / max(self.clock.seconds, 1e-9),
            "test_perplexity": score.perplexity,
            "test_bits_per_byte": score.bits_per_byte,
            "peak_rss_bytes": peak_rss_bytes(),
            **cost(self.config, self.args.active, self.args.batch_size),
            "test_tokens": score.tokens,
            "vocabulary": self.config.vocabulary,
            "train_tokens": self.data.train.tokens.size,
            "train_seconds": self.clock.seconds,
            "compile_seconds": self.compile_seconds,
            "test_seconds": time.perf_counter() - started,
            "steps": self.clock.step,
            "epochs": self.clock.step / self.per_epoch,
            "memory_rows_used": None if memory is None else float(jnp.mean(memory.tags > 0)),
            "history": self.history,
            "seed": self.args.seed,
            "weights_sha256": weights_sha256(self.state),
        }


def weights_sha256(state: training.LMState) -> str:
    """Digest of everything trained, the memory's counts included: equal runs have equal ones."""
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.memory))
    return sha256({jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        data = lm_data.load(
            args.files,
            args.test,
            kind=args.vocabulary,
            min_count=args.min_count,
            bpe_size=args.bpe_size,
        )
        args.batch_size = args.batch_size or choose_batch_size(data.train.tokens.size)
        print(
            f"{data.train.tokens.size:,} training tokens in {data.train.num_documents:,} "
            f"documents, {data.test.tokens.size:,} test tokens, "
            f"vocabulary of {data.vocabulary.size:,}",
            flush=True,
        )
        run = Run(args, data)
        run.start()
        run.fit()
        results = run.results()
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(results)
    tell(results, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
