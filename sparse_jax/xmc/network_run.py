"""Training one network: compiled functions, state, and what it has seen."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import data
from sparse_jax.optim import rates
from sparse_jax.retrieval import hashing
from sparse_jax.runtime import checkpoint, loop
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.machine import sha256
from sparse_jax.xmc import accounting, inference, mach, network, sizes, soft_labels
from sparse_jax.xmc import step as training
from sparse_jax.xmc.negatives import STRATEGIES
from sparse_jax.xmc.network_options import (
    FORMER,
    Options,
    make_config,
    make_optimizer,
    num_outputs,
    peak_rate,
)
from sparse_jax.xmc.progress import Progress, silent

MAINTAIN_EVERY = 10  # steps between looks at the schedules of re-hash and rebuild
LOOK_EVERY = 25  # steps between looks at the metrics


class NetworkRun:
    """A network on its way.

    Args:
      options: what it is.
      points: weighted training points.
      label_weights: float32 [labels] of them: see `soft_labels`; None for ones.
      steps: to take, rather than whole epochs.
      directory: where checkpoints go, after each epoch and at the end; None keeps none.
      save_every: steps between further checkpoints.
      begun: with its first weights; else call `begin` or `resume` before `fit`.
    """

    maintain: Callable[[training.TrainState], training.TrainState]

    def __init__(
        self,
        options: Options,
        points: data.XmcData,
        *,
        label_weights: np.ndarray | None = None,
        steps: int | None = None,
        directory: str | None = None,
        save_every: int | None = None,
        begun: bool = True,
    ) -> None:
        sizes.check(points)
        self.options, self.points = options, points
        self.label_weights = soft_labels.check(points, label_weights)
        self.directory, self.save_every = directory, save_every
        self.steps_per_epoch = data.num_batches(points.num_points, options.batch_size)
        self.total_steps = self.steps_per_epoch * options.epochs if steps is None else steps
        epochs = max(1, -(-self.total_steps // max(self.steps_per_epoch, 1)))
        self.capacity = data.plan_capacity(
            points, options.batch_size, seed=options.seed, epochs=epochs
        )
        self.config = self.configure()
        clock = loop.Clock()
        clock.start()
        self.compile()
        if begun:
            self.begin(jax.random.key(options.seed))
        self.compile_seconds = clock.pause()

    def begin(self, key: jax.Array) -> None:
        """First weights, and nothing seen."""
        self.state = self.start(key)
        self.clock = loop.Clock()
        self.history: list[dict[str, float]] = []  # every few steps, for the plot

    def again(self, number: int, *, directory: str | None = None) -> NetworkRun:
        """Another network on the same batches, from other weights; compiles nothing anew.

        Args:
          number: tells networks apart.
          directory: of its checkpoints.
        """
        other = copy.copy(self)
        other.directory = directory
        other.begin(jax.random.fold_in(jax.random.key(self.options.seed), number))
        return other

    def compile(self) -> None:
        """What the run calls: `start` makes a state, `run_step` and `maintain` move it on."""
        options, points = self.options, self.points
        tx = make_optimizer(options, steps=self.total_steps)

        def start(key: jax.Array) -> training.TrainState:
            key_params, key_state = jax.random.split(key)
            params = network.init_params(
                key_params,
                num_features=points.num_features,
                num_labels=num_outputs(options, points.num_labels),
                hidden=options.hidden,
                dtype=jnp.dtype(options.dtype),
            )
            if self.config.buckets is not None:  # a sum of rows has the variance of one
                params["output"] = mach.scale_first(params["output"], self.config.buckets)
            return training.init(key_state, params, tx, config=self.config)

        self.shapes = jax.eval_shape(start, jax.random.key(0))
        leaves = jax.tree.leaves(self.shapes)
        sizes.check(points, needed=sum(x.size * x.dtype.itemsize for x in leaves))
        step = jax.jit(training.make_step(tx, config=self.config), donate_argnums=0)
        maintain = jax.jit(training.make_maintain(config=self.config), donate_argnums=0)
        self.start = jax.jit(start).lower(jax.random.key(0)).compile()
        self.run_step = step.lower(self.shapes, next(self.batches(0))).compile()
        self.maintain = maintain.lower(self.shapes).compile()

    def configure(self) -> training.Config:
        """The static configuration."""
        return make_config(self.options, self.points, self.capacity)

    def batches(self, first: int) -> Iterator[data.Batch]:
        """The batches from step `first` on, epoch after epoch."""
        epoch, start = divmod(first, self.steps_per_epoch)
        while True:
            yield from data.batches(
                soft_labels.draw(
                    self.points, self.label_weights, seed=self.options.seed, number=epoch
                ),
                self.options.batch_size,
                seed=self.options.seed,
                epoch=epoch,
                capacity=self.capacity,
                start=start,
            )
            epoch, start = epoch + 1, 0

    def save(self, state: training.TrainState) -> None:
        """Writes a checkpoint."""
        assert self.directory is not None
        extra = {
            "options": self._chosen(),
            "data": self._data(),
            "clock": self.clock.record(),
            "history": self.history,
        }
        checkpoint.save(self.directory, state, step=self.clock.step, extra=extra)

    def _chosen(self) -> dict[str, Any]:
        """The options, and what they left to the data: another version may choose otherwise."""
        return dataclasses.asdict(self.options) | {"active": self.config.active}

    def _data(self) -> str:
        """What tells these points from others."""
        return soft_labels.fingerprint(self.points, self.label_weights)

    def resume(self) -> bool:
        """Takes up the last checkpoint; whether there was one.

        Raises:
          ValueError: if it was made with other options, or doesn't fit the data.
        """
        assert self.directory is not None
        saved = checkpoint.read_extra(self.directory)
        if saved is None:
            return False
        was = saved.get("options")
        if isinstance(was, dict):
            was = {**FORMER, **was, "data": saved.get("data")}
        here = {**self._chosen(), "data": self._data()}
        checkpoint.check_same_run(self.directory, was, here)
        vars(self).pop("state", None)  # or there would be two
        found = checkpoint.restore(self.directory, self.shapes)
        assert found is not None
        state, extra = found
        self.state, self.history = state, extra["history"]
        self.clock = loop.Clock(**extra["clock"])
        return True

    def fit(
        self,
        *,
        interrupt: Interrupt | None = None,
        max_seconds: float | None = None,
        progress: Progress = silent,
        watch: Callable[[], None] | None = None,
        watch_every: int = 0,
    ) -> str:
        """Trains until done, out of time, or interrupted; saves in each case. Says why it ended.

        Args:
          interrupt: of a larger job that this is a part of.
          max_seconds: of training.
          progress: hears how it goes.
          watch: called every `watch_every` steps, outside of the training seconds.
          watch_every: steps.
        """

        def look(seen: loop.Look) -> None:
            loss, hits = seen.metrics["loss"], seen.metrics["p_at_1"]
            self.history.append(
                {"step": seen.step, "seconds": seen.seconds, "loss": loss, "p@1": hits}
            )
            speed = seen.steps * self.options.batch_size / max(seen.interval, 1e-9)
            note = f"loss {loss:.3f}, P@1 {hits:.3f}, {speed:,.0f} examples/s"
            progress("network", seen.step, self.total_steps, note)

        def validate(state: training.TrainState) -> bool:
            if watch is not None:
                self.state = state
                watch()
            return False

        def due(step: int) -> bool:
            return step % self.steps_per_epoch == 0 or loop.every(self.save_every or 0, step)

        outcome = loop.train(
            self.state,
            self.run_step,
            lambda first: data.prefetch(self.batches(first), 4),
            steps=self.total_steps,
            clock=self.clock,
            max_seconds=max_seconds,
            interrupt=interrupt,
            learning_rate=self._learning_rate,
            maintain=lambda state: self.maintain(state),
            maintain_every=MAINTAIN_EVERY,
            look=look,
            look_every=LOOK_EVERY,
            validate=validate,
            validate_every=watch_every if watch else 0,
            save=self.save if self.directory else None,
            save_every=due,
        )
        self.state = outcome.state
        return outcome.reason

    def _learning_rate(self, step: int, seconds: float) -> float:
        scale = rates.scale(step, steps=max(self.total_steps, 1), shape="cosine")
        return peak_rate(self.options) * scale

    def predict(self, points: data.XmcData, *, k: int = 5) -> np.ndarray:
        """The best k labels of each weighted point as the network stands, int32 [n, k]."""
        way = functools.partial(inference.predict_dense, k=k, buckets=self.config.buckets)
        predict = jax.jit(way)
        return inference.predict_all(points, lambda b: predict(self.state.params, b), k=k)

    def costs(self) -> dict[str, Any]:
        """What training took; nothing of the test set."""
        counts = self._counts(self.clock.means())
        dense = accounting.dense_step(counts)
        whole = STRATEGIES[self.options.strategy].whole_layer
        spent = dense if whole else accounting.sparse_step(counts)
        examples = self.clock.step * self.options.batch_size
        return {
            "train_seconds": self.clock.seconds,
            "compile_seconds": self.compile_seconds,
            "examples_per_second": examples / max(self.clock.seconds, 1e-9),
            "idle_share": self.clock.waiting / max(self.clock.seconds, 1e-9),
            "steps": self.clock.step,
            "active_fraction": counts.active / self.points.num_labels,
            "madds_per_step": spent["total"],
            "madds_by_stage": spent,
            "dense_madds_per_step": dense["total"],
            "madds_saved": 1 - spent["total"] / dense["total"],
            "final_loss": self.history[-1]["loss"] if self.history else None,
            "weights_sha256": sha256(self.state.params),
            "dropped_labels": int(self.clock.sums.get("dropped_labels", 0)),
            "seed": self.options.seed,
            "strategy": self.options.strategy,
        }

    def _counts(self, means: dict[str, float]) -> accounting.StepCounts:
        num_labels, batch_size = self.points.num_labels, self.options.batch_size
        strategy = STRATEGIES[self.options.strategy]
        shape = accounting.StepCounts(
            batch_size=batch_size,
            hidden=self.options.hidden,
            num_features=self.points.num_features,
            num_labels=num_labels,
            feature_entries=means.get("feature_entries", 0.0),
            touched_features=means.get("touched_features", 0.0),
            active=min(self.config.active, num_labels),
            touched_labels=means.get("touched_labels", 0.0),
        )
        if strategy.whole_layer:
            return dataclasses.replace(shape, active=num_labels)
        index = self.state.index
        if index is None:
            scored = 0 if shape.active == num_labels else strategy.scored(batch_size, num_labels)
            return dataclasses.replace(
                shape, hash_madds=-(-scored * self.options.hidden // batch_size)
            )
        rehashed = int(index.rehashed) + int(index.rebuilds) * num_labels
        return dataclasses.replace(
            shape,
            hash_madds=hashing.madds(index.hash_params),
            bucket_slots=index.tables.num_tables * index.tables.capacity,
            rehashed_rows=rehashed / max(self.clock.step, 1),
        )
