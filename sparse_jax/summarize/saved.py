"""Finished summarizers on disk, in the format of `runtime.saved`."""

from __future__ import annotations

import dataclasses
import os

import jax
import numpy as np

from sparse_jax.runtime import saved, trees
from sparse_jax.summarize import pointer
from sparse_jax.summarize.abstractive import Summarizer
from sparse_jax.summarize.words import Words

__all__ = ["KIND", "load", "save"]

KIND = "summarize"


def save(model: Summarizer, path: str | os.PathLike[str]) -> None:
    """Writes a summarizer into a directory; one that is there is replaced as a whole.

    Args:
      model: what to write.
      path: of the directory, made if missing.

    Raises:
      OSError: if it can't be written; the model that was there is then as it was.

    Example:
      >>> import tempfile
      >>> from sparse_jax import summarize
      >>> pairs = [(f"Tool {n} is a tool for {n} files.", f"tool for {n}") for n in "abc"] * 4
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     summarize.save(summarize.fit(pairs, epochs=1), folder)
      ...     len(summarize.load(folder).summarize(["A tool for b files."]))
      1
    """
    config = {
        "model": dataclasses.asdict(model.config),
        "forms": list(model.words.forms),
        "outputs": model.words.outputs,
        "buckets": model.words.buckets,
        "summaries": list(model.summaries),
        "way": model.way,
        "scores": model.scores,
    }
    arrays = trees.to_arrays(model.params)
    arrays["texts"] = np.concatenate(model.texts)
    arrays["sizes"] = np.array([text.size for text in model.texts], np.int64)
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def load(path: str | os.PathLike[str]) -> Summarizer:
    """Reads what `save` wrote; nothing is unpickled.

    Args:
      path: of the directory.

    Returns:
      A `Summarizer`, which writes what the saved one wrote.

    Raises:
      ValueError: if there is no model, it is of another kind or version, or it is damaged.

    Example:
      >>> load("no such folder")
      Traceback (most recent call last):
      ValueError: ...
    """
    about, arrays = saved.load(path, kind=KIND)
    try:
        config = pointer.Config(**about["model"])
    except TypeError as error:
        raise ValueError(f"{path} was saved by another version ({error}): train it anew") from None
    like = jax.eval_shape(lambda: pointer.init(jax.random.key(0), config=config))
    try:
        params = trees.from_arrays(arrays, like)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Summarizer(
        config,
        Words(tuple(about["forms"]), about["outputs"], about["buckets"]),
        params,
        tuple(np.split(arrays["texts"], np.cumsum(arrays["sizes"])[:-1])),
        tuple(about["summaries"]),
        about["way"],
        about["scores"],
    )
