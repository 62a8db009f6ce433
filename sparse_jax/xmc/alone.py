"""A model of one network, without the parts that a preset adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from sparse_jax.data import XmcData
from sparse_jax.data import weighting as weightings
from sparse_jax.data.weighting import Weighting
from sparse_jax.ops.mach import Buckets
from sparse_jax.runtime.arguments import check_whole
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc import checks, memory, wide
from sparse_jax.xmc.fit import assemble
from sparse_jax.xmc.model import About, Model
from sparse_jax.xmc.network import Params
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun
from sparse_jax.xmc.progress import Progress, silent


def fit_network(
    points: XmcData,
    *,
    buckets: int | None = None,
    repetitions: int | None = None,
    hidden: int = Options.hidden,
    epochs: int = Options.epochs,
    batch_size: int = Options.batch_size,
    learning_rate: float = Options.learning_rate,
    seed: int = 0,
    weighting: str = "auto",
    label_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    label_weights: np.ndarray | None = None,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
) -> Model:
    """Trains one network alone, for more labels than there is memory for what `fit` keeps of each.

    With `buckets` a label's row is the sum of one row of each of `repetitions` hashings: the output
    layer has repetitions * buckets rows however many labels there are.

    Args:
      points: training points, as they are read: not weighted.
      buckets: of each hashing, a power of two; None: each label has a row of its own.
      repetitions: hashings, where there are buckets; None: 4.
      hidden: width of the network.
      epochs: passes over the points.
      batch_size: points a step.
      learning_rate: of Adam, its peak, above 0; divided by the rows that a label has.
      seed: of weights, order and samples; one seed gives the same bits at any number of threads.
      weighting: as `fit` takes it, and the next three too.
      label_names: [N], for people.
      feature_names: [F], the word of each feature.
      label_weights: float32 [labels], one for each of `points.label_ids`.
      interrupt: ends the training early, at a time limit or Ctrl-C.
      progress: hears how it goes.

    Returns:
      A `Model`; its scores order labels but aren't calibrated.

    Raises:
      TypeError: if a size is no whole number.
      ValueError: if there is nothing to learn from, an argument is out of range or without effect,
        or names don't fit the data.

    Example:
      >>> points = XmcData(
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), np.ones(8, np.float32),
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), num_features=2, num_labels=2)
      >>> model = fit_network(points, buckets=4, repetitions=2)
      >>> model.num_labels, model.output.shape
      (2, (8, 128))

    Reference: Medini et al., "Extreme Classification in Log Memory using Count-Min Sketch" (2019),
    whose storage this is; `docs/mach.md` says how its training differs.
    """
    checks.check(points, "fast", seed, label_names, feature_names)
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate = {learning_rate}: must be above 0, and finite")
    if buckets is None and repetitions is not None:
        raise ValueError(f"repetitions = {repetitions}: no effect without buckets; give both")
    times = Options.repetitions if repetitions is None else repetitions
    options = Options(
        buckets=None if buckets is None else check_whole("buckets", buckets),
        repetitions=check_whole("repetitions", times),
        hidden=check_whole("hidden", hidden),
        epochs=check_whole("epochs", epochs),
        batch_size=check_whole("batch_size", batch_size),
        learning_rate=learning_rate,
        seed=seed,
    )
    chosen = weightings.fit(points, weighting)
    run = NetworkRun(options, weightings.apply(chosen, points), label_weights=label_weights)
    with interrupt or Interrupt() as asked:
        run.fit(interrupt=asked, progress=progress)
    return network_alone(run, points, chosen, label_names=label_names, feature_names=feature_names)


def network_alone(
    run: NetworkRun,
    points: XmcData,
    chosen: Weighting,
    *,
    label_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
) -> Model:
    """A model of one network, without linear parts; its scores order but aren't calibrated.

    Args:
      run: trained.
      points: its training points, as they are read.
      chosen: how its points were weighted.
      label_names: [N].
      feature_names: [F].
    """
    about = About(
        num_features=points.num_features,
        num_labels=points.num_labels,
        preset="network",
        seed=run.options.seed,
        label_names=None if label_names is None else tuple(label_names),
        feature_names=None if feature_names is None else tuple(feature_names),
        notes={"points": points.num_points, "calibrated": False},
    )
    kept = memory.keep(points, seed=run.options.seed)
    buckets = run.config.buckets
    return of_params(run.state.params, about, chosen=chosen, kept=kept, buckets=buckets)


def of_params(
    params: Params,
    about: About,
    *,
    chosen: Weighting,
    kept: memory.Memory,
    buckets: Buckets | None = None,
) -> Model:
    """The same of a network's tables, whoever trained them.

    Args:
      params: as `network.init_params` makes them.
      about: the model, with its sizes.
      chosen: how its points were weighted.
      kept: some of them.
      buckets: how labels share the output rows; the model then holds nothing of each label.
    """
    linear_labels = about.num_labels if buckets is None else 0
    linear = wide.zeros_like(
        wide.WideModel(
            jnp.zeros(about.num_features + 1, jnp.int32),
            *[jnp.zeros(0, jnp.int32)] * 3,
            *[jnp.zeros(linear_labels, jnp.float32)] * 2,
        )
    )
    idf = None if chosen.idf is None else jnp.asarray(chosen.idf)
    return dataclasses.replace(
        assemble(idf, linear, (), kept, dataclasses.replace(about, num_labels=linear_labels)),
        about=about,
        encoders=({"embedding": params["embedding"], "hidden_bias": params["hidden_bias"]},),
        output=params["output"],
        output_bias=params["output_bias"],
        buckets=buckets,
    )
