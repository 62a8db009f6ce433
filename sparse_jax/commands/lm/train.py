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
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparse_jax import lm, optim
from sparse_jax.commands import spending
from sparse_jax.commands.checks import check_target
from sparse_jax.commands.lm import options, report
from sparse_jax.commands.report import finite, tell
from sparse_jax.commands.resuming import check_same_args, fixed_args
from sparse_jax.lm import batching, evaluate, model, training
from sparse_jax.lm import corpus as lm_data
from sparse_jax.optim import rates
from sparse_jax.runtime import checkpoint, loop
from sparse_jax.runtime.allocator import keep_freed_memory
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.lock import locked
from sparse_jax.runtime.machine import peak_rss_bytes, sha256

LOOK_EVERY = 50  # steps between looks at the metrics
MUCH_UNKNOWN = 0.1  # share of unknown words from which a note tells what to do
CHECKPOINT = "lm train"  # what a checkpoint of this command calls itself


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return options.parse_args(argv, __doc__)


def choose_batch_size(train_tokens: int) -> int:
    """The largest of 128, 256, 512 and 1024 that leaves 800 steps to a pass.

    On 99,184 tokens of Python's reference text, one pass at 128, 256 and 1024 ends at a test
    perplexity of 6.64, 6.83 and 7.30.
    """
    return max([128, *(size for size in (256, 512, 1024) if train_tokens >= 800 * size)])


class Run:
    """One training run: compiled step, state, and what it has seen."""

    def __init__(self, args: argparse.Namespace, data: lm_data.Data) -> None:
        self.args, self.data = args, data
        self.config = options.make_config(args, data.vocabulary.size)
        self.length, self.runs = 32, args.batch_size // 32
        self.per_epoch = batching.num_batches(data.train, self.runs, self.length)
        self.total_steps = self.per_epoch * args.epochs
        self.clock, self.tokens = loop.Clock(), 0
        self.planned: int | None = None  # passes, once that is known
        self.history: list[dict[str, float]] = []
        self.tx = optim.rowwise(optax.scale_by_adam())
        self.counts = np.bincount(data.train.tokens, minlength=data.vocabulary.size)
        self.state: Any = None

    def _make_state(self) -> training.LMState:
        key = jax.random.key(self.args.seed)
        return training.init_state(key, self.tx, self.counts, config=self.config)

    def start(self) -> None:
        """Makes the state, or takes up the last checkpoint, and compiles the step."""
        if self.args.resume:
            self._resume()
        else:
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
            if epoch and self._passes() <= epoch:
                return
            for batch in batching.batches(
                self.data.train,
                self.runs,
                self.length,
                self.config.history,
                seed=self.args.seed,
                epoch=epoch,
                start=start,
            ):
                yield training.TrainingBatch(*batch, np.float32(0))
            start = 0

    def _passes(self) -> int:
        """Passes that time allows: what half a pass fills is worse.

        Decided once, halfway through the first, so that the rate falls along one line from there.
        """
        step, args = self.clock.step, self.args
        if args.max_seconds is None:
            return args.epochs
        if not self.planned and 2 * step >= self.per_epoch:
            each = max(self.clock.now, 1e-9) * self.per_epoch / step
            begun = -(-step // self.per_epoch)
            self.planned = min(args.epochs, max(int(0.95 * args.max_seconds / each), begun))
            if self.planned < args.epochs:
                tqdm.write(f"time allows {self.planned} of {args.epochs} passes")
        return self.planned or args.epochs

    def _scale(self, step: int, seconds: float) -> float:
        return rates.scale(
            step,
            steps=self.per_epoch * self._passes(),
            seconds=seconds,
            max_seconds=self.args.max_seconds,
        )

    def _step(
        self, state: training.LMState, batch: training.TrainingBatch
    ) -> tuple[training.LMState, training.StepMetrics]:
        if self.clock.step and self.clock.step % self.per_epoch == 0:
            state = training.empty_memory(state)
        self.tokens += int(np.sum(batch.since >= 0))
        scale = np.float32(self._scale(self.clock.step, self.clock.now))
        return self.run_step(state, batch._replace(scale=scale))

    def _save(self, state: training.LMState) -> None:
        """Writes a checkpoint."""
        extra = {
            "kind": CHECKPOINT,
            "args": fixed_args(self.args),
            "data": self.data.record.as_json(),
            "clock": self.clock.record(),
            "tokens": self.tokens,
            "passes": self.planned,
            "history": finite(self.history),
        }
        # A state of 5 GB: the one before goes as soon as the new one is whole.
        checkpoint.save(self.args.checkpoint, state, step=self.clock.step, extra=extra, keep=1)

    def _resume(self) -> None:
        """Takes up the last checkpoint, if it is of this very run."""
        extra = read_checkpoint(self.args.checkpoint)
        differ = lm_data.Record.from_json(extra["data"]).differences(self.data.record)
        if differ:
            raise ValueError(
                f"{self.args.checkpoint} was trained on other data; {'; '.join(differ)}: resume "
                "with the same text, or start anew in another directory"
            )
        if "passes" not in extra:
            raise ValueError(
                f"{self.args.checkpoint} was saved by an earlier version, whose passes shared one "
                "memory: start anew in another directory"
            )
        check_same_args(self.args, model.FORMER | extra["args"])
        found = checkpoint.restore(self.args.checkpoint, jax.eval_shape(self._make_state))
        assert found is not None
        self.state, _ = found
        self.clock = loop.Clock(**extra["clock"])
        self.tokens, self.planned = extra["tokens"], extra["passes"]
        self.history = [{n: as_float(x) for n, x in entry.items()} for entry in extra["history"]]
        print(f"resumed at step {self.clock.step} of {self.total_steps}")

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

        has_validation = self.data.validation.tokens.size > 0

        def look(seen: loop.Look) -> None:
            speed = seen.steps * self.args.batch_size / max(seen.interval, 1e-9)
            known = [h["validation_perplexity"] for h in self.history]
            tail = f", validation {known[-1]:.2f}" if known else ""
            perplexity = evaluate.perplexity(seen.metrics["loss"])
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
                validate=functools.partial(self._validate, bar) if has_validation else None,
                validate_every=max(LOOK_EVERY, self.per_epoch // 10 // LOOK_EVERY * LOOK_EVERY),
                save=self._save if self.args.checkpoint else None,
                save_every=self.args.save_every,
            )
        if self.args.checkpoint:
            lm.save(self.model(), self.args.checkpoint)
        if told := report.unfilled_memory(self.clock.step, self.per_epoch):
            print(told)
        if reason == "interrupt":
            where = f", saved in {self.args.checkpoint}" if self.args.checkpoint else ""
            print(f"\ninterrupted at step {self.clock.step} of {self.total_steps}{where}")
        return reason == "interrupt"

    def model(self) -> lm.LanguageModel:
        """The model as it now is."""
        return lm.from_state(
            self.state,
            vocabulary=self.data.vocabulary,
            record=self.data.record,
            spelling=self.data.spelling,
            config=self.config,
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
        # Of this pass: its first looks find the memory nearly empty.
        begun = (self.clock.step - 1) // self.per_epoch * self.per_epoch
        seen = [h["validation_perplexity"] for h in self.history if h["step"] > begun]
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
            "parameters": report.count_parameters(self.state),
            "tokens_per_second": self.tokens / max(self.clock.seconds, 1e-9),
            "test_perplexity": score.perplexity,
            "test_bits_per_byte": score.bits_per_byte,
            "test_unknown_share": self.data.test.unknown_share,
            "validation_unknown_share": self.data.validation.unknown_share,
            "peak_rss_bytes": peak_rss_bytes(),
            **report.cost(self.config, self.args.active, self.args.batch_size),
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


def read_checkpoint(directory: str) -> dict[str, Any]:
    """What the last checkpoint of this command says of its run.

    Raises:
      ValueError: if there is none, or it is another command's.
    """
    extra = checkpoint.read_extra(directory)
    if extra is None:
        raise ValueError(
            f"{directory} holds no checkpoint of `lm train` to go on from: start without --resume"
        )
    if extra.get("kind") != CHECKPOINT:
        raise ValueError(
            f"{directory} holds a checkpoint of another command: name one that `lm train` saved"
        )
    return extra


def as_float(value: Any) -> Any:
    """A number that JSON holds as `report.finite` wrote it."""
    return float("nan" if value is None else value) if not isinstance(value, int) else value


def load(args: argparse.Namespace) -> lm_data.Data:
    """Reads the texts; tells what there is."""
    data = lm_data.load(
        args.files,
        args.test,
        kind=args.vocabulary,
        min_count=args.min_count,
        bpe_size=args.bpe_size,
    )
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.patience and not data.validation.tokens.size:
        raise ValueError(
            f"--patience {args.patience}: no effect on {data.train.tokens.size:,} tokens, of which "
            "none are left out for validation: give 4,000, or no --patience"
        )
    if data.test.unknown_share > MUCH_UNKNOWN:
        print(
            f"note: {data.test.unknown_share:.0%} of the test tokens are unknown words, so the "
            "perplexity says little: --min-count 1 or --vocabulary bpe knows more",
            file=sys.stderr,
        )
    args.batch_size = args.batch_size or choose_batch_size(data.train.tokens.size)
    print(
        f"{data.train.tokens.size:,} training tokens in {data.train.num_documents:,} "
        f"documents, {data.test.tokens.size:,} test tokens"
        f"{report.unknown(data.test.unknown_share)}, "
        f"vocabulary of {data.vocabulary.size:,}",
        flush=True,
    )
    return data


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    keep_freed_memory()
    try:
        check_target(args.checkpoint, kind="lm")
        if args.resume:
            read_checkpoint(args.checkpoint)  # before anything is read or made
        with locked(args.checkpoint):
            run = Run(args, load(args))
            run.start()
            run.fit()
            results = run.results()
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.print_table(results)
    tell(results | spending.spent(args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
