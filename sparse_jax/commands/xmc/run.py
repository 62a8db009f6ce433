"""One training run of `train_xmc.py`: compiled functions, state, and what it has seen."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparse_jax import data
from sparse_jax.commands.resuming import check_same_args, fixed_args
from sparse_jax.optim import fused
from sparse_jax.retrieval import hashing, schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.machine import peak_rss_bytes, sha256
from sparse_jax.xmc import accounting, inference, metrics, network
from sparse_jax.xmc import step as training

MAINTAIN_EVERY = 10  # steps between looks at the schedules of re-hash and rebuild


def make_config(
    args: argparse.Namespace, train: data.XmcData, capacity: data.Capacity
) -> training.Config:
    """The static configuration, checked against the data."""
    most_labels = int(np.diff(train.label_offsets).max(initial=1))
    needed = capacity.distinct_labels if args.mode == "shared" else most_labels
    if args.strategy != "dense" and min(args.active, train.num_labels) < needed:
        holder = "batch" if args.mode == "shared" else "point"
        cure = ", or a smaller --batch-size" if args.mode == "shared" else ""
        raise ValueError(
            f"--active {args.active} is too small: a {holder} holds up to {needed} distinct "
            f"labels, which must all be in; use --active {needed} or more{cure}"
        )
    return training.Config(
        active=args.active,
        strategy=args.strategy,
        mode=args.mode,
        loss=args.loss,
        correction=args.correction,
        distinct_features=max(1, capacity.distinct_features),
        max_labels=most_labels,
        index=IndexConfig(
            family=args.hash,
            transform=args.transform,
            num_tables=args.tables,
            num_bits=args.bits,
            max_candidates=args.candidates,
            rehash=schedules.exponential(args.rehash, growth=1.2),
            rebuild=schedules.exponential(10 * args.rehash, growth=1.5),
        ),
    )


class Run:
    """A network on its way. It takes `steps` steps rather than whole epochs, if given."""

    maintain: Callable[[training.TrainState], training.TrainState]

    def __init__(
        self, args: argparse.Namespace, train: data.XmcData, *, steps: int | None = None
    ) -> None:
        self.args, self.train = args, train
        self.steps_per_epoch = data.num_batches(train.num_points, args.batch_size)
        self.total_steps = self.steps_per_epoch * args.epochs if steps is None else steps
        epochs = max(1, -(-self.total_steps // max(self.steps_per_epoch, 1)))
        self.capacity = data.plan_capacity(train, args.batch_size, seed=args.seed, epochs=epochs)
        self.config = self.configure()
        started = time.perf_counter()
        self.compile()
        self.begin(jax.random.key(args.seed))
        self.compile_seconds = time.perf_counter() - started

    def begin(self, key: jax.Array) -> None:
        """First weights, and nothing seen."""
        self.state = self.start(key)
        self.step = 0
        self.train_seconds = 0.0
        self.idle_seconds = 0.0  # at most so long had the steps nothing to work on
        self.history: list[dict[str, float]] = []  # every few steps, for the plot
        self.sums = np.zeros(len(training.StepMetrics._fields))

    def again(self, args: argparse.Namespace, number: int) -> Run:
        """Another network on the same batches, from other weights; compiles nothing anew.

        Args:
          args: of the command line, with what the first run's had but for the checkpoint.
          number: tells networks apart.
        """
        other = copy.copy(self)
        other.args = args
        other.begin(jax.random.fold_in(jax.random.key(args.seed), number))
        return other

    def compile(self) -> None:
        """What the run calls: `start` makes a state, `run_step` and `maintain` move it on."""
        args, train = self.args, self.train
        warmup = min(100, max(1, self.total_steps // 10))
        rate = optax.warmup_cosine_decay_schedule(0.0, args.lr, warmup, max(self.total_steps, 2))
        tx = optax.adam(rate) if args.strategy == "dense" else fused.adam(rate)

        def start(key: jax.Array) -> training.TrainState:
            key_params, key_state = jax.random.split(key)
            params = network.init_params(
                key_params, num_features=train.num_features, num_labels=train.num_labels,
                hidden=args.hidden, dtype=jnp.dtype(args.dtype),
            )  # fmt: skip
            return training.init(key_state, params, tx, config=self.config)

        step = jax.jit(training.make_step(tx, config=self.config), donate_argnums=0)
        maintain = jax.jit(training.make_maintain(config=self.config), donate_argnums=0)
        self.start = jax.jit(start).lower(jax.random.key(0)).compile()
        state = jax.eval_shape(start, jax.random.key(0))
        self.run_step = step.lower(state, next(iter(self.batches(0, 0)))).compile()
        self.maintain = maintain.lower(state).compile()

    def configure(self) -> training.Config:
        """The static configuration."""
        return make_config(self.args, self.train, self.capacity)

    def batches(self, epoch: int, start: int) -> Iterator[data.Batch]:
        """The batches of an epoch from number `start` on."""
        return data.batches(
            self.train, self.args.batch_size, seed=self.args.seed, epoch=epoch,
            capacity=self.capacity, start=start,
        )  # fmt: skip

    def save(self) -> None:
        """Writes a checkpoint, if asked for."""
        if self.args.checkpoint:
            extra = {
                "args": fixed_args(self.args), "step": self.step, "sums": self.sums.tolist(),
                "train_seconds": self.train_seconds, "idle_seconds": self.idle_seconds,
                "history": self.history,
            }  # fmt: skip
            checkpoint.save(self.args.checkpoint, self.state, step=self.step, extra=extra)

    def resume(self) -> None:
        """Takes up the last checkpoint, if there is one."""
        found = checkpoint.restore(self.args.checkpoint, self.state)
        if found is None:
            print(f"nothing saved in {self.args.checkpoint} yet: starting from the beginning")
            return
        self.state, extra = found
        check_same_args(self.args, extra["args"])
        self.step, self.train_seconds = extra["step"], extra["train_seconds"]
        self.idle_seconds = extra["idle_seconds"]
        self.sums, self.history = np.array(extra["sums"]), extra["history"]
        print(f"resumed at step {self.step} of {self.total_steps}")

    def fit(
        self,
        watch: Callable[[], None] | None = None,
        watch_every: int = 0,
        stop: Interrupt | None = None,
    ) -> None:
        """Trains until done, out of time, or interrupted; saves in each case.

        Args:
          watch: called every `watch_every` steps, outside of the training seconds.
          watch_every: steps.
          stop: of a larger job that this is a part of.
        """
        stop = stop or Interrupt()
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=None,
                   dynamic_ncols=True)  # fmt: skip
        pending: list[training.StepMetrics] = []
        with bar, stop:
            clock = time.perf_counter()
            while self.step < self.total_steps and not self._out_of_time(clock, stop):
                epoch, start = divmod(self.step, self.steps_per_epoch)
                for batch in self._timed(data.prefetch(self.batches(epoch, start), 4), pending):
                    self.state, seen = self.run_step(self.state, batch)
                    self.step += 1
                    pending.append(seen)
                    if self.step % MAINTAIN_EVERY == 0:
                        self.state = self.maintain(self.state)
                    if self.step % 25 == 0:
                        clock = self._report(pending, clock, bar)
                    if watch and self.step % watch_every == 0:
                        self._report(pending, clock, bar)
                        watch()
                        clock = time.perf_counter()
                    if self.args.save_every and self.step % self.args.save_every == 0:
                        clock = self._report(pending, clock, bar)
                        self.save()
                        clock = time.perf_counter()
                    if self.step == self.total_steps or self._out_of_time(clock, stop):
                        break
                clock = self._report(pending, clock, bar)
                self.save()
                clock = time.perf_counter()
        if stop.asked:
            saved = f", saved in {self.args.checkpoint}" if self.args.checkpoint else ""
            print(f"\ninterrupted at step {self.step} of {self.total_steps}{saved}")

    def _timed(
        self, batches: Iterator[data.Batch], pending: list[training.StepMetrics]
    ) -> Iterator[data.Batch]:
        """The batches. A wait for one counts as idle if no step was at work any more at its end."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            if not pending or pending[-1].loss.is_ready():  # type: ignore[attr-defined]
                self.idle_seconds += time.perf_counter() - asked
            yield batch

    def _out_of_time(self, clock: float, stop: Interrupt) -> bool:
        spent = self.train_seconds + time.perf_counter() - clock
        return stop.ended or (self.args.max_seconds is not None and spent >= self.args.max_seconds)

    def _report(self, pending: list[training.StepMetrics], clock: float, bar: tqdm) -> float:
        """Waits for the steps so far, adds up what they tell, and moves the bar."""
        if not pending:
            return clock
        values = np.array([[float(x) for x in m] for m in pending])
        now = time.perf_counter()
        self.train_seconds += now - clock
        self.sums += values.sum(axis=0)
        mean = dict(zip(training.StepMetrics._fields, values.mean(axis=0), strict=True))
        self.history.append({
            "step": self.step, "seconds": self.train_seconds,
            "loss": mean["loss"], "p@1": mean["p_at_1"],
        })  # fmt: skip
        rate = len(pending) * self.args.batch_size / max(now - clock, 1e-9)
        bar.set_postfix_str(
            f"loss {mean['loss']:.3f}, P@1 {mean['p_at_1']:.3f}, {rate:,.0f} examples/s"
        )
        bar.update(len(pending))
        pending.clear()
        return now

    def predict(self, test: data.XmcData) -> np.ndarray:
        """The best five labels of each point, int32 [n, 5]."""
        predict = jax.jit(functools.partial(inference.predict_dense, k=5))
        return inference.predict_all(test, lambda b: predict(self.state.params, b), k=5)

    def results(self, test: data.XmcData) -> dict[str, Any]:
        """The figures, evaluated on the whole test set."""
        predicted = self.predict(test)
        inverse = metrics.inverse_propensities(
            self.train.label_offsets, self.train.label_ids, self.train.num_labels
        )
        scores = metrics.evaluate(predicted, test.label_offsets, test.label_ids, inverse)
        return scores | self.costs()

    def costs(self) -> dict[str, Any]:
        """What training took; nothing of the test set."""
        means = dict(zip(training.StepMetrics._fields, self.sums / max(self.step, 1), strict=True))
        counts = self._counts(means)
        dense = accounting.dense_step(counts)
        own = dense if self.args.strategy == "dense" else accounting.sparse_step(counts)
        examples = self.step * self.args.batch_size
        return {
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "examples_per_second": examples / max(self.train_seconds, 1e-9),
            "idle_share": self.idle_seconds / max(self.train_seconds, 1e-9),
            "steps": self.step,
            "active_fraction": counts.active / self.train.num_labels,
            "madds_per_step": own["total"],
            "madds_by_stage": own,
            "dense_madds_per_step": dense["total"],
            "madds_saved": 1 - own["total"] / dense["total"],
            "peak_rss_bytes": peak_rss_bytes(),
            "final_loss": self.history[-1]["loss"] if self.history else None,
            "weights_sha256": sha256(self.state.params),
            "dropped_labels": int(self.sums[training.StepMetrics._fields.index("dropped_labels")]),
            "seed": self.args.seed,
            "strategy": self.args.strategy,
        }

    def _counts(self, means: dict[str, float]) -> accounting.StepCounts:
        shape = accounting.StepCounts(
            batch_size=self.args.batch_size,
            hidden=self.args.hidden,
            num_features=self.train.num_features,
            num_labels=self.train.num_labels,
            feature_entries=means["feature_entries"],
            touched_features=means["touched_features"],
            active=min(self.args.active, self.train.num_labels),
            touched_labels=means["touched_labels"],
        )
        if self.args.strategy == "dense":
            return dataclasses.replace(shape, active=self.train.num_labels)
        if self.args.strategy == "oracle":  # an exact search of all rows finds the candidates
            search = self.train.num_labels * self.args.hidden
            return dataclasses.replace(shape, hash_madds=search)
        index = self.state.index
        if index is None:
            return shape
        rehashed = int(index.rehashed) + int(index.rebuilds) * self.train.num_labels
        return dataclasses.replace(
            shape,
            hash_madds=hashing.madds(index.hash_params),
            bucket_slots=index.tables.num_tables * index.tables.capacity,
            rehashed_rows=rehashed / max(self.step, 1),
        )
