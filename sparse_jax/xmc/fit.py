"""Training a classifier: the linear part, trees over the labels, networks, and their mix."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.weighting import apply as apply_weighting
from sparse_jax.data.weighting import fit as weighting_of
from sparse_jax.ops.label_tree import LabelTree, Svm
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.trees import owned
from sparse_jax.xmc import (
    accounting,
    calibration,
    closed_form,
    copies,
    label_tree,
    memory,
    mixing,
    network,
    seen,
    soft_labels,
    wide,
)
from sparse_jax.xmc.checks import check
from sparse_jax.xmc.model import About, Model, network_parts, over_all
from sparse_jax.xmc.network_run import NetworkRun, Options
from sparse_jax.xmc.presets import Preset
from sparse_jax.xmc.progress import Progress, silent
from sparse_jax.xmc.soft_labels import Weighted

NETWORKS = 2  # that differ by their first weights; in float32 only while they learn
_HELD_OUT = 1 << 20  # the draw of held-out points' labels: no pass of training
LITTLE = 4.0  # a weight beside which a network says so little that a second one changes nothing


def fit(
    points: XmcData,
    *,
    preset: str = "fast",
    seed: int = 0,
    weighting: str = "auto",
    label_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    label_weights: np.ndarray | None = None,
    checkpoint_directory: str | None = None,
    resume: bool = False,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
    on_network: Callable[[NetworkRun], None] | None = None,
) -> Model:
    """Trains a classifier on points with any number of labels each.

    A point without labels is a negative of every label. The data decide all sizes; held-out
    points, at most a twentieth, weigh the parts against each other and say what scores are worth
    as probabilities; then they are learned from, too.

    Args:
      points: training points, as they are read: not weighted.
      preset: how much to spend, one of `presets.PRESETS`.
      seed: of weights, order and samples; one seed gives the same bits at any number of threads.
      weighting: "tfidf" for counts, "none" for values that are weighted already, or "auto" to look
        at the values; see `data.weighting`.
      label_names: [N], for people; kept with the model.
      feature_names: [F], the word of each feature; with them a model can be asked about texts.
      label_weights: float32 [labels], above 0, one for each of `points.label_ids`: a label of
        weight .3 counts as .3 of a yes and .7 of a no; above 1, and None, as 1: see `soft_labels`.
      checkpoint_directory: where what is finished is saved on the way, for `resume`.
      resume: goes on from there; the same data and arguments give the same bits as one run.
      interrupt: ends the training early, at a time limit or Ctrl-C; the model is what there is.
      progress: hears how it goes.
      on_network: is given each network when it is trained.

    Returns:
      A `Model`.

    Raises:
      ValueError: if there is nothing to learn from, an argument is out of range, or names don't
        fit the data.

    Example:
      >>> from sparse_jax import data
      >>> points = data.XmcData(
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), np.ones(8, np.float32),
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), num_features=2, num_labels=2)
      >>> model = fit(points)
      >>> model.num_labels, len(model.encoders)
      (2, 0)
    """
    recipe = check(points, preset, seed, label_names, feature_names)
    interrupt = interrupt or Interrupt()
    started = time.perf_counter()
    chosen = weighting_of(points, weighting)
    weights = soft_labels.check(points, label_weights)
    whole = Weighted(apply_weighting(chosen, points), weights)
    held, rest = _hold_out(whole, recipe.held_out, seed)
    held_out = held.draw(seed, _HELD_OUT)
    job = _Job(recipe, seed, checkpoint_directory, resume, interrupt, progress, on_network)
    about = About(
        num_features=points.num_features,
        num_labels=points.num_labels,
        preset=preset,
        seed=seed,
        label_names=None if label_names is None else tuple(label_names),
        feature_names=None if feature_names is None else tuple(feature_names),
    )
    idf = None if chosen.idf is None else owned(chosen.idf)
    kept = memory.keep(points, seed=seed)
    counts: dict[str, Any] = {}
    with interrupt:
        model = _fit_parts(job, idf, whole, rest, held_out, kept, about, counts)
    notes = {
        "points": points.num_points,
        "train_seconds": round(time.perf_counter() - started, 3),
        **({"stopped_early": True} if interrupt.ended else {}),
        **({"closed_form": counts["chosen"]} if counts.get("chosen") else {}),
        **accounting.whole_training(counts, rest.points),
    }
    about = dataclasses.replace(model.about, notes=notes)
    return dataclasses.replace(model, about=about)


def assemble(
    idf: jax.Array | None,
    linear: wide.WideModel,
    trees: Sequence[LabelTree],
    kept: memory.Memory,
    about: About,
) -> Model:
    """A model of linear parts alone, at the usual weights, not yet calibrated."""
    order = np.lexsort((np.arange(about.num_labels), -np.asarray(linear.bias)))
    encoders, output, output_bias = network_parts(())
    return Model(
        idf=idf,
        wide=linear,
        by_bias=jnp.asarray(np.asarray(order, np.int32)),
        trees=tuple(trees),
        encoders=encoders,
        output=output,
        output_bias=output_bias,
        mix=mixing.start(),
        memory=kept,
        about=about,
    )


def _fit_parts(
    job: _Job,
    idf: jax.Array | None,
    points: Weighted,
    rest: Weighted,
    held_out: XmcData,
    kept: memory.Memory,
    about: About,
    counts: dict[str, Any],
) -> Model:
    """All parts, weighed and calibrated before they have seen the held-out points.

    The wide part sees those in its last epoch alone, and so do all trees but the first ones, which
    stand for all while weights are chosen: to hold them out to the end costs .2 to .5 points of P@1
    on small sets, and 1.2 where a label is seen only a few times. Networks never see them.
    """
    before, linear = _fit_wide_twice(job, points, rest, counts)
    # The points are looked at only where that could buy trees.
    usual = job.preset.trees(points.points)
    more = job.preset.trees(points.points, with_copies=True)
    redundant = not usual and more > 0 and copies.are_usual(held_out, rest.points)
    first, trees = _fit_trees(job, more if redundant else usual, rest, points, counts)
    early = assemble(idf, before, first, kept, about)
    parts: closed_form.Parts = {}
    chosen: dict[str, float] = {}
    if not job.interrupt.ended and held_out.num_points:
        if first and (redundant or job.preset.visits):
            early = mixing.choose_tree_weight(early, held_out)
        if job.preset.visits:
            early = _with_networks(job, early, rest, held_out, counts)
        parts, chosen = _closed_form(job, early, rest, held_out, counts)
    early = mixing.calibrate(closed_form.add(early, parts, chosen), held_out)
    whole = assemble(idf, linear, trees if early.trees else [], kept, about)
    model = closed_form.add(whole, parts, chosen)
    return dataclasses.replace(
        model,
        encoders=early.encoders,
        output=early.output,
        output_bias=early.output_bias,
        mix=early.mix,
    )


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every stage is given."""

    preset: Preset
    seed: int
    directory: str | None
    resume: bool
    interrupt: Interrupt
    progress: Progress
    on_network: Callable[[NetworkRun], None] | None

    def place(self, part: str) -> str | None:
        """Where a part saves its checkpoints."""
        return None if self.directory is None else str(Path(self.directory) / part)


def _hold_out(points: Weighted, most: int, seed: int) -> tuple[Weighted, Weighted]:
    """(held-out points, the rest)."""
    order = np.random.default_rng(seed).permutation(points.points.num_points)
    count = calibration.held_out(order.size, most)
    return points.take(np.sort(order[:count])), points.take(np.sort(order[count:]))


def _fit_wide_twice(
    job: _Job, points: Weighted, early: Weighted, counts: dict[str, Any]
) -> tuple[wide.WideModel, wide.WideModel]:
    """(the wide part before its last epoch, trained on `early` alone; after one on all points)."""
    model = wide.zeros(points.points, min_share=job.preset.min_share)
    epochs, done = job.preset.epochs(points.points, model), 0
    counts["wide"] = (epochs, np.diff(np.asarray(model.offsets)))
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
            label_weights=points.weights,
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


def _fit_trees(
    job: _Job, count: int, rest: Weighted, points: Weighted, counts: dict[str, Any]
) -> tuple[list[LabelTree], list[LabelTree]]:
    """(the trees that learn from `rest`, these and those that learn from all points).

    They differ by their seed, and grow two at a time: much of the work is one thread's.
    """
    first = -(-count // 3)
    tallies: list[list[float]] = [[] for _ in range(count)]
    done = 0

    def one(number: int) -> LabelTree | None:
        if job.interrupt.ended:
            return None
        return label_tree.fit(
            (rest if number < first else points).draw(job.seed, number),
            seed=10 * job.seed + number,
            tally=tallies[number],
        )

    trees = []
    with ThreadPoolExecutor(2) as pool:
        for tree in pool.map(one, range(count)):
            done += 1
            job.progress("trees", done, count, "")
            if tree is not None:
                trees.append(tree)
    counts["trees"] = [(Svm().iterations, sum(tally)) for tally in tallies]
    return trees[:first], trees


def _closed_form(
    job: _Job, model: Model, points: Weighted, held_out: XmcData, counts: dict[str, Any]
) -> tuple[closed_form.Parts, dict[str, float]]:
    """Parts that need no training, and how much held-out points say that each counts."""
    if job.interrupt.ended:
        return {}, {}
    frequency = np.bincount(points.points.label_ids, minlength=model.num_labels)
    known = frequency > 0
    job.progress("closed form", 0, 1, "")
    parts = closed_form.fit(
        points,
        centroids=bool(frequency.sum() < job.preset.rare * known.sum()),
        label_names=model.about.label_names,
        feature_names=model.about.feature_names,
    )
    chosen = closed_form.choose(model, parts, held_out, known)
    counts["closed_form"] = closed_form.madds(points.points, parts)
    counts["chosen"] = chosen
    said = ", ".join(f"{kind} {value:g}" for kind, value in chosen.items()) or "none helps"
    job.progress("closed form", 1, 1, said)
    return parts, chosen


def _with_networks(
    job: _Job, model: Model, rest: Weighted, held_out: XmcData, counts: dict[str, Any]
) -> Model:
    """The model with weights that held-out points choose, and networks where they help."""
    options = Options(seed=job.seed)
    points = rest.points
    present = seen.few(points)
    points = points if present is None else seen.numbered(points, present)
    steps = job.preset.steps(points.num_points, options.batch_size)
    networks: list[network.Params] = []
    run: NetworkRun | None = None
    for number in range(NETWORKS):
        directory = job.place(f"network{number}")
        if run is None:
            more: dict[str, Any] = {"steps": steps, "directory": directory}
            run = NetworkRun(options, points, label_weights=rest.weights, **more)
        else:
            run = run.again(number, directory=directory)
        if job.resume and directory is not None and run.resume():
            step, total = run.clock.step, run.total_steps
            job.progress("network", step, total, f"resumed at step {step} of {total}")
        run.fit(interrupt=job.interrupt, progress=job.progress)
        networks.append(run.state.params)
        counts.setdefault("networks", []).append(run.costs())
        if job.on_network is not None:
            job.on_network(run)
        encoders, output, output_bias = over_all(
            network_parts(tuple(networks)), present, model.num_labels
        )
        model = dataclasses.replace(
            model, encoders=encoders, output=output, output_bias=output_bias
        )
        model = mixing.choose_weight(model, held_out)
        if job.interrupt.ended or not model.encoders or float(model.mix.weight) > LITTLE:
            break
    return model
