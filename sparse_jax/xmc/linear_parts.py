"""Training the linear part and the trees: by each process its share, which the first joins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.label_tree import LabelTree, Svm
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc import label_tree, seen, soft_labels, wide
from sparse_jax.xmc.crew import Crew
from sparse_jax.xmc.network_run import NetworkRun
from sparse_jax.xmc.presets import Preset
from sparse_jax.xmc.progress import Progress
from sparse_jax.xmc.soft_labels import Weighted


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage is given."""

    preset: Preset
    seed: int
    directory: str | None
    resume: bool
    interrupt: Interrupt
    progress: Progress
    on_network: Callable[[NetworkRun], None] | None
    crew: Crew

    def place(self, part: str) -> str | None:
        """Where a part saves its checkpoints."""
        return None if self.directory is None else str(Path(self.directory) / part)


def fit_wide_twice(
    job: Job, points: Weighted, early: Weighted, owners: np.ndarray, counts: dict[str, Any]
) -> tuple[wide.WideModel, wide.WideModel]:
    """(the wide part before its last epoch, trained on `early` alone; after one on all points).

    Args:
      job: what is trained.
      points: all of them.
      early: those that are not held out.
      owners: of `Crew.owners`; only this process's labels are trained.
      counts: gets "wide", of `accounting.whole_training`.
    """
    held = points.points
    own = seen.keep(held, owners[held.label_ids] == job.crew.process)
    model = wide.zeros(own, min_share=job.preset.min_share)
    lengths = np.diff(np.asarray(model.offsets))
    visits = job.crew.total("visits", int(lengths[held.feature_ids].sum(dtype=np.int64)))
    epochs, done = job.preset.epochs(visits), 0
    counts["wide"] = (epochs, lengths)
    directory = job.place("wide")
    fixed = {
        "seed": job.seed,
        "preset": job.preset.about,
        "epochs": epochs,
        "data": None if directory is None else soft_labels.fingerprint(*points),
    }
    if job.resume and directory is not None:
        saved = checkpoint.read_extra(directory)
        if saved is None:
            raise ValueError(f"nothing is saved in {job.directory} yet: start without resuming")
        checkpoint.check_same_run(directory, saved.get("fixed"), fixed)
        found = checkpoint.restore(directory, (model, model))
        assert found is not None
        (before, model), extra = found
        done = extra["epoch"]
        job.progress("wide", done, epochs, f"resumed at epoch {done} of {epochs}")
    plans = ((early.points, range(epochs - 1)), (points.points, (epochs - 1,)))
    capacity = wide.plan(plans, seed=job.seed)

    def run(points: Weighted, model: wide.WideModel, first: int, last: int) -> wide.WideModel:
        def save(model: wide.WideModel, epoch: int) -> None:
            assert directory is not None
            pair = (model if epoch < epochs else before, model)
            extra = {"fixed": fixed, "epoch": epoch}
            checkpoint.save(directory, pair, step=epoch, extra=extra, keep=1)

        return wide.fit(
            points.points,
            model,
            epochs=epochs,
            seed=job.seed,
            label_weights=job.crew.own(points, owners),
            first_epoch=first,
            last_epoch=last,
            capacity=capacity,
            interrupt=job.interrupt,
            progress=job.progress,
            on_epoch=None if directory is None else save,
        )

    if done < epochs:
        model = run(early, model, done, epochs - 1)
        # A copy: the next epoch's first step takes the model's own arrays.
        before = jax.tree.map(jnp.copy, model)
        if not job.interrupt.ended:
            model = run(points, model, max(done, epochs - 1), epochs)
    return before, model


def fit_trees(
    job: Job, count: int, early: Weighted, points: Weighted
) -> dict[int, tuple[LabelTree, float]]:
    """This process's trees by number, each with the products that one pass over it takes.

    The first third learns from `early`, the others from all points. They differ by their seed, and
    grow two at a time: much of the work is one thread's.
    """
    crew, first = job.crew, first_trees(count)
    beside = bool(job.preset.visits)
    own = [n for n in range(count) if crew.tree(n, beside_network=beside) == crew.process]
    trees: dict[int, tuple[LabelTree, float]] = {}

    def one(number: int) -> tuple[LabelTree, float] | None:
        if job.interrupt.ended:
            return None
        tally: list[float] = []
        learns = early if number < first else points
        seed = 10 * job.seed + number
        tree = label_tree.fit(learns.draw(job.seed, number), seed=seed, tally=tally)
        return tree, sum(tally)

    with ThreadPoolExecutor(2) as pool:
        for done, (number, found) in enumerate(zip(own, pool.map(one, own), strict=True), 1):
            job.progress("trees", done, len(own), "")
            if found is not None:
                trees[number] = found
    return trees


def first_trees(count: int) -> int:
    """How many of so many trees learn from the points that are not held out."""
    return -(-count // 3)


def tree_counts(products: list[float]) -> list[tuple[int, float]]:
    """Passes and products of each tree, of `accounting.whole_training`."""
    return [(Svm().iterations, each) for each in products]
