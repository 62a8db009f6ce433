"""A model of one network, as `train --strategy` makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from sparse_jax.data import XmcData
from sparse_jax.data.weighting import Weighting
from sparse_jax.ops.mach import Buckets
from sparse_jax.xmc import memory, wide
from sparse_jax.xmc.fit import assemble
from sparse_jax.xmc.model import About, Model
from sparse_jax.xmc.network import Params
from sparse_jax.xmc.network_run import NetworkRun


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
