"""Training a network whose rows lie on many shards, and the model that it becomes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax import data
from sparse_jax.data.xmc import fingerprint
from sparse_jax.optim import fused, rates
from sparse_jax.runtime import checkpoint, loop
from sparse_jax.runtime.allocator import release_freed_memory
from sparse_jax.sharding import ShardedRows, gather_to_first, processes, saves
from sparse_jax.sharding import mesh as make_mesh
from sparse_jax.sharding.placing import own_shards
from sparse_jax.xmc import calibration, memory, mixing, sharded_samples, sharded_step
from sparse_jax.xmc.alone import of_params
from sparse_jax.xmc.model import About, Model
from sparse_jax.xmc.progress import Progress, silent
from sparse_jax.xmc.sharded_points import Options, plan, read, seed_of

LOOK_EVERY = 25  # steps between looks at the metrics


def _same_size(was: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether as many points and labels are other ones, or dealt to other shards."""
    return was["data"] != here["data"] and was["data"][0] == here["data"][0]


class ShardedRun:
    """A network on its way. All processes make it, with the same options.

    Args:
      path: of the points.
      options: what the network is.
      directory: where checkpoints go; None keeps none.
      save_every: steps between them, besides the ends of epochs; None: no others.
    """

    def __init__(
        self,
        path: str,
        options: Options,
        *,
        directory: str | None = None,
        save_every: int | None = None,
    ) -> None:
        self.options, self.directory, self.save_every = options, directory, save_every
        self.mesh = make_mesh()
        self.points = read(path, self.mesh, options)
        self.plan = plan(self.points, self.mesh, options)
        processes.agree("plan of the steps", [str(self.plan), options.epochs])
        self.total_steps = self.plan.steps_per_epoch * options.epochs
        rate = rates.cosine(options.learning_rate, steps=self.total_steps)
        self.tx = fused.adam(rate)
        self.state = sharded_step.init(self.tx, self.mesh, config=self.plan.config)
        self.step = sharded_step.make_step(self.tx, self.mesh, config=self.plan.config)
        self.clock = loop.Clock()
        self.last_loss: float | None = None

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What a resumed run must have in common."""
        digest = processes.collect("data", [fingerprint(share) for share in self.points.shares])
        sizes = [self.num_points, self.plan.config.labels.num_rows]
        by_shard = [one for process in digest for one in process]
        return dataclasses.asdict(self.options) | {"data": [sizes, len(by_shard), by_shard]}

    def batches(self, first: int) -> Iterator[data.Batch]:
        """The batches from step `first` on; a shard that has no more points has empty ones."""
        size = self.options.batch_size // self.mesh.size
        epoch, start = divmod(first, self.plan.steps_per_epoch)
        shards = own_shards(self.mesh)
        while True:
            orders = [
                data.epoch_order(
                    share.num_points, seed=seed_of(self.options, shard, self.mesh.size), epoch=epoch
                )
                for share, shard in zip(self.points.shares, shards, strict=True)
            ]
            for number in range(start, self.plan.steps_per_epoch):
                rows = [order[number * size : (number + 1) * size] for order in orders]
                made = [
                    data.make_batch(share, some, size, self.plan.capacity)
                    for share, some in zip(self.points.shares, rows, strict=True)
                ]
                yield sharded_step.place_batches(made, self.mesh)
            epoch, start = epoch + 1, 0

    def save(self, state: sharded_step.State) -> None:
        """Writes a checkpoint, each process its part."""
        assert self.directory is not None
        lies = sharded_step.dealings(self.tx, self.plan.config)
        extra = {  # and no times: they differ
            "about": self.about,
            "step": self.clock.step,
            "held_out": self.points.held_count,
        }
        saves.save(self.directory, state, lies, step=self.clock.step, extra=extra)

    def resume(self) -> bool:
        """Takes up the last checkpoint; whether there was one. It may be of other processes.

        Raises:
          ValueError: if it was made with other options or data, or is damaged.
        """
        assert self.directory is not None
        extra = saves.read_extra(self.directory)
        if extra is None:
            return False
        was, here = dict(extra["about"]), dict(self.about)
        if "held_out" not in extra and self.points.held_count and _same_size(was, here):
            raise ValueError(
                f"{self.directory} was saved by a version that trained on all points, "
                f"{self.points.held_count} of which are held out now to tell what scores mean: "
                "start in a new directory"
            )
        if was["data"][1] != here["data"][1]:  # other shards hold other shares of the same points
            was["data"], here["data"] = was["data"][0], here["data"][0]
            if was["data"] == here["data"] and extra["step"] % self.plan.steps_per_epoch:
                raise ValueError(
                    f"{self.directory} was saved within an epoch: must be resumed with as many "
                    f"shards, {extra['about']['data'][1]}; give --shards"
                )
        checkpoint.check_same_run(self.directory, was, here)
        lies = sharded_step.dealings(self.tx, self.plan.config)
        found = saves.restore(self.directory, self.state, lies, self.mesh)
        assert found is not None
        self.state = found.state
        self.clock = loop.Clock(step=extra["step"])
        return True

    def fit(self, *, progress: Progress = silent) -> None:
        """Trains to the end; nothing in it depends on the clock of one process.

        Raises:
          Divergence: if the loss or the weights are no longer finite.
        """
        shards = self.mesh.size

        def look(seen: loop.Look) -> None:
            self.last_loss = seen.metrics["loss"]
            for name in ("dropped_labels", "overflow_active", "overflow_features"):
                if seen.metrics[name]:
                    raise ValueError(
                        f"{name} = {seen.metrics[name]:g} a step: must be 0; a plan that was made "
                        "for these points should hold them all: report this"
                    )
            speed = seen.steps * self.options.batch_size / max(seen.interval, 1e-9)
            note = f"loss {seen.metrics['loss']:.3f}, {speed:,.0f} examples/s, {shards} shards"
            progress("network", seen.step, self.total_steps, note)

        def due(step: int) -> bool:
            whole = step % self.plan.steps_per_epoch == 0
            return whole or loop.every(self.save_every or 0, step)

        outcome = loop.train(
            self.state,
            self.step,
            lambda first: data.prefetch(self.batches(first), 2),
            steps=self.total_steps,
            clock=self.clock,
            look=look,
            look_every=LOOK_EVERY,
            save=self.save if self.directory else None,
            save_every=due,
        )
        self.state = outcome.state

    @property
    def num_points(self) -> int:
        """Of all processes, those held out included."""
        return sum(self.points.counts) + self.points.held_count

    @property
    def calibrates(self) -> bool:
        """Whether there are points enough to learn from what scores mean."""
        return self.points.held_count >= calibration.FEW_POINTS

    @property
    def num_weights(self) -> int:
        """Of the whole network."""
        config = self.plan.config
        rows = config.features.num_rows + config.labels.num_rows
        return rows * config.hidden + config.labels.num_rows + config.hidden

    def bytes_per_step(self) -> int:
        """Bytes that a shard sends in a step."""
        return sharded_step.bytes_sent(
            self.plan.config,
            batch_size=self.options.batch_size // self.mesh.size,
            entries=self.plan.capacity.features,
            labels=self.plan.capacity.labels,
        )

    def model(self) -> Model | None:
        """The model on process 0, whole, as `xmc.load` reads it; None on the others, which help.

        Its scores mean chances, as the held-out points of all shards tell them. The run ends with
        it: what training needed is given up, so that a table and its copy are all there is.
        """
        config, params = self.plan.config, dict(self.state.params)
        del self.state
        release_freed_memory()
        hidden_bias = processes.whole(params.pop("hidden_bias"))
        whole = {"hidden_bias": jnp.asarray(hidden_bias)}
        dealt = {
            "output": config.labels,
            "output_bias": config.labels,
            "embedding": config.features,
        }
        for name, dealing in dealt.items():
            table = gather_to_first(ShardedRows(params.pop(name), dealing))
            if table is not None:
                whole[name] = jax.device_put(table)  # shares the table's memory
        held_out = sharded_samples.gather(self.points.held, self.mesh)
        kept = sharded_samples.gather(self.points.kept, self.mesh)
        if held_out is None or kept is None:
            return None
        about = About(
            num_features=config.features.num_rows,
            num_labels=config.labels.num_rows,
            preset="network",
            seed=self.options.seed,
            notes={"points": self.num_points, "calibrated": self.calibrates},
        )
        memory_of_all = memory.keep(kept, seed=self.options.seed)
        model = of_params(whole, about, chosen=self.points.chosen, kept=memory_of_all)
        return mixing.calibrate(model, held_out)
