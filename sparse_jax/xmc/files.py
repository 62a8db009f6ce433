"""A classifier on disk: what `Model` holds, in the one format of saved models."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.ops.mach import Buckets
from sparse_jax.ops.neighbours import Neighbours
from sparse_jax.runtime import saved
from sparse_jax.xmc.memory import Memory
from sparse_jax.xmc.model import About, Mix, Model
from sparse_jax.xmc.wide import WideModel

KIND = "xmc"


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a model into a directory, in the place of the one that may be there.

    Args:
      model: of `xmc.fit`.
      path: the directory, made if missing. A process killed at any moment leaves the model that
        was there, or this one.

    Raises:
      OSError: if it can't be written.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from sparse_jax import data, xmc
      >>> points = data.XmcData(
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), np.ones(8, np.float32),
      ...     np.arange(9), np.tile(np.array([0, 1], np.int32), 4), num_features=2, num_labels=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(xmc.fit(points), folder)
      ...     xmc.predict(load(folder), points, k=1).labels[:2].tolist()
      [[0], [1]]
    """
    config, arrays = to_saved(model)
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def to_saved(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON, arrays by name) of a model, for `runtime.saved`."""
    arrays: dict[str, Any] = {}
    if model.idf is not None:
        arrays["idf"] = model.idf
    arrays |= _fields("wide", model.wide)
    for number, tree in enumerate(model.trees):
        arrays |= _fields(f"tree{number}", tree)
    for number, params in enumerate(model.encoders):
        arrays |= {f"encoder{number}.{name}": x for name, x in params.items()}
    arrays |= {"by_bias": model.by_bias, "output": model.output, "output_bias": model.output_bias}
    arrays |= _fields("mix", model.mix) | _fields("memory", model.memory)
    if model.neighbours is not None:
        arrays |= _fields("near", model.neighbours)
    config = {
        "about": dataclasses.asdict(model.about),
        "tree_depths": [tree.depth for tree in model.trees],
        "networks": len(model.encoders),
    }
    if model.buckets is not None:
        config["buckets"] = dataclasses.asdict(model.buckets)
    return config, arrays


def load(path: str | os.PathLike[str]) -> Model:
    """Reads what `save` wrote; predictions are bit for bit those of the model saved.

    Args:
      path: the directory.

    Returns:
      A `Model`.

    Raises:
      ValueError: if there is no model, it is of another kind, or it is damaged.

    Example:
      >>> load("no such folder")
      Traceback (most recent call last):
      ValueError: ...
    """
    with saved.fitting(path):
        return from_saved(*saved.load(path, kind=KIND))


def from_saved(config: dict[str, Any], stored: dict[str, np.ndarray]) -> Model:
    """The model that `to_saved` was given; further arrays are not looked at."""
    arrays = {name: jnp.asarray(x) for name, x in stored.items()}
    about = dict(config["about"])
    for name in ("label_names", "feature_names"):
        about[name] = None if about[name] is None else tuple(about[name])
    trees = tuple(
        LabelTree(**_named(f"tree{number}", arrays), depth=depth)
        for number, depth in enumerate(config["tree_depths"])
    )
    near = _named("near", arrays)
    encoders = tuple(_named(f"encoder{n}", arrays) for n in range(config["networks"]))
    return Model(
        idf=arrays.get("idf"),
        wide=WideModel(**_named("wide", arrays)),
        by_bias=arrays["by_bias"],
        trees=trees,
        encoders=encoders,
        output=arrays["output"],
        output_bias=arrays["output_bias"],
        mix=Mix(**_named("mix", arrays)),
        memory=Memory(**_named("memory", arrays)),
        about=About(**about),
        neighbours=Neighbours(**near) if near else None,
        buckets=Buckets(**config["buckets"]) if "buckets" in config else None,
    )


def _fields(prefix: str, part: Any) -> dict[str, jax.Array]:
    """The arrays of a dataclass by name; static fields are left out."""
    found = {}
    for field in dataclasses.fields(part):
        if not field.metadata.get("static"):
            found[f"{prefix}.{field.name}"] = getattr(part, field.name)
    return found


def _named(prefix: str, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    start = prefix + "."
    return {name[len(start) :]: x for name, x in arrays.items() if name.startswith(start)}
