"""Opening a kept language model."""

from __future__ import annotations

import sys
from pathlib import Path

from sparse_jax import lm
from sparse_jax.lm import arpa, ngram
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.runtime import checkpoint, saved


def load(directory: str, *, mapped: bool = True) -> LanguageModel:
    """A model of `lm train` or `lm preference`; mapped, as those want who only read it.

    Raises:
      ValueError: if there is none; it tells a run that has not ended from an empty directory.
    """
    try:
        return lm.load(directory, mapped=mapped)
    except ValueError as error:
        if "has no model.json" in str(error) and checkpoint.read_extra(directory) is not None:
            raise ValueError(
                f"{directory} holds a training run that has not ended: end it by `lm train` with "
                "the same text and options and --resume"
            ) from None
        raise


def load_ngram(path: str) -> ngram.NGram:
    """An n-gram model: an ARPA file, or what `lm arpa` made of one; tells what was odd about it.

    Raises:
      ValueError: if it is neither.
      OSError: if it can't be read.
    """
    model = ngram.load(path) if Path(path).is_dir() else arpa.read(path)
    for note in model.notes:
        print(f"note: {path}: {note}", file=sys.stderr)
    return model


def load_any(path: str) -> LanguageModel | ngram.NGram:
    """What scores sentences: a model of `load` or `load_ngram`.

    Raises:
      ValueError: if there is none.
      OSError: if it can't be read.
    """
    root = Path(path)
    if root.is_file():
        return load_ngram(path)
    if (root / saved.MANIFEST).exists() and saved.read_manifest(root)["kind"] == ngram.KIND:
        return load_ngram(path)
    return load(path)
