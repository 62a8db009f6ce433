"""Training a classifier: the linear part, trees over the labels, networks, and their mix."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data.weighting import apply as apply_weighting
from sparse_jax.data.weighting import fit as weighting_of
from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.trees import owned
from sparse_jax.xmc import (
    accounting,
    calibration,
    closed_form,
    copies,
    linear_parts,
    memory,
    mixing,
    neighbours,
    network,
    seen,
    soft_labels,
    wide,
)
from sparse_jax.xmc.checks import check
from sparse_jax.xmc.crew import Crew, Parts, bring_together
from sparse_jax.xmc.linear_parts import Job
from sparse_jax.xmc.model import About, Model, network_parts, over_all
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun
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
    model = fit_by(
        Crew(),
        points,
        preset=preset,
        seed=seed,
        weighting=weighting,
        label_names=label_names,
        feature_names=feature_names,
        label_weights=label_weights,
        checkpoint_directory=checkpoint_directory,
        resume=resume,
        interrupt=interrupt,
        progress=progress,
        on_network=on_network,
    )
    assert model is not None
    return model


def fit_by(
    crew: Crew,
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
) -> Model | None:
    """See `fit` and `together.fit_together`."""
    recipe = check(points, preset, seed, label_names, feature_names)
    interrupt = interrupt or Interrupt()
    started = time.perf_counter()
    chosen = weighting_of(points, weighting)
    weights = soft_labels.check(points, label_weights)
    whole = Weighted(apply_weighting(chosen, points), weights)
    held, rest = _hold_out(whole, recipe.held_out, seed)
    held_out = held.draw(seed, _HELD_OUT)
    job = Job(recipe, seed, checkpoint_directory, resume, interrupt, progress, on_network, crew)
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
        trained = _train(job, whole, rest, held_out, counts)
        if trained is None:
            return None
        model = _mix(job, trained, idf, rest, held_out, kept, about, counts)
        if model.neighbours is not None:  # held-out points among them
            model = dataclasses.replace(model, neighbours=neighbours.over(model.neighbours, whole))
    notes = {
        "points": points.num_points,
        "train_seconds": round(time.perf_counter() - started, 3),
        **({"stopped_early": True} if trained.ended or interrupt.ended else {}),
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


class _Trained(NamedTuple):
    """Parts of all processes."""

    parts: Parts
    first: list[LabelTree]  # trees that learn from points that are not held out
    trees: list[LabelTree]  # all
    redundant: bool  # most points have near copies
    ended: bool  # early, on some process


def _train(
    job: Job, points: Weighted, rest: Weighted, held_out: XmcData, counts: dict[str, Any]
) -> _Trained | None:
    """All processes' parts on the first one.

    The wide part sees held-out points in its last epoch alone, and so do all trees but the first
    ones, which stand for all while weights are chosen: to hold them out to the end costs .2 to .5
    points of P@1 on small sets, and 1.2 where a label is seen only a few times. Networks never see
    them.
    """
    crew = job.crew
    owners = crew.owners(points)
    before, linear = linear_parts.fit_wide_twice(job, points, rest, owners, counts)
    # The points are looked at only where that could buy trees.
    usual = job.preset.trees(points.points)
    more = job.preset.trees(points.points, with_copies=True)
    redundant = not usual and more > 0 and copies.are_usual(held_out, rest.points)
    count = more if redundant else usual
    trees = linear_parts.fit_trees(job, count, rest, points)
    trained = None
    if job.preset.visits and crew.count > 1 and crew.network(0) == crew.process:
        run = _network(job, None, 0, rest)
        trained = run.state.params, run.costs()
    ended = crew.has_ended("training ended", job.interrupt.ended)
    parts = bring_together(crew, Parts(before, linear, trees, trained), owners)
    if parts is None:
        return None
    counts["wide"] = (counts["wide"][0], np.diff(np.asarray(parts.linear.offsets)))
    counts["trees"] = linear_parts.tree_counts([each for _, each in parts.trees.values()])
    grown = {number: parts.trees[number][0] for number in sorted(parts.trees)}
    first = [tree for n, tree in grown.items() if n < linear_parts.first_trees(count)]
    return _Trained(parts, first, list(grown.values()), redundant, ended)


def _mix(
    job: Job,
    trained: _Trained,
    idf: jax.Array | None,
    rest: Weighted,
    held_out: XmcData,
    kept: memory.Memory,
    about: About,
    counts: dict[str, Any],
) -> Model:
    """The model: parts weighed and calibrated as they were before the held-out points."""
    parts, first = trained.parts, trained.first
    early = assemble(idf, parts.before, first, kept, about)
    added: closed_form.Parts = {}
    chosen: dict[str, float] = {}
    if not (trained.ended or job.interrupt.ended) and held_out.num_points:
        if first and (trained.redundant or job.preset.visits):
            early = mixing.choose_tree_weight(early, held_out)
        if job.preset.visits:
            early = _with_networks(job, early, rest, held_out, counts, parts.network)
        added, chosen = _closed_form(job, early, rest, held_out, counts)
    early = closed_form.add(early, added, chosen)
    if not (trained.ended or job.interrupt.ended):
        job.progress("neighbours", 0, 1, "")
        early = neighbours.choose(early, rest, held_out)
        near = early.neighbours
        said = "none help" if near is None else f"at {float(near.weight):g}"
        job.progress("neighbours", 1, 1, said)
    early = mixing.calibrate(early, held_out)
    whole = assemble(idf, parts.linear, trained.trees if early.trees else [], kept, about)
    model = closed_form.add(whole, added, chosen)
    return dataclasses.replace(
        model,
        encoders=early.encoders,
        output=early.output,
        output_bias=early.output_bias,
        mix=early.mix,
        neighbours=early.neighbours,
    )


def _hold_out(points: Weighted, most: int, seed: int) -> tuple[Weighted, Weighted]:
    """(held-out points, the rest)."""
    order = np.random.default_rng(seed).permutation(points.points.num_points)
    count = calibration.held_out(order.size, most)
    return points.take(np.sort(order[:count])), points.take(np.sort(order[count:]))


def _closed_form(
    job: Job, model: Model, points: Weighted, held_out: XmcData, counts: dict[str, Any]
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


def _network(job: Job, like: NetworkRun | None, number: int, rest: Weighted) -> NetworkRun:
    """A trained network; `like` is an earlier one, which compiles for all."""
    directory = job.place(f"network{number}")
    if like is None:
        options = Options(seed=job.seed)
        present = seen.few(rest.points)
        points = rest.points if present is None else seen.numbered(rest.points, present)
        steps = job.preset.steps(points.num_points, options.batch_size)
        more: dict[str, Any] = {"steps": steps, "directory": directory, "begun": number == 0}
        like = run = NetworkRun(options, points, label_weights=rest.weights, **more)
    if number:
        run = like.again(number, directory=directory)
    if job.resume and directory is not None and run.resume():
        step, total = run.clock.step, run.total_steps
        job.progress("network", step, total, f"resumed at step {step} of {total}")
    run.fit(interrupt=job.interrupt, progress=job.progress)
    if job.on_network is not None:
        job.on_network(run)
    return run


def _with_networks(
    job: Job,
    model: Model,
    rest: Weighted,
    held_out: XmcData,
    counts: dict[str, Any],
    trained: tuple[network.Params, dict[str, Any]] | None,
) -> Model:
    """The model with weights that held-out points choose, and networks where they help.

    `trained` is the first network, if another process has trained it.
    """
    present = seen.few(rest.points)
    networks: list[network.Params] = []
    run: NetworkRun | None = None
    for number in range(NETWORKS):
        if number or trained is None:
            run = _network(job, run, number, rest)
            params, costs = run.state.params, run.costs()
        else:
            params, costs = trained
        networks.append(params)
        counts.setdefault("networks", []).append(costs)
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
