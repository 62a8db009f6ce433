"""Teaching a network whose labels share rows: hashing gives new labels theirs; it just learns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sparse_jax.data import XmcData
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.xmc.model import Model
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun
from sparse_jax.xmc.progress import Progress, silent

EPOCHS = 10
LEARNING_RATE = 3e-3  # its peak, as of a first training


def learn(
    model: Model,
    points: XmcData,
    *,
    seed: int,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
) -> Model:
    """The model after further steps of its network on some points.

    Args:
      model: with `buckets`, of all the points' labels and features.
      points: weighted; some on which it was trained before remind it of their labels.
      seed: of the samples.
      interrupt: ends it early; the model is then what it has become.
      progress: hears how it goes.
    """
    assert model.buckets is not None
    (encoder,) = model.encoders
    options = Options(
        hidden=model.output.shape[1],
        dtype=str(model.output.dtype),
        buckets=model.buckets.size,
        repetitions=model.buckets.repetitions,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        seed=model.buckets.seed,  # the labels' rows are drawn by it
    )
    run = NetworkRun(options, points, begun=False)
    run.begin(jax.random.key(seed))
    given = {**encoder, "output": model.output, "output_bias": model.output_bias}
    given = {name: jnp.copy(x) for name, x in given.items()}  # a step takes its arrays
    run.state = dataclasses.replace(run.state, params=given)
    run.fit(interrupt=interrupt, progress=progress)
    trained = run.state.params
    return dataclasses.replace(
        model,
        encoders=({name: trained[name] for name in encoder},),
        output=trained["output"],
        output_bias=trained["output_bias"],
    )
